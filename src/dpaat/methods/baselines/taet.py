"""TAET: clean training first, then adversarial losses that are made equal over the classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dpaat.attacks import pgd
from dpaat.methods.base import Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.registry import FIXED, register_method
from dpaat.ranges import Options, ranged


@dataclass(frozen=True)
class TAETOptions(Options):
    """Options of TAET.

    Attributes:
        first_stage: share of the epochs that learn clean images only, in [0, 1]; the value is ours.
        mean: weight of the mean of the class losses, at least 0.
        deviation: weight of their variance, at least 0.
        emphasis: weight of their concentration, at least 0.
    """

    first_stage: float = ranged(0.3, "[0, 1]")
    mean: float = ranged(0.1, "[0, inf)")
    deviation: float = ranged(0.1, "[0, inf)")
    emphasis: float = ranged(0.1, "[0, inf)")


@register_method(
    "taet",
    "clean first, then adversarial losses equalized over the classes",
    reference="Wang et al., CVPR 2025, arXiv 2503.01924",
    eps=FIXED,
    options=TAETOptions(),
)
class TAET(Method):
    """Two-stage adversarial equalization training (Wang et al., CVPR 2025, arXiv 2503.01924).

    A first stage learns clean images; from then on the objective is `harl` on adversarial ones. The losses are the
    run's loss to learn from; the paper's plain cross-entropy is that of `--imbalance none`. A clean weight mixes the
    same objective on the clean images in. With several processes, the classes are those of each one's part of the
    batch.

    AT-BSL (Yue et al., CVPR 2024, arXiv 2403.10073), which the paper compares with, needs no method of its own: it is
    `pgd` with `--imbalance balanced-softmax`.
    """

    def __init__(self, context: MethodContext, options: TAETOptions) -> None:
        super().__init__(context)
        self.options = options
        self.begin_epoch(0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.first_stage = epoch < self.options.first_stage * self.context.epochs

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context, options = self.context, self.options
        if self.first_stage:
            logits = model(x)
            return StepOutput(context.learn_loss(logits, y).mean(), logits.detach(), index)
        x_adv = pgd(model, x, y, eps=context.eps, steps=context.steps, norm=context.norm)
        each = context.learn_loss

        def equalized(logits: Tensor, y: Tensor) -> Tensor:
            whole = harl(
                each(logits, y),
                y,
                context.num_classes,
                mean=options.mean,
                deviation=options.deviation,
                emphasis=options.emphasis,
            )
            return whole.expand(len(y))

        loss, logits, _ = mixed_loss(model, x, x_adv, y, dataclasses.replace(context, learn_loss=equalized))
        return StepOutput(loss, logits.detach(), index)


def harl(
    loss: Tensor, y: Tensor, num_classes: int, *, mean: float = 0.1, deviation: float = 0.1, emphasis: float = 0.1
) -> Tensor:
    r"""Hierarchical adversarial robust learning: one number from the class means $L_k$ of a batch's losses.

    $a\, \overline{L} + b\, \overline{(L_k - \overline{L})^2} + c \sum_k (L_k / \sum_j L_j)^2$, over the classes that
    the batch holds.

    Args:
        loss: per sample `(B,)`.
        y: labels `(B,)`.
        num_classes: K.
        mean: a.
        deviation: b.
        emphasis: c.

    Source:
        Wang et al. 2025: balanced cross-class, hierarchical deviation and rare class emphasis loss.
    """
    member = F.one_hot(y, num_classes).to(loss)
    count = member.sum(0)
    present = count > 0
    classes = present.sum()
    of_class = loss @ member / count.clamp(min=1)
    average = of_class.sum() / classes
    variance = ((of_class - average).square() * present).sum() / classes
    concentration = (of_class / of_class.sum().clamp(min=1e-12)).square().sum()
    return mean * average + deviation * variance + emphasis * concentration
