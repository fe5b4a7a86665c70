"""GAIRAT: images that an attack turns quickly weigh more."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.norms import make_ball
from dpaat.methods.base import Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.iterates import iterates
from dpaat.methods.registry import FIXED, register_method
from dpaat.ranges import Options, ranged


@dataclass(frozen=True)
class GAIRATOptions(Options):
    """Options of GAIRAT.

    Attributes:
        shift: Lambda in the paper; the smaller, the more the weight is concentrated on the quickly turned samples.
        start: share of the epochs in which all samples weigh the same, in [0, 1].
    """

    shift: float = -1.0
    start: float = ranged(0.5, "[0, 1]")


@register_method(
    "gairat",
    "images that an attack turns quickly weigh more",
    reference="Zhang et al., ICLR 2021, arXiv 2010.01736",
    eps=FIXED,
    options=GAIRATOptions(),
)
class GAIRAT(Method):
    """Weigh each sample by its closeness to the decision boundary (Zhang et al., ICLR 2021, arXiv 2010.01736).

    Closeness is measured by the steps that the training attack needs; the radius is the same for all. The weight is
    the sample's: with a clean weight, it holds for both of its views.
    """

    def __init__(self, context: MethodContext, options: GAIRATOptions) -> None:
        super().__init__(context)
        self.options = options
        self.begin_epoch(0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.weighting = epoch >= self.options.start * self.context.epochs

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        x_adv, kappa = pgd_with_kappa(model, x, y, eps=context.eps, steps=context.steps, norm=context.norm)
        if self.weighting:
            weight = geometry_weight(kappa, context.steps, self.options.shift)
            plain = context.learn_loss
            context = dataclasses.replace(context, learn_loss=lambda logits, y: weight * plain(logits, y))
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)


def pgd_with_kappa(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, norm: str = "linf"
) -> tuple[Tensor, Tensor]:
    """Projected gradient descent from `x`, and how many of the iterates before each step were still correct.

    Returns:
        Adversarial images `(B, C, H, W)`, and kappa `(B,)` from 0 to `steps`.

    Source:
        Zhang et al. 2021, algorithm 1 (GA-PGD).
    """
    x_adv = x
    kappa = torch.zeros_like(y)
    for iterate in iterates(model, x, y, ball=make_ball(norm, x, eps), steps=steps):
        kappa = kappa + (iterate.logits.argmax(1) == y)
        x_adv = iterate.after
    return x_adv, kappa


def geometry_weight(kappa: Tensor, steps: int, shift: float) -> Tensor:
    r"""Weights $(1 + \tanh(\Lambda + 5 (1 - 2 \kappa / K))) / 2$ of the samples `(B,)`, scaled to mean 1.

    Args:
        kappa: iterates that were still correct `(B,)`.
        steps: K.
        shift: Lambda.

    Source:
        Zhang et al. 2021, there omega, in its tanh form.
    """
    # (1 + tanh(a)) / 2 by its other name, which keeps its digits where tanh rounds to -1
    weight = torch.sigmoid(2 * (shift + 5 * (1 - 2 * kappa / steps)))
    return weight / weight.mean()
