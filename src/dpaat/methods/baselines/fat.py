import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.norms import make_ball, widen
from dpaat.attacks.pgd import pgd_trajectory
from dpaat.methods.base import AdversarialTraining
from dpaat.methods.options import option
from dpaat.methods.registry import register_method


@register_method("fat", "the attack stops soon after it has succeeded", "Zhang et al., ICML 2020, arXiv 2002.11242")
class FAT(AdversarialTraining):
    """Learn from the least adversarial of the misclassified images (Zhang et al., ICML 2020, arXiv 2002.11242).

    A fixed radius, but an attack that ends at the sample's misclassified iterate number tau + 1 (algorithm 1,
    PGD-K-tau): in effect a radius per sample, without any memory. tau grows over the epochs: 0, 1, 2.
    """

    first_rise: float = option(50 / 120, "[0, 1]")  #: share of the epochs after which tau rises from 0 to 1
    second_rise: float = option(90 / 120, "[0, 1]")  #: share of the epochs after which tau rises by one more

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.tau = sum(epoch >= rise * self.context.epochs for rise in (self.first_rise, self.second_rise))

    @override
    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        context, x_adv, wrong = self.context, x, torch.zeros_like(y)
        for iterate in pgd_trajectory(model, x, y, ball=make_ball(context.norm, x, context.eps), steps=context.steps):
            wrong = wrong + (iterate.logits.argmax(1) != y)  # a correct iterate costs none of the tau steps
            x_adv = torch.where(widen(wrong <= self.tau, x), iterate.after, x_adv)
        return x_adv
