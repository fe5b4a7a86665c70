"""The method: a perturbation size of its own for every training image, moved by a criterion that moves too.

S. Li, X. Ma, S. Jiang, L. Meng, "Dynamic Perturbation-Adaptive Adversarial Training on Medical Image
Classification", arXiv 2403.06798, gives the idea: adversarial training with adaptive data-level perturbations,
steered by a dynamically updated criterion from collected loss information, with no fixed size and nothing taken
from another model. The rules below are this package's own reading of it.

One visit of a mini-batch: craft x_adv inside eps_i, learn from it, and hand the per-sample losses to `update`:

    collect   loss_i <- the loss
    renew     tau_c  <- a statistic of the losses collected so far in class c, every so many visits
    adapt     loss_i <= tau_c: the network copes with sample i, eps_i grows; else it shrinks,
              and stays between eps_min and eps_max

The state never sees a model, and an update never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Statistic = Callable[[Tensor, Tensor, Tensor, int], Tensor]
UpdateRule = Callable[[Tensor, Tensor, Tensor], Tensor]
Schedule = Callable[[Tensor], Tensor]
Function = TypeVar("Function")


# --- the criterion: (values (N,), group (N,), counted (N,) bool, groups) -> tau (groups,), NaN where none counts


def mean(values: Tensor, group: Tensor, counted: Tensor, groups: int) -> Tensor:
    """Mean of the counted values in each group."""
    zeros = values.new_zeros(groups, dtype=torch.float64)
    total = zeros.index_add(0, group, torch.where(counted, values, 0).double())
    return (total / zeros.index_add(0, group, counted.double())).to(values.dtype)


def quantile(q: float) -> Statistic:
    """Make the statistic that takes the q-quantile of the counted values in each group, the lower of two neighbours."""

    def statistic(values: Tensor, group: Tensor, counted: Tensor, groups: int) -> Tensor:
        # Sorted by group and, within it, by value; uncounted values stand last. No shape depends on the data.
        order = torch.where(counted, values, torch.inf).argsort(stable=True)
        order = order[group[order].argsort(stable=True)]
        zeros = torch.zeros(groups, dtype=torch.long, device=values.device)
        size = zeros.index_add(0, group, torch.ones_like(group, dtype=torch.long))
        count = zeros.index_add(0, group, counted.long())
        rank = ((count - 1).clamp(min=0) * q).long()
        first = size.cumsum(0) - size
        chosen = values[order[(first + rank).clamp(max=len(values) - 1)]]
        return torch.where(count > 0, chosen, torch.nan)

    return statistic


STATISTICS: dict[str, Statistic] = {
    "mean": mean,
    "median": quantile(0.5),
    "quantile25": quantile(0.25),
    "quantile75": quantile(0.75),
}


# --- the update: (eps (B,), gap (B,), increment (B,)) -> new eps (B,); gap = (tau - signal) / |tau|, positive: copes


def additive(eps: Tensor, gap: Tensor, increment: Tensor) -> Tensor:
    """One increment up or down."""
    return eps + torch.where(gap >= 0, increment, -increment)


def multiplicative(eps: Tensor, gap: Tensor, increment: Tensor) -> Tensor:
    """Half as much again, or back; from half an increment upward, so that a size of 0 can recover."""
    return torch.maximum(eps, increment / 2) * torch.where(gap >= 0, 1.5, 1 / 1.5)


def proportional(eps: Tensor, gap: Tensor, increment: Tensor) -> Tensor:
    """As much of an increment as the gap tells, at most one."""
    return eps + increment * gap.clamp(-1, 1)


UPDATES: dict[str, UpdateRule] = {
    "additive": additive,
    "multiplicative": multiplicative,
    "proportional": proportional,
}


# --- the increment over a sample's life: (visits (B,), from 1) -> factor (B,)


def constant(visits: Tensor) -> Tensor:
    """The same increment at every visit."""
    return torch.ones_like(visits, dtype=torch.float32)


def inverse_sqrt(visits: Tensor) -> Tensor:
    """Large increments first, 1 / sqrt(visits) later, so that sizes settle."""
    return visits.float().rsqrt()


SCHEDULES: dict[str, Schedule] = {"constant": constant, "inverse_sqrt": inverse_sqrt}


class AdaptivePerturbation(nn.Module):
    """Perturbation size, collected loss and visits of every training sample.

    The rows are module buffers: they move with `.to(device)` and live in `state_dict()`, 12 bytes a sample, 14 with
    labels.

    Args:
        num_samples: N, the size of the training set; samples are numbered 0 to N - 1.
        eps_max: largest perturbation size, in pixel units of a [0, 1] image.
        labels: class of every sample `(N,)`, integers below `num_classes`; gives every class a criterion of its own.
            Without labels one criterion serves all, which on imbalanced data is that of the largest class.
        num_classes: K, needed with labels.
        eps_min: smallest perturbation size.
        eps_init: size at the start; default eps_max / 8, or eps_min if that is larger.
        increment: largest change in one visit; default eps_max / 8.
        statistic: what the criterion takes of the collected losses, a name in `STATISTICS`.
        update: how a size moves, a name in `UPDATES`.
        schedule: how the increment changes over a sample's visits, a name in `SCHEDULES`.
        warmup: visits of a sample that are collected only, before its size moves; 1 fills the collection first.
        loss_decay: weight of the old loss_i when a new one is collected, in [0, 1): an average over augmented views.
        momentum: weight of the old criterion when it is renewed, in [0, 1).
        renew_every: visits between two renewals of the criterion; default N / 50.

    Attributes:
        eps: perturbation sizes `(N,)`, float32.
        loss: collected losses `(N,)`, float32; 0 where not yet visited.
        visits: `(N,)`, int32.
        criterion: tau, `(K,)` or `(1,)`, float32; NaN where nothing has been collected.

    Raises:
        ValueError: an argument out of its range, naming it.
    """

    eps: Tensor
    loss: Tensor
    visits: Tensor
    criterion: Tensor
    labels: Tensor | None

    def __init__(
        self,
        num_samples: int,
        eps_max: float,
        *,
        labels: Tensor | None = None,
        num_classes: int = 1,
        eps_min: float = 0.0,
        eps_init: float | None = None,
        increment: float | None = None,
        statistic: str = "mean",
        update: str = "additive",
        schedule: str = "constant",
        warmup: int = 1,
        loss_decay: float = 0.0,
        momentum: float = 0.0,
        renew_every: int | None = None,
    ) -> None:
        super().__init__()
        eps_init = max(eps_max / 8, eps_min) if eps_init is None else eps_init
        _require(num_samples >= 1, "num_samples must be at least 1", num_samples)
        _require(eps_max > 0, "eps_max must be positive", eps_max)
        _require(0 <= eps_min <= eps_max, "eps_min must lie in [0, eps_max]", eps_min)
        _require(eps_min <= eps_init <= eps_max, "eps_init must lie in [eps_min, eps_max]", eps_init)
        _require(increment is None or increment > 0, "increment must be positive", increment)
        _require(warmup >= 0, "warmup must be at least 0", warmup)
        _require(0 <= loss_decay < 1, "loss_decay must lie in [0, 1)", loss_decay)
        _require(0 <= momentum < 1, "momentum must lie in [0, 1)", momentum)
        _require(renew_every is None or renew_every >= 1, "renew_every must be at least 1", renew_every)
        if labels is not None:
            labels = torch.as_tensor(labels)
            _require(
                labels.shape == (num_samples,),
                f"labels must have shape ({num_samples},)",
                tuple(labels.shape),
            )
            valid = bool(labels.min() >= 0) and bool(labels.max() < num_classes <= 2**15)
            _require(valid, "labels must lie in [0, num_classes), num_classes be at most 32768", num_classes)
            labels = labels.to(torch.int16)

        self.eps_min, self.eps_max = eps_min, eps_max
        self.increment = eps_max / 8 if increment is None else increment
        self.warmup = warmup
        self.loss_decay = loss_decay
        self.momentum = momentum
        self.renew_every = max(1, num_samples // 50) if renew_every is None else renew_every
        self._statistic = _choose(STATISTICS, "statistic", statistic)
        self._rule = _choose(UPDATES, "update", update)
        self._schedule = _choose(SCHEDULES, "schedule", schedule)
        self._until_renewal = 0

        self.register_buffer("eps", torch.full((num_samples,), float(eps_init)))
        self.register_buffer("loss", torch.zeros(num_samples))
        self.register_buffer("visits", torch.zeros(num_samples, dtype=torch.int32))
        self.register_buffer("labels", labels)
        self.register_buffer("criterion", torch.full((1 if labels is None else num_classes,), torch.nan))

    @torch.no_grad()
    def update(self, index: Tensor, signal: Tensor, collect: Tensor | None = None) -> None:
        """Collect what a mini-batch showed, renew the criterion when due, and adapt the sizes of its samples.

        An index that stands twice in the batch gets one update, by its first row. A signal that is not finite moves
        nothing and is not collected.

        Args:
            index: numbers of the samples `(B,)`, integers.
            signal: how hard each found its own perturbation, `(B,)`, lower is easier: the cross-entropy of its
                adversarial view, unweighted and unsmoothed.
            collect: what enters the collection instead of the signal, `(B,)`, such as the clean losses of the same
                forward pass: their statistic gives the criterion an absolute level, while a statistic of losses
                taken at other radii can only make losses equal.
        """
        device = self.eps.device
        index = index.to(device)
        signal = signal.detach().to(device, torch.float32)
        collect = signal if collect is None else collect.detach().to(device, torch.float32)
        index, first = first_of_equals(index)
        signal, collect = signal[first], collect[first]
        usable = torch.isfinite(signal) & torch.isfinite(collect)

        visits = self.visits[index] + usable
        old = self.loss[index]
        decay = torch.where(visits > 1, self.loss_decay, 0.0)
        self.loss[index] = torch.where(usable, decay * old + (1 - decay) * collect, old)
        self.visits[index] = visits

        self._until_renewal -= len(index)
        if self._until_renewal <= 0:
            self._renew()
            self._until_renewal = self.renew_every

        tau = self.criterion[0] if self.labels is None else self.criterion[self.labels[index].long()]
        gap = (tau - signal) / tau.abs().clamp(min=1e-12)
        eps = self.eps[index]
        moved = self._rule(eps, gap, self.increment * self._schedule(visits.clamp(min=1)))
        moves = usable & (visits > self.warmup) & torch.isfinite(tau)
        self.eps[index] = torch.where(moves, moved.clamp(self.eps_min, self.eps_max), eps)

    def _renew(self) -> None:
        counted = self.visits > 0
        group = torch.zeros_like(self.visits) if self.labels is None else self.labels.int()
        fresh = self._statistic(self.loss, group, counted, len(self.criterion))
        weight = torch.where(torch.isfinite(self.criterion), self.momentum, 0.0)
        blended = weight * self.criterion.nan_to_num() + (1 - weight) * fresh
        self.criterion.copy_(torch.where(torch.isfinite(fresh), blended, self.criterion))

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` carries beside the buffers: the visits left until the next renewal."""
        return {"until_renewal": self._until_renewal}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        self._until_renewal = int(state["until_renewal"])


def first_of_equals(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the index, and give every row the position of the first row with the same index.

    Equal rows then write equal values, so the order in which a device writes them does not matter.
    """
    ordered, position = index.sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    row = torch.arange(len(ordered), device=index.device)
    start = torch.where(is_first, row, 0).cummax(0).values
    return ordered, position[start]


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{rule}, not {value}")


def _choose(options: dict[str, Function], axis: str, name: str) -> Function:
    _require(name in options, f"{axis} must be one of {', '.join(options)}", name)
    return options[name]
