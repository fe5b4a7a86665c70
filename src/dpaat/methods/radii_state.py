"""A radius per sample, for the methods whose rule sets it directly."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.methods.base import Method, Visit
from dpaat.perturbation import first_of_equals


class SampleRadii(nn.Module):
    """Radius, last loss and visits of every training sample; buffers, so that they are saved with the model.

    Args:
        num_samples: N, the size of the training set; samples are numbered 0 to N - 1.
        eps: radius at the start.

    Attributes:
        eps: radii `(N,)` in pixel units of a [0, 1] image, float32.
        loss: last recorded losses `(N,)`, float32; 0 where not yet visited.
        visits: `(N,)`, int32.
        criterion: `(1,)`, float32; the threshold of a method that has one, else NaN.
    """

    eps: Tensor
    loss: Tensor
    visits: Tensor
    criterion: Tensor

    def __init__(self, num_samples: int, eps: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("eps", torch.full((num_samples,), float(eps)))
        self.register_buffer("loss", torch.zeros(num_samples))
        self.register_buffer("visits", torch.zeros(num_samples, dtype=torch.int32))
        self.register_buffer("criterion", torch.full((1,), torch.nan))

    @torch.no_grad()
    def record(self, index: Tensor, eps: Tensor, loss: Tensor) -> None:
        """Take the new radii and the losses of a mini-batch.

        An index that stands twice is recorded once, by its first row; a row that is not finite leaves all as it was.

        Args:
            index: numbers of the samples `(B,)`, integers.
            eps: their new radii `(B,)`.
            loss: their losses `(B,)`.
        """
        index, first = first_of_equals(index.to(self.eps.device))
        eps, loss = (values.to(self.eps)[first] for values in (eps, loss))
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
    """A method whose visit carries each sample's new radius as its signal, and a loss to be logged with it."""

    perturbation: SampleRadii

    @override
    def after_step(self, visit: Visit) -> None:
        assert visit.signal is not None
        assert visit.collect is not None
        self.perturbation.record(visit.index, visit.signal, visit.collect)
