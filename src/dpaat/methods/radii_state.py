"""Per-sample radii of the methods whose rule sets them directly."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor
from typing_extensions import override

from dpaat.methods.base import Method, StepOutput
from dpaat.sample_state import SampleState


class SampleRadii(SampleState):
    """Per-sample radii that a method sets itself, with the losses that are logged beside them."""

    @torch.no_grad()
    def record(self, index: Tensor, eps: Tensor, loss: Tensor) -> None:
        """Take the new radii and the losses of a mini-batch.

        An index that stands twice is recorded once, by its first row; a row that is not finite leaves all as it was.

        Args:
            index: numbers of the samples `(B,)`, integers.
            eps: their new radii `(B,)`.
            loss: their losses `(B,)`.
        """
        index, eps, loss = self._rows(index, eps, loss)
        usable = torch.isfinite(eps) & torch.isfinite(loss)
        radii = self.recorded
        radii[index] = torch.where(usable, eps, radii[index])
        self.loss[index] = torch.where(usable, loss, self.loss[index])
        self.visits[index] = self.visits[index] + usable

    @property
    def recorded(self) -> Tensor:
        """The rows `(N,)` that new radii are written to."""
        return self.eps


class EpochRadii(SampleRadii):
    """Radii that stand still during an epoch: what is recorded in one takes effect in the next.

    Attributes:
        upcoming: radii of the next epoch `(N,)`; of several visits in one epoch the last counts.
    """

    upcoming: Tensor

    def __init__(self, num_samples: int, eps: float = 0.0) -> None:
        super().__init__(num_samples, eps)
        self.register_buffer("upcoming", self.eps.clone())

    @property
    @override
    def recorded(self) -> Tensor:
        return self.upcoming

    def begin_epoch(self) -> None:
        """Put the recorded radii into effect."""
        self.eps.copy_(self.upcoming)


class RadiiMethod(Method, ABC):
    """A method whose step yields each sample's new radius, "eps", and its "loss" for the log."""

    perturbation: SampleRadii

    @override
    def after_step(self, output: StepOutput) -> None:
        self.perturbation.record(output.index, output.rows["eps"], output.rows["loss"])
