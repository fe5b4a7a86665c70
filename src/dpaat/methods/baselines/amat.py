from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.losses import cross_entropy
from dpaat.methods.base import StepOutput
from dpaat.methods.baselines.ima import DEFAULTS, IMA
from dpaat.methods.options import option
from dpaat.methods.registry import register_method


@register_method(
    "amat",
    "as ima, against a threshold from the run's clean losses",
    "after Ma, Liang 2022, arXiv 2206.01736",
    **DEFAULTS,
)
class AMAT(IMA):
    r"""Adaptive-margin adversarial training (Ma and Liang 2022, arXiv 2206.01736), our reading for classification.

    The paper segments and detects, so it replaces IMA's correctness by a loss below a threshold $\mu + z \sigma$ of
    the losses that ordinary training leaves on the training set. Here the run's own first epochs are that training:
    they learn clean images only, then the mean and the standard deviation of the last clean loss of each sample, a
    plain cross-entropy from the training pass, are taken once and for all. From then on a sample below the threshold
    is attacked; radii grow by eps_max / 10 in an epoch and never shrink, and $x_n$ of IMA's objective is where the
    loss meets the threshold.
    """

    z: float = option(2.0, "(-inf, inf)")  #: the threshold, in standard deviations of the clean losses above their mean
    #: share of the epochs, one at the least, that learn clean images only and yield the losses
    warmup: float = option(0.3, "[0, 1]")
    clean_first = ("warmup", 1)

    @override
    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        # Epochs before `adv_start` leave no losses here: one more yields them.
        self.warming = epoch < self.first_attack
        state = self.perturbation
        if not self.warming and state.criterion.isnan():
            losses = state.loss[state.visits > 0]
            state.criterion.fill_(losses.mean() + self.z * losses.std(correction=0))

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        if not self.warming:
            return super().forward(model, index, x, y)
        logits = model(x)
        return self.output(self.context.learn_loss(logits, y), logits, index, y, self.perturbation.eps[index])

    @override
    def holds(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y) <= self.perturbation.criterion

    @override
    def met(self, eps: Tensor, margin: Tensor) -> Tensor:
        return eps
