from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dpaat.methods.base import AdversarialTraining, StepOutput
from dpaat.methods.options import option
from dpaat.methods.registry import register_method


@register_method(
    "taet",
    "clean first, then adversarial losses equalized over the classes",
    "Wang et al., CVPR 2025, arXiv 2503.01924",
)
class TAET(AdversarialTraining):
    """Two-stage adversarial equalization training (Wang et al., CVPR 2025, arXiv 2503.01924).

    A first stage learns clean images; from then on the objective is `harl` on adversarial ones. The losses are the
    run's loss to learn from; the paper's plain cross-entropy is that of `--imbalance none`. A clean weight mixes the
    same objective on the clean images in. With several processes, the classes are those of each one's part of the
    batch.

    AT-BSL (Yue et al., CVPR 2024, arXiv 2403.10073), which the paper compares with, needs no method of its own: it is
    `pgd` with `--imbalance balanced-softmax`.
    """

    first_stage: float = option(0.3, "[0, 1]")  #: share of the epochs that learn clean images only; the value is ours
    mean: float = option(0.1, "[0, inf)")  #: weight of the mean of the class losses
    deviation: float = option(0.1, "[0, inf)")  #: weight of their variance
    emphasis: float = option(0.1, "[0, inf)")  #: weight of their concentration
    clean_first = ("first_stage", 0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.clean_only = epoch < self.first_attack

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        return (self.clean_step if self.clean_only else super().forward)(model, index, x, y)

    @override
    def learn_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        weights = {"mean": self.mean, "deviation": self.deviation, "emphasis": self.emphasis}
        return harl(super().learn_loss(logits, y), y, self.context.num_classes, **weights).expand(len(y))


def harl(
    loss: Tensor, y: Tensor, num_classes: int, *, mean: float = 0.1, deviation: float = 0.1, emphasis: float = 0.1
) -> Tensor:
    r"""Hierarchical adversarial robust learning: one number from the class means $L_k$ of a batch's losses `(B,)`.

    $a\, \overline{L} + b\, \overline{(L_k - \overline{L})^2} + c \sum_k (L_k / \sum_j L_j)^2$, over the classes that
    the batch holds, with `mean` a, `deviation` b and `emphasis` c.

    Source: Wang et al. 2025: balanced cross-class, hierarchical deviation and rare class emphasis loss.
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
