"""Search for the decision boundary, and the loss there."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode
from dpaat.methods.base import MethodContext

BISECTIONS = 10


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
