"""DART: the attack has to converge better from epoch to epoch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.norms import Ball, make_ball, widen
from dpaat.methods.base import Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.iterates import iterates
from dpaat.methods.registry import FIXED, register_method
from dpaat.ranges import Options, ranged


@dataclass(frozen=True)
class DARTOptions(Options):
    """Options of DART.

    Attributes:
        c_max: threshold of the stationarity in the first epoch, in units of the loss, at least 0.
        ramp: share of the epochs in which the threshold falls to 0, in (0, 1].
        weighting: none, as in the paper; or own-loss, each loss times its own value, as in the authors' code.
    """

    c_max: float = ranged(0.5, "[0, inf)")
    ramp: float = ranged(100 / 120, "(0, 1]")
    weighting: Literal["none", "own-loss"] = "none"


@register_method(
    "dart",
    "the attack has to converge better from epoch to epoch",
    reference="Wang et al., ICML 2019, arXiv 2112.08304",
    eps=FIXED,
    options=DARTOptions(),
)
class DART(Method):
    r"""Dynamic adversarial training (Wang et al., ICML 2019, arXiv 2112.08304, algorithm 1).

    A fixed radius, but each sample's attack ends where it is stationary enough: below
    $c_t = \max(0, c_{max} (1 - t / T'))$ in epoch t, from 0. Early epochs learn from unfinished attacks.
    """

    def __init__(self, context: MethodContext, options: DARTOptions) -> None:
        super().__init__(context)
        self.options = options
        self.begin_epoch(0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        passed = epoch / (self.options.ramp * self.context.epochs)
        self.threshold = max(0.0, self.options.c_max * (1 - passed))

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        x_adv = converging_pgd(
            model, x, y, eps=context.eps, steps=context.steps, threshold=self.threshold, norm=context.norm
        )
        if self.options.weighting == "own-loss":
            plain = context.learn_loss
            context = dataclasses.replace(context, learn_loss=lambda logits, y: _times_itself(plain(logits, y)))
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)


def converging_pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, threshold: float, norm: str = "linf"
) -> Tensor:
    """Projected gradient descent from `x`, each sample until its stationarity is at most `threshold`.

    The first step is always taken; the value decides on the later ones, from the gradient that they need anyway.

    Args:
        model: maps images in [0, 1] to logits.
        x: clean images `(B, C, H, W)` in [0, 1].
        y: labels `(B,)`.
        eps: radius.
        steps: most iterations K, at least 1.
        threshold: c_t, at least 0.
        norm: "linf" or "l2".
    """
    ball = make_ball(norm, x, eps)
    x_adv = x
    moving = torch.ones_like(y, dtype=torch.bool)
    for number, iterate in enumerate(iterates(model, x, y, ball=ball, steps=steps)):
        if number > 0:
            moving = moving & (stationarity(ball, iterate.image, iterate.gradient) > threshold)
        x_adv = torch.where(widen(moving, x), iterate.after, x_adv)
    return x_adv


def stationarity(ball: Ball, x_adv: Tensor, gradient: Tensor) -> Tensor:
    r"""First-order stationary condition $\max_{z \in B(x, \epsilon)} \langle z - x', g \rangle$ per sample `(B,)`.

    How much the linearized loss can still rise inside the ball, the box left aside: $\epsilon \|g\|_1 -
    \langle x' - x, g \rangle$ in Linf, and the same with $\|g\|_2$ in L2. 0 where the attack has converged.

    Source:
        Wang et al. 2019, there FOSC.
    """
    farthest = ball.eps * ball.direction(gradient)
    return ((farthest - (x_adv - ball.x)) * gradient).flatten(1).sum(1)


def _times_itself(loss: Tensor) -> Tensor:
    return loss.detach() * loss
