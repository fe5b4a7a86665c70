"""Adversarial training with one fixed radius."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd
from dpaat.methods.base import Method, Visit, learn


class PGDTraining(Method):
    """Minimize the loss on PGD examples of one radius for all (Madry et al. 2018, arXiv 1706.06083, eq. 2.1).

    With a clean weight, the objective mixes in the clean images: the simplest rival of any adaptive method.
    """

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        setting = self.setting
        x_adv = pgd(model, x, y, eps=setting.eps, steps=setting.steps, norm=setting.norm)
        loss, logits, _ = learn(model, x, x_adv, y, setting)
        return Visit(loss, logits.detach(), index)
