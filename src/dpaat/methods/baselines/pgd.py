"""Adversarial training with one fixed radius."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd
from dpaat.methods.base import Method, StepOutput, mixed_loss
from dpaat.methods.registry import FIXED, register_method


@register_method(
    "pgd",
    "adversarial training with one fixed radius",
    reference="Madry et al., ICLR 2018, arXiv 1706.06083",
    eps=FIXED,
)
class PGDTraining(Method):
    """Minimize the loss on PGD examples of one radius for all (Madry et al. 2018, arXiv 1706.06083, eq. 2.1).

    With a clean weight, the objective mixes in the clean images: the simplest rival of any adaptive method.
    """

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        x_adv = pgd(model, x, y, eps=context.eps, steps=context.steps, norm=context.norm)
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)
