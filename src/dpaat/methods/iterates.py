"""The iterates of a training attack one by one, for the methods whose rule looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.attacks.losses import LossFunction, cross_entropy
from dpaat.attacks.norms import Ball


@dataclass(frozen=True)
class Iterate:
    """One step of projected gradient descent, all detached."""

    image: Tensor
    """Where the step starts `(B, C, H, W)`."""
    logits: Tensor
    """Logits there `(B, K)`."""
    gradient: Tensor
    """Gradient of each sample's loss there `(B, C, H, W)`."""
    after: Tensor
    """Where the step ends `(B, C, H, W)`."""


def iterates(
    model: nn.Module, first: Tensor, y: Tensor, *, ball: Ball, steps: int, loss: LossFunction = cross_entropy
) -> Iterator[Iterate]:
    """Climb as `pgd` does, with steps of 2.5 * eps / steps, and show every step; to be run to its end.

    All samples climb all steps, in eval mode, where none depends on another: a rule that stops a sample early keeps
    an earlier iterate of it instead. That costs the passes it might save, and spares the wait for the device that
    counting the samples still moving would need.

    Args:
        model: maps images in [0, 1] to logits; left exactly as found.
        first: where to start `(B, C, H, W)`, inside `ball`.
        y: labels `(B,)`.
        ball: the allowed images.
        steps: iterations K, at least 1.
        loss: what to raise, per sample.
    """
    alpha = ball.eps * (2.5 / steps)
    image = first
    with evaluation_mode(model):
        for _ in range(steps):
            gradient, logits = input_gradient(model, image, y, loss)
            after = ball.project_(image + alpha * ball.direction(gradient))
            yield Iterate(image, logits, gradient, after)
            image = after
