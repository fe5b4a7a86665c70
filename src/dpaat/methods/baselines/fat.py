"""Friendly adversarial training: the attack stops soon after it has succeeded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.norms import make_ball, widen
from dpaat.methods.base import Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.iterates import iterates
from dpaat.methods.registry import FIXED, register_method
from dpaat.ranges import Options, ranged


@dataclass(frozen=True)
class FATOptions(Options):
    """Options of FAT.

    Attributes:
        first_rise: share of the epochs after which tau rises from 0 to 1, in [0, 1].
        second_rise: share of the epochs after which tau rises by one more, in [0, 1].
    """

    first_rise: float = ranged(50 / 120, "[0, 1]")
    second_rise: float = ranged(90 / 120, "[0, 1]")


@register_method(
    "fat",
    "the attack stops soon after it has succeeded",
    reference="Zhang et al., ICML 2020, arXiv 2002.11242",
    eps=FIXED,
    options=FATOptions(),
)
class FAT(Method):
    """Learn from the least adversarial of the misclassified images (Zhang et al., ICML 2020, arXiv 2002.11242).

    A fixed radius, but an attack that ends at the sample's misclassified iterate number tau + 1: in effect a radius per
    sample, without any memory. tau grows over the epochs: 0, 1, 2.
    """

    def __init__(self, context: MethodContext, options: FATOptions) -> None:
        super().__init__(context)
        self.options = options
        self.begin_epoch(0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        rises = (self.options.first_rise, self.options.second_rise)
        self.tau = sum(epoch >= rise * self.context.epochs for rise in rises)

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        x_adv = early_stopped_pgd(model, x, y, eps=context.eps, steps=context.steps, tau=self.tau, norm=context.norm)
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)


def early_stopped_pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, tau: int, norm: str = "linf"
) -> Tensor:
    """Projected gradient descent from `x` that takes tau steps from misclassified iterates, and then stays.

    Args:
        model: maps images in [0, 1] to logits.
        x: clean images `(B, C, H, W)` in [0, 1].
        y: labels `(B,)`.
        eps: radius.
        steps: most iterations K, at least 1.
        tau: steps still taken from misclassified iterates, at least 0; a later correct iterate costs none.
        norm: "linf" or "l2".

    Source:
        Zhang et al. 2020, algorithm 1 (PGD-K-tau).
    """
    ball = make_ball(norm, x, eps)
    x_adv = x
    wrong = torch.zeros_like(y)
    for iterate in iterates(model, x, y, ball=ball, steps=steps):
        wrong = wrong + (iterate.logits.argmax(1) != y)
        x_adv = torch.where(widen(wrong <= tau, x), iterate.after, x_adv)
    return x_adv
