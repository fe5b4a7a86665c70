import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.methods.base import AdversarialTraining
from dpaat.methods.options import option
from dpaat.methods.registry import register_method


@register_method("robustlt", "a radius per class, larger for rare ones", "Zhang et al., CVPR 2026, arXiv 2605.13395")
class RobustLT(AdversarialTraining):
    """Rebalance adversarial training by the perturbation (Zhang et al., CVPR 2026, arXiv 2605.13395).

    Fixed-radius training with the radii of `class_radii` times a linear ramp over the epochs, steps in proportion.
    It looks at class sizes, never at losses. The mean over the images is the run's radius, so rare classes exceed it.

    With `--imbalance balanced-softmax` it is built on AT-BSL (Yue et al., CVPR 2024, arXiv 2403.10073), which is
    `pgd` with that same option.
    """

    share: float = option(0.3, "[0, 1]")  #: a in the paper, how much of the radius the class size decides on
    ramp: float = option(0.8, "[0, 1]")  #: share of the epochs in which the radii grow from 0 to their full size
    radii: Tensor

    @override
    def setup(self) -> None:
        counts = torch.bincount(self.context.labels, minlength=self.context.num_classes)
        self.register_buffer("radii", class_radii(counts, self.context.eps, self.share), persistent=False)

    @override
    def begin_epoch(self, epoch: int) -> None:
        length = self.ramp * self.context.epochs
        self.reached = min(1.0, epoch / length) if length else 1.0

    @override
    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.pgd(model, x, y, self.reached * self.radii[y])


def class_radii(counts: Tensor, eps: float, share: float) -> Tensor:
    r"""Radii $\epsilon\, [(1 - a) + \tau \sqrt{\log(n_{max} / n_k)}]$ of the classes `(K,)`, float32.

    $\tau = a / \sum_k (n_k / N) \sqrt{\log(n_{max} / n_k)}$ keeps the mean over the images at eps. Classes of equal
    size all get eps.

    Args:
        counts: training images of each class `(K,)`; a class without any counts as one of 1.
        eps: mean radius.
        share: a.

    Source: Zhang et al. 2026.
    """
    rarity = (counts.max() / counts.clamp(min=1)).double().log().sqrt()
    spread = (counts * rarity).sum() / counts.sum()
    relative = rarity / spread if spread > 0 else torch.ones_like(rarity)
    return (eps * (1 - share + share * relative)).float()
