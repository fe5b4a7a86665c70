"""Adversarial weight perturbation: the training gradient is taken where a small change of the weights hurts most."""

import dataclasses
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from dpaat.methods import Method, StepOutput


def perturbed_step(
    method: Method, model: nn.Module, index: Tensor, x: Tensor, y: Tensor, *, gamma: float
) -> StepOutput:
    r"""Make a step whose loss has, for the weights $w$, the gradient of the objective at $w + v$, $v$ of share `gamma`.

    The method computes its objective twice, from the same adversarial images: at $w$, for `perturbed_weights`, and at
    $w + v$, to learn from. The attack belongs to the first time and meets the unperturbed network; the second time is
    given the same answers of it, and the same random numbers. So it costs one forward and backward pass of the views
    to learn from (3 F a view), whatever the attack, and as memory the answers: per attack step one gradient of the
    size of the batch.

    All but the loss is that of the unperturbed network: the logits, what the method's state is to see, and the
    running statistics of BatchNorm, which are updated once. The weights themselves are never touched. With several
    processes, each perturbs by the gradient of its own part of the batch. Other arguments as of `Method.forward`, which
    must change nothing but the model's buffers.

    Source: Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020, arXiv 2004.05884,
    section 4, with one step of the perturbation and the objective of the method; from the first step of the run on.
    """
    recorder = _Recorder(model)
    with torch.random.fork_rng([] if x.device.type == "cpu" else [x.device], device_type=x.device.type):
        first: StepOutput = method(recorder, index, x, y)
    # The sum over the batch: a mean divides the gradient by B, which half precision flushes to zero.
    weights = perturbed_weights(model, first.loss * len(y), gamma)
    again: StepOutput = method(_Player(model, weights, recorder.answers), index, x, y)
    assert not recorder.answers, "the method asked the network less the second time"
    return dataclasses.replace(first, loss=again.loss)


def perturbed_weights(model: nn.Module, loss: Tensor, gamma: float) -> dict[str, Tensor]:
    r"""The weights $w + v$ with $v = \gamma \|w\|\, g / \|g\|$ for every weight tensor, $g$ the gradient of the loss.

    Norms and biases, all tensors of one dimension, stay as they are, as in the authors' code; so do frozen weights and
    those with $g = 0$. Each tensor returned, by its name in the model, has the identity as its derivative for the
    weight. The graph of the loss is used up.

    Source: Wu et al. 2020, section 4: one step of the maximization, to the bound on each layer.
    """
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad and w.ndim > 1}
    gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    return {
        name: w + gamma * w.detach().norm() / g.norm().clamp(min=1e-12) * g
        for (name, w), g in zip(weights.items(), gradients, strict=True)
    }


class _Recorder(nn.Module):
    """The network, while everything that an attack gets from it is written down: logits and gradients, in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.answers: deque[Tensor] = deque()

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        if not self.model.training:
            self.answers.append(logits.detach())
            if x.requires_grad:
                x.register_hook(self.answers.append)
        return logits


class _Player(nn.Module):
    """The network at other weights to learn from, and at the old ones, by their recorded answers, to attack."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor], answers: deque[Tensor]) -> None:
        super().__init__()
        self.model, self.weights, self.answers = model, weights, answers

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.model.training:
            # BatchNorm writes its running statistics into the copies.
            buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            return functional_call(self.model, {**self.weights, **buffers}, (x,))  # type: ignore[no-any-return]
        return _Recorded.apply(x, self.answers)  # type: ignore[no-any-return]


class _Recorded(torch.autograd.Function):
    """Recorded logits, whose derivative for the input is the recorded gradient, whatever the loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, answers: deque[Tensor]) -> Tensor:
        ctx.answers = answers
        return answers.popleft()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, None]:
        return ctx.answers.popleft(), None
