"""Input gradients, with the model left as found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpaat.attacks.losses import LossFunction, sample_losses


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and give each back its own mode afterwards.

    A plain `model.train()` at the end would also unfreeze the BatchNorm layers that the caller had frozen.
    """
    found = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in found:
            module.training = False
        yield
    finally:
        for module, training in found:
            module.training = training


def input_gradient(
    model: nn.Module | Callable[[Tensor], Tensor], x: Tensor, y: Tensor, loss: LossFunction
) -> tuple[Tensor, Tensor]:
    """Gradient of each sample's loss for its own input, and the logits that were computed on the way.

    The losses are summed, not averaged: a mean divides the gradient by B, which half precision flushes to zero.
    `torch.autograd.grad` for the input alone leaves the parameters' `.grad` untouched and computes none. Both results,
    `(B, C, H, W)` and `(B, K)`, are detached.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        (gradient,) = torch.autograd.grad(sample_losses(loss, logits, y).sum(), x)
    return gradient, logits.detach()
