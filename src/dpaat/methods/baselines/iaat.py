"""IAAT: a sample's radius follows whether it withstands a slightly larger one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd, pgd_with_clean_logits
from dpaat.attacks.losses import cross_entropy
from dpaat.attacks.norms import widen
from dpaat.methods.base import MethodContext, StepOutput, mixed_loss
from dpaat.methods.boundary import score
from dpaat.methods.radii_state import RadiiMethod, SampleRadii
from dpaat.methods.registry import LARGEST, Cost, register_method
from dpaat.radii import check_radius
from dpaat.ranges import Options, ranged


@dataclass(frozen=True)
class IAATOptions(Options):
    """Options of IAAT.

    Attributes:
        gamma: how much larger the radius is that a sample has to withstand, in pixel units, above 0.
        beta: weight of the new radius against the old one, in (0, 1].
        warmup: share of the epochs in which samples that are right get the whole radius and the others none, in
            [0, 1]; the authors take 10 epochs.
    """

    gamma: float = ranged(1.9 / 255, "(0, inf)")
    beta: float = ranged(0.1, "(0, 1]")
    warmup: float = ranged(0.05, "[0, 1]")


@register_method(
    "iaat",
    "a radius per sample, by whether it withstands a slightly larger one",
    reference="Balaji et al. 2019, arXiv 1910.08051",
    cost=Cost(6, 5),
    eps=LARGEST,
    moves_radius=True,
    options=IAATOptions(),
)
class IAAT(RadiiMethod):
    """Instance adaptive adversarial training (Balaji et al. 2019, arXiv 1910.08051, algorithms 1 and 2).

    Each step attacks three times: at the sample's radius, at gamma more, and at the new radius, to learn from. The
    attacks are those of fixed-radius training, in eval mode and from the clean image, whose logits they thus yield;
    the authors start at random and leave the network in train mode. They know no largest radius; here it is the
    run's, as for all methods.
    """

    def __init__(self, context: MethodContext, options: IAATOptions) -> None:
        super().__init__(context)
        check_radius(options.gamma, context.norm, name="gamma")
        self.options = options
        self.perturbation = SampleRadii(len(context.labels))
        self.begin_epoch(0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.warming = epoch < self.options.warmup * self.context.epochs

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        craft = self._warm if self.warming else self._adapt
        x_adv, eps = craft(model, self.perturbation.eps[index], x, y)
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        adversarial = logits.detach()
        return StepOutput(loss, adversarial, index, {"eps": eps, "loss": cross_entropy(adversarial, y)})

    def _warm(self, model: nn.Module, eps: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        context = self.context
        x_adv, clean = pgd_with_clean_logits(model, x, y, eps=context.eps, steps=context.steps, norm=context.norm)
        correct = clean.argmax(1) == y
        return torch.where(widen(correct, x), x_adv, x), context.eps * correct.to(eps)

    def _adapt(self, model: nn.Module, eps: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        context, options = self.context, self.options
        at_eps, clean = pgd_with_clean_logits(model, x, y, eps=eps, steps=context.steps, norm=context.norm)
        beyond = pgd(model, x, y, eps=eps + options.gamma, steps=context.steps, norm=context.norm)
        robust, robust_beyond = (score(model, torch.cat([at_eps, beyond])).argmax(1) == y.repeat(2)).chunk(2)
        eps = instance_radius(
            eps, clean.argmax(1) == y, robust, robust_beyond, gamma=options.gamma, beta=options.beta
        ).clamp(max=context.eps)
        return pgd(model, x, y, eps=eps, steps=context.steps, norm=context.norm), eps


def instance_radius(
    eps: Tensor, correct: Tensor, robust: Tensor, robust_beyond: Tensor, *, gamma: float, beta: float
) -> Tensor:
    r"""The new radii $(1 - \beta)\, \epsilon_i + \beta\, \epsilon'_i$ `(B,)`.

    $\epsilon'_i$ is $\epsilon_i + \gamma$ for a sample that withstands that radius, $\epsilon_i$ for one that
    withstands its own only, else $\epsilon_i - \gamma$, at least 0; and 0 for one that is wrong without an attack.

    Args:
        eps: the old radii `(B,)`.
        correct: whether the clean image is classified rightly `(B,)`.
        robust: whether the attacked one is, at eps `(B,)`.
        robust_beyond: the same, at eps + gamma `(B,)`.
        gamma: width of the trial.
        beta: weight of the new radius.
    """
    trial = eps + gamma * torch.where(robust_beyond, 1.0, torch.where(robust, 0.0, -1.0))
    return beta * (trial.clamp(min=0) * correct) + (1 - beta) * eps
