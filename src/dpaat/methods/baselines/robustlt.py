"""RobustLT: a radius per class, the larger the rarer the class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd
from dpaat.methods.base import Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.registry import FIXED, register_method
from dpaat.ranges import Options, ranged


@dataclass(frozen=True)
class RobustLTOptions(Options):
    """Options of RobustLT.

    Attributes:
        share: a in the paper, how much of the radius the class size decides on, in [0, 1].
        ramp: share of the epochs in which the radii grow from 0 to their full size, in [0, 1].
    """

    share: float = ranged(0.3, "[0, 1]")
    ramp: float = ranged(0.8, "[0, 1]")


@register_method(
    "robustlt",
    "a radius per class, larger for rare ones",
    reference="Zhang et al., CVPR 2026, arXiv 2605.13395",
    eps=FIXED,
    options=RobustLTOptions(),
)
class RobustLT(Method):
    """Rebalance adversarial training by the perturbation (Zhang et al., CVPR 2026, arXiv 2605.13395).

    Fixed-radius training with the radii of `class_radii` times a linear ramp over the epochs, steps in proportion.
    It looks at class sizes, never at losses. The mean over the images is the run's radius, so rare classes exceed it.

    With `--imbalance balanced-softmax` it stands on AT-BSL (Yue et al., CVPR 2024, arXiv 2403.10073), which is `pgd`
    with that same option.
    """

    radii: Tensor

    def __init__(self, context: MethodContext, options: RobustLTOptions) -> None:
        super().__init__(context)
        self.options = options
        counts = torch.bincount(context.labels, minlength=context.num_classes)
        self.register_buffer("radii", class_radii(counts, context.eps, options.share), persistent=False)
        self.begin_epoch(0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        length = self.options.ramp * self.context.epochs
        self.reached = min(1.0, epoch / length) if length else 1.0

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        x_adv = pgd(model, x, y, eps=self.reached * self.radii[y], steps=context.steps, norm=context.norm)
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)


def class_radii(counts: Tensor, eps: float, share: float) -> Tensor:
    r"""Radii $\epsilon\, [(1 - a) + \tau \sqrt{\log(n_{max} / n_k)}]$ of the classes `(K,)`, float32.

    $\tau = a / \sum_k (n_k / N) \sqrt{\log(n_{max} / n_k)}$ keeps the mean over the images at eps. Classes of equal
    size all get eps.

    Args:
        counts: training images of each class `(K,)`; a class without any counts as one of 1.
        eps: mean radius.
        share: a.

    Source:
        Zhang et al. 2026.
    """
    rarity = (counts.max() / counts.clamp(min=1)).double().log().sqrt()
    spread = (counts * rarity).sum() / counts.sum()
    relative = rarity / spread if spread > 0 else torch.ones_like(rarity)
    return (eps * (1 - share + share * relative)).float()
