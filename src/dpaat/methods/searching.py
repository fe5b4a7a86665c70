"""What the attacks of several rivals are made of: the iterates one by one, and the way to the decision boundary."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.attacks.losses import LossFunction, cross_entropy
from dpaat.attacks.norms import Ball
from dpaat.methods.base import MethodContext

BISECTIONS = 10


class Iterate(NamedTuple):
    """One step of projected gradient descent, detached: image, logits and gradient at its start, image at its end."""

    image: Tensor
    logits: Tensor
    gradient: Tensor
    after: Tensor


def iterates(
    model: nn.Module, first: Tensor, y: Tensor, *, ball: Ball, steps: int, loss: LossFunction = cross_entropy
) -> Iterator[Iterate]:
    """Climb from `first` as `pgd` does, with steps of 2.5 * eps / steps, and show every step; to be run to its end.

    All samples climb all steps, in eval mode, where none depends on another: a rule that stops a sample early keeps
    an earlier iterate of it instead. That costs the passes it might save, and spares the wait for the device that
    counting the samples still moving would need.
    """
    alpha = ball.eps * (2.5 / steps)
    image = first
    with evaluation_mode(model):
        for _ in range(steps):
            gradient, logits = input_gradient(model, image, y, loss)
            after = ball.project_(image + alpha * ball.direction(gradient))
            yield Iterate(image, logits, gradient, after)
            image = after


def score(model: nn.Module, x: Tensor) -> Tensor:
    """Logits `(B, K)` in eval mode, without gradients; the model is left exactly as found."""
    with evaluation_mode(model), torch.no_grad():
        logits: Tensor = model(x)
    return logits


def bisect(crossed: Callable[[Tensor], Tensor], far: Tensor) -> tuple[Tensor, Tensor]:
    """Enclose where each sample has `crossed` over between 0 and `far` `(B,)`, in 10 forward passes.

    Returns the last value on this side and the first one beyond, each `(B,)`, `far` / 1024 apart.
    """
    near = torch.zeros_like(far)
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        beyond = crossed(middle)
        near, far = torch.where(beyond, near, middle), torch.where(beyond, middle, far)
    return near, far


def margin_loss(
    model: nn.Module, x: Tensor, at_margin: Tensor, y: Tensor, counted: Tensor, beta: float, context: MethodContext
) -> tuple[Tensor, Tensor]:
    """Loss `(B,)` (1 - beta) * loss(x) + beta * loss(at_margin), the latter of the counted, and its logits `(B, K)`."""
    clean, adversarial = model(torch.cat([x, at_margin])).chunk(2)
    on_adversarial = context.with_teacher(context.learn_loss(adversarial, y), adversarial, x)
    return (1 - beta) * context.learn_loss(clean, y) + beta * counted * on_adversarial, adversarial
