"""AMAT: a sample's radius grows as long as its loss under attack stays below a threshold from the run itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.losses import cross_entropy
from dpaat.methods.base import MethodContext, StepOutput
from dpaat.methods.baselines.ima import IMA, IMAOptions
from dpaat.methods.registry import LARGEST, Cost, register_method
from dpaat.ranges import ranged


@dataclass(frozen=True)
class AMATOptions(IMAOptions):
    """Options of AMAT: those of IMA, and of the threshold.

    Attributes:
        z: the threshold, in standard deviations of the clean losses above their mean.
        warmup: share of the epochs, one at the least, that learn clean images only and yield the losses, in [0, 1].
    """

    z: float = 2.0
    warmup: float = ranged(0.3, "[0, 1]")


@register_method(
    "amat",
    "as ima, against a threshold from the run's clean losses",
    reference="after Ma, Liang 2022, arXiv 2206.01736",
    cost=Cost(2, 17, views=2),
    eps=LARGEST,
    moves_radius=True,
    options=AMATOptions(),
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

    def __init__(self, context: MethodContext, options: AMATOptions) -> None:
        super().__init__(context, options)
        # Epochs before `adv_start` leave no losses here: one more yields them.
        self.z, self.warmup = options.z, max(context.first_attack + 1.0, options.warmup * context.epochs)
        self.begin_epoch(0)

    @override
    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.warming = epoch < self.warmup
        state = self.perturbation
        if not self.warming and state.criterion.isnan():
            losses = state.loss[state.visits > 0]
            state.criterion.fill_(losses.mean() + self.z * losses.std(correction=0))

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        if not self.warming:
            return super().forward(model, index, x, y)
        logits = model(x)
        clean = logits.detach()
        loss = self.context.learn_loss(logits, y).mean()
        return StepOutput(loss, clean, index, {"eps": self.perturbation.eps[index], "loss": cross_entropy(clean, y)})

    @override
    def holds(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y) <= self.perturbation.criterion

    @override
    def met(self, eps: Tensor, margin: Tensor) -> Tensor:
        return eps
