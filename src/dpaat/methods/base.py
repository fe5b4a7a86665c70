"""What every training method is: one objective, and perhaps a state of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LearnLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits `(B, K)` and labels `(B,)` to the loss to learn from, per sample `(B,)`, class imbalance treated."""


@dataclass(frozen=True)
class Setting:
    """What a method is told about the run it serves."""

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


@dataclass(frozen=True)
class Visit:
    """What one mini-batch yields."""

    loss: Tensor
    """The objective, a scalar to call `backward` on."""
    logits: Tensor
    """Logits `(B, K)` of the view that was learned from, detached."""
    index: Tensor
    """Numbers of the samples `(B,)`."""
    signal: Tensor | None = None
    """What the method's state is to see of each sample `(B,)`, detached."""
    collect: Tensor | None = None
    """What is to be collected instead of the signal `(B,)`, detached."""


class Method(nn.Module, ABC):
    """One training objective; its state, if any, is made of buffers, so that it is saved with the model."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    @abstractmethod
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        """Compute the objective of a mini-batch; the caller does the backward pass and the optimizer step.

        Args:
            model: maps images in [0, 1] to logits, in train mode.
            index: numbers of the samples in the training set `(B,)`.
            x: augmented images `(B, C, H, W)` in [0, 1].
            y: labels `(B,)`.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Let the method know the epoch, from 0; called before its first step, also on resuming."""

    def after_step(self, visit: Visit) -> None:
        """Let the method's state see the visit; with several processes, the visit of all of them together."""


def learn(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, setting: Setting
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Objective on adversarial images, mixed with the clean ones: (1 - w) * loss(x_adv) + w * loss(x).

    Both halves go through the network together, so that BatchNorm sees one distribution and the step is one
    forward and backward pass.

    Returns:
        The scalar objective, the adversarial logits `(B, K)`, and the clean ones or None where w = 0.
    """
    weight = setting.clean_weight
    if weight == 0:
        logits = model(x_adv)
        return setting.learn_loss(logits, y).mean(), logits, None
    clean, adversarial = model(torch.cat([x, x_adv])).chunk(2)
    loss = (1 - weight) * setting.learn_loss(adversarial, y) + weight * setting.learn_loss(clean, y)
    return loss.mean(), adversarial, clean
