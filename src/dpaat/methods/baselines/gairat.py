import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.norms import make_ball
from dpaat.attacks.pgd import pgd_trajectory
from dpaat.methods.base import AdversarialTraining
from dpaat.methods.options import option
from dpaat.methods.registry import register_method


@register_method(
    "gairat", "images that an attack turns quickly weigh more", "Zhang et al., ICLR 2021, arXiv 2010.01736"
)
class GAIRAT(AdversarialTraining):
    """Weigh each sample by its closeness to the decision boundary (Zhang et al., ICLR 2021, arXiv 2010.01736).

    Closeness is measured by the steps that the training attack needs (algorithm 1, GA-PGD): kappa, the number of
    iterates before a step that are still correct. The radius is the same for all. The weight is the sample's: with a
    clean weight, it holds for both of its views.
    """

    #: Lambda in the paper; the smaller, the more the weight is concentrated on the quickly turned samples
    shift: float = option(-1.0, "(-inf, inf)")
    start: float = option(0.5, "[0, 1]")  #: share of the epochs in which all samples weigh the same
    _weight: Tensor | None = None

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.weighting = epoch >= self.start * self.context.epochs

    @override
    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        context, x_adv, kappa = self.context, x, torch.zeros_like(y)
        for iterate in pgd_trajectory(model, x, y, ball=make_ball(context.norm, x, context.eps), steps=context.steps):
            kappa = kappa + (iterate.logits.argmax(1) == y)
            x_adv = iterate.after
        self._weight = geometry_weight(kappa, context.steps, self.shift) if self.weighting else None
        return x_adv

    @override
    def learn_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        loss = super().learn_loss(logits, y)
        return loss if self._weight is None else self._weight * loss


def geometry_weight(kappa: Tensor, steps: int, shift: float) -> Tensor:
    r"""Weights $(1 + \tanh(\Lambda + 5 (1 - 2 \kappa / K))) / 2$ of the samples `(B,)`, scaled to mean 1.

    Source: Zhang et al. 2021, there omega, in its tanh form.
    """
    # (1 + tanh(a)) / 2 by its other name, which keeps its digits where tanh rounds to -1
    weight = torch.sigmoid(2 * (shift + 5 * (1 - 2 * kappa / steps)))
    return weight / weight.mean()
