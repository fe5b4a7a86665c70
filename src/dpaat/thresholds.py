"""Thresholds of perturbation sizes: statistics of the tracked losses, by class or by label."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Statistic = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Values `(N,)`, group `(N,)`, counted `(N,)` bool, number of groups G -> threshold `(G,)`, NaN where none counts."""


def mean(values: Tensor, group: Tensor, counted: Tensor, groups: int) -> Tensor:
    """Mean of the counted values in each group."""
    zeros = values.new_zeros(groups)
    count = zeros.index_add(0, group, counted.to(values))
    first = zeros.index_add(0, group, torch.where(counted, values, 0)) / count
    # Once more for what rounding left out: as exact as in float64, which not every device has.
    rest = zeros.index_add(0, group, torch.where(counted, values - first[group], 0)) / count
    return first + rest


def quantile(q: float) -> Statistic:
    """Make the statistic that takes the q-quantile of the counted values in each group, the lower of two neighbours."""

    def statistic(values: Tensor, group: Tensor, counted: Tensor, groups: int) -> Tensor:
        # Sorted by group and, within it, by value; uncounted values are last. No shape depends on the data.
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


class LabelMeans(nn.Module):
    """Running means of the losses of K labels where they are 1 and where they are 0, the thresholds of these losses.

    Each is the mean of the last N losses of the label that samples of that value had. With one label, and with two that
    exclude each other, they are the means by class of the question it asks.

    Args:
        labels: of every training sample `(N, K)`, int8: 1, 0, -1 unknown; kept, not saved.

    Attributes:
        sums: discounted sums of losses `(2, K)`, first of negatives; `counts` those of images, `seen` all so far.
    """

    labels: Tensor
    sums: Tensor
    counts: Tensor
    seen: Tensor

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("sums", torch.zeros(2, labels.shape[1]))
        self.register_buffer("counts", torch.zeros(2, labels.shape[1]))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def collect(self, index: Tensor, losses: Tensor) -> None:
        """Take in the losses `(B, K)` of some samples; rows that are not finite do not count."""
        y, keep = self.labels[index], torch.isfinite(losses).all(1, keepdim=True)
        of = torch.stack([y == 0, y == 1]) & keep
        kept = 1 - (self.seen >= len(self.labels)) * len(index) / len(self.labels)
        self.sums.mul_(kept).add_(torch.where(of, losses.to(self.sums), 0.0).sum(1))
        self.counts.mul_(kept).add_(of.sum(1))
        self.seen += len(index)

    def means(self, *_: Any) -> Tensor:
        """The running means `(2 K,)`, first of negatives, NaN where there was none; called as a `Statistic`."""
        return (self.sums / self.counts).flatten()

    def of(self, index: Tensor, means: Tensor) -> Tensor:
        """Those of the labels of some samples `(B, K)`, from `means` as above; meaningless for unknown labels."""
        low, high = means.reshape(2, -1)
        return torch.where(self.labels[index] == 1, high, low)


def label_sets(labels: Tensor) -> Tensor:
    """The group of each sample `(N,)`: its class, or the number of its set of labels."""
    return labels if labels.ndim == 1 else labels.unique(dim=0, return_inverse=True)[1]
