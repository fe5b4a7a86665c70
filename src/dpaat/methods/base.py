"""Training method: base class, the run it serves, and the loss on clean and adversarial views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dpaat.methods.teacher import SelfTeacher
from dpaat.sample_state import SampleState

LearnLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits `(B, K)` and labels `(B,)` to the loss to learn from, per sample `(B,)`, class imbalance treated."""


@dataclass(frozen=True)
class MethodContext:
    """The run that a method serves."""

    labels: Tensor
    """Class of every training sample `(N,)`, int64."""
    num_classes: int
    epochs: int
    learn_loss: LearnLoss
    eps: float
    """Perturbation radius, in pixel units of a [0, 1] image; the largest one where a method moves it."""
    steps: int
    """Iterations of the training attack."""
    norm: str
    clean_weight: float
    """Share of the clean loss in the objective, in [0, 1]."""
    adv_start: float = 0.0
    """Share of the epochs, in [0, 1), that learn from clean images only."""
    teacher: SelfTeacher | None = None

    @property
    def first_attack(self) -> int:
        """The first epoch with attacks, from 0; the last one always has them."""
        return first_attack(self.adv_start, self.epochs)

    def with_teacher(self, loss: Tensor, logits: Tensor, x: Tensor) -> Tensor:
        """Mix the self-teacher's loss, if there is one, into a loss on adversarial views `(B,)`.

        Args:
            loss: of the adversarial views, per sample `(B,)`.
            logits: of the adversarial views `(B, K)`.
            x: the clean images `(B, C, H, W)`.
        """
        if self.teacher is None or not len(x):  # not every network takes an empty batch
            return loss
        return (1 - self.teacher.weight) * loss + self.teacher.weight * self.teacher.divergence(logits, x)


@dataclass(frozen=True)
class StepOutput:
    """Objective and outputs of one mini-batch."""

    loss: Tensor
    """The objective, a scalar to call `backward` on."""
    logits: Tensor
    """Logits `(B, K)` of the view that was learned from, detached."""
    index: Tensor
    """Numbers of the samples `(B,)`."""
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method's `after_step` is to see of each sample, by name, each `(B,)`, detached."""


class Method(nn.Module, ABC):
    """One training objective; its state, if any, is made of buffers, so that it is saved with the model."""

    perturbation: SampleState | None

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self.context = context
        self.perturbation = None
        self.teacher = context.teacher

    @abstractmethod
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        """Compute the objective of a mini-batch; the caller does the backward pass and the optimizer step.

        Args:
            model: maps images in [0, 1] to logits, in train mode.
            index: numbers of the samples in the training set `(B,)`.
            x: augmented images `(B, C, H, W)` in [0, 1].
            y: labels `(B,)`.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Let the method know the epoch, from 0; called before its first step, also on resuming."""

    def after_step(self, output: StepOutput) -> None:
        """Let the method's state see a step; with several processes, the step of all of them together."""


def first_attack(adv_start: float, epochs: int) -> int:
    """The first epoch with attacks, from 0, of a run whose share `adv_start` of the epochs learns from clean images."""
    return min(round(adv_start * epochs), epochs - 1)


class Standard(Method):
    """Standard training: the loss on clean images; the reference for accuracy."""

    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        """Compute the objective of a mini-batch."""
        logits = model(x)
        return StepOutput(self.context.learn_loss(logits, y).mean(), logits.detach(), index)


def mixed_loss(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, context: MethodContext
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss on adversarial images, mixed with the clean one: (1 - w) * loss(x_adv) + w * loss(x).

    Both halves go through the network together, so that BatchNorm sees one distribution and the step is one
    forward and backward pass.

    Returns:
        The scalar objective, the adversarial logits `(B, K)`, and the clean ones or None where w = 0.
    """
    weight = context.clean_weight
    if weight == 0:
        logits = model(x_adv)
        return context.with_teacher(context.learn_loss(logits, y), logits, x).mean(), logits, None
    clean, adversarial = model(torch.cat([x, x_adv])).chunk(2)
    on_adversarial = context.with_teacher(context.learn_loss(adversarial, y), adversarial, x)
    loss = (1 - weight) * on_adversarial + weight * context.learn_loss(clean, y)
    return loss.mean(), adversarial, clean
