"""Controls for perturbation sizes per image: the same training with sizes taken from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpaat.methods.base import MethodContext
from dpaat.perturbation import mean

Control = Callable[[Tensor, Tensor, MethodContext, int], Tensor]
"""Sizes `(N,)`, sample numbers `(B,)`, the run and its epoch -> sizes to learn at `(B,)`."""


def at_mean(eps: Tensor, index: Tensor, context: MethodContext, epoch: int) -> Tensor:
    """The mean size of all samples."""
    return eps.mean().expand(len(index))


def at_class_mean(eps: Tensor, index: Tensor, context: MethodContext, epoch: int) -> Tensor:
    """The mean size of the sample's class."""
    labels = context.labels.to(eps.device)
    return mean(eps, labels, torch.ones_like(eps, dtype=torch.bool), context.num_classes)[labels[index]]


def at_partner(eps: Tensor, index: Tensor, context: MethodContext, epoch: int) -> Tensor:
    """The size of another sample of the class; who, is drawn in every epoch, alike in all processes and on resuming."""
    partner = permute_within(context.labels.cpu(), torch.Generator().manual_seed(epoch))
    return eps[partner.to(index.device)[index]]


def at_random(eps: Tensor, index: Tensor, context: MethodContext, epoch: int) -> Tensor:
    """A size drawn between 0 and the largest one, anew at every visit."""
    return context.eps * torch.rand(len(index), device=eps.device)


CONTROLS: dict[str, Control] = {
    "mean": at_mean,
    "class-mean": at_class_mean,
    "permuted": at_partner,
    "uniform": at_random,
}
"""Value of the option `radius` to its rule."""


def permute_within(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a permutation of the samples `(N,)` that leaves each in its class, given as `labels` `(N,)`."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return torch.empty_like(shuffled).scatter_(0, labels.argsort(stable=True), by_class)
