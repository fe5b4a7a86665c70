"""Per-sample training state: one row of buffers for every training image, alike in all processes."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override


class SampleState(nn.Module):
    """Perturbation size, tracked loss and number of attacks of every training sample.

    Module buffers: they move with `.to(device)`, live in `state_dict()`, and stay float32 under `.half()`.

    Args:
        num_samples: N, the size of the training set; samples are numbered 0 to N - 1.
        eps: radius at the start.
        groups: number of thresholds.

    Attributes:
        eps: perturbation sizes `(N,)` in pixel units of a [0, 1] image, float32.
        loss: tracked losses `(N,)`, float32; 0 where not yet visited.
        visits: number of attacks so far `(N,)`, uint8; 255 for all beyond.
        criterion: thresholds `(groups,)`, float32; NaN where there is none.
    """

    eps: Tensor
    loss: Tensor
    visits: Tensor
    criterion: Tensor
    columns: tuple[int, ...] = ()
    """Shape of the losses of one sample: () or, with several labels, (K,)."""

    def __init__(self, num_samples: int, eps: float = 0.0, groups: int = 1) -> None:
        super().__init__()
        self.eps_init = float(eps)
        self.register_buffer("eps", torch.full((num_samples,), float(eps)))
        self.register_buffer("loss", torch.zeros(num_samples))
        self.register_buffer("visits", torch.zeros(num_samples, dtype=torch.uint8))
        self.register_buffer("criterion", torch.full((groups,), torch.nan))

    @override
    def extra_repr(self) -> str:
        sizes = " / ".join(f"{255 * float(size):.2f}" for size in (self.eps.min(), self.eps.mean(), self.eps.max()))
        moved = (self.eps != self.eps_init).float().mean()
        return f"{len(self.eps):,} samples, eps min / mean / max {sizes} of 255, {moved:.0%} moved"

    def _rows(self, index: Tensor, *columns: Tensor) -> list[Tensor]:
        """The index of a mini-batch in ascending order, and for every sample the values of its first row."""
        self._check(index, *columns)
        index, first = first_of_equals(index.to(self.eps.device).long())
        return [index, *(values.detach().to(self.eps)[first] for values in columns)]

    def counted(self, index: Tensor, usable: Tensor) -> Tensor:
        """Numbers of attacks of some samples `(B,)`, one more where a mini-batch is usable."""
        return (self.visits[index].int() + usable).clamp(max=255).to(self.visits)

    def _check(self, index: Tensor, *columns: Tensor) -> None:
        """Refuse a mini-batch that is none: TypeError for types, ValueError for shapes and an index beyond N."""
        kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
        if not isinstance(index, Tensor) or kind.is_floating_point or kind.is_complex or kind == torch.bool:
            raise TypeError(f"index must be a tensor of sample numbers (integers), not {kind}")
        for values in columns:
            if not isinstance(values, Tensor) or not values.is_floating_point():
                raise TypeError(f"losses must be floating tensors (B,), not {getattr(values, 'dtype', type(values))}")
            if index.ndim != 1 or values.shape != (*index.shape, *self.columns):
                wanted = "one shape (B,)" if not self.columns else f"the shapes (B,) and (B, {self.columns[0]})"
                found = f"{tuple(index.shape)} and {tuple(values.shape)}"
                raise ValueError(f"index and losses must have {wanted}, not {found}")
        if index.device.type == "cpu" and len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self.eps):
            found = f"{int(index.min())} to {int(index.max())}"
            raise ValueError(f"index must lie in 0 to {len(self.eps) - 1}, not {found}")

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if isinstance(found := state_dict.get(prefix + name), Tensor):
                found = found.clamp(max=255) if name == "visits" else found  # int32 before version 0.2
                state_dict[prefix + name] = found.to(buffer.dtype)  # also where `assign` takes it as it is
        super()._load_from_state_dict(state_dict, prefix, *args)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            if buffer.dtype != self._buffers[name].dtype:  # type: ignore[union-attr]
                self._buffers[name] = buffer.to(self._buffers[name].device)  # type: ignore[union-attr]
        return self


class SampleRadii(SampleState):
    """Per-sample radii that a method sets itself, with the losses that are logged beside them."""

    @torch.no_grad()
    def record(self, index: Tensor, eps: Tensor, loss: Tensor) -> None:
        """Take the new radii and the losses of a mini-batch, each `(B,)`.

        An index that is given twice is recorded once, by its first row; a row that is not finite leaves all as it was.
        """
        index, eps, loss = self._rows(index, eps, loss)
        usable = torch.isfinite(eps) & torch.isfinite(loss)
        for column, values in ((self.recorded, eps), (self.loss, loss)):
            column[index] = torch.where(usable, values, column[index])
        self.visits[index] = self.counted(index, usable)

    @property
    def recorded(self) -> Tensor:
        """The rows `(N,)` that new radii are written to."""
        return self.eps


class EpochRadii(SampleRadii):
    """Radii that are constant within an epoch: the last that is recorded of a sample takes effect in the next."""

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


def first_of_equals(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the index, and give every row the position of the first row with the same index.

    Equal rows then write equal values, in whatever order a device writes them.
    """
    ordered, position = index.sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    row = torch.arange(len(ordered), device=index.device)
    start = torch.where(is_first, row, 0).cummax(0).values
    return ordered, position[start]


def gather_rows(*columns: Tensor, device: torch.device) -> list[Tensor]:
    """Rows `(B, ...)` of all processes of `torch.distributed`, one process after the other, each with its own B."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return list(columns)
    size = torch.tensor([len(columns[0])], device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    most = max(int(each) for each in sizes)
    found = []
    for values in columns:
        padded = nn.functional.pad(values.detach().to(device), (0, 0) * (values.ndim - 1) + (0, most - len(values)))
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        found.append(torch.cat([part[: int(each)] for part, each in zip(parts, sizes, strict=True)]))
    return found
