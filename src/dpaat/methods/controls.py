"""What an own radius per sample has to beat: the same training with the radii taken from elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd, pgd_with_clean_logits
from dpaat.methods.base import Method, Setting, Visit, learn
from dpaat.methods.boundary import score
from dpaat.methods.dpaat import DPAAT, DPAATOptions
from dpaat.methods.dpaat_fast import DPAATFast
from dpaat.perturbation import AdaptivePerturbation, mean


class UniformRadius(Method):
    """A radius drawn anew from U(0, eps_max) for every sample at every visit: diversity of radii without a rule."""

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        setting = self.setting
        eps = setting.eps * torch.rand(len(x), device=x.device)
        x_adv = pgd(model, x, y, eps=eps, steps=setting.steps, norm=setting.norm)
        loss, logits, _ = learn(model, x, x_adv, y, setting)
        return Visit(loss, logits.detach(), index)


class Reassigned(DPAAT, ABC):
    """DPAAT whose sizes are kept as ever, but which learns at radii made of them.

    Sizes keep their meaning only if they are moved by losses at these very sizes. So a step attacks twice: at the
    sample's own size, for the state's eyes only, and at the radius to learn from. What the state sees all comes from
    eval mode, since the images of the first attack are not in the training pass. What is logged are the sizes.
    """

    labels: Tensor

    def __init__(self, setting: Setting, options: DPAATOptions) -> None:
        super().__init__(setting, options)
        self.register_buffer("labels", setting.labels, persistent=False)

    @abstractmethod
    def radii(self, index: Tensor) -> Tensor:
        """Radii `(B,)` to learn at."""

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        setting, own = self.setting, self.perturbation.eps[index]
        at_own, clean = pgd_with_clean_logits(model, x, y, eps=own, steps=setting.steps, norm=setting.norm)
        signal, collect = self.observe(score(model, at_own), clean, y)
        x_adv = pgd(model, x, y, eps=self.radii(index), steps=setting.steps, norm=setting.norm)
        loss, logits, _ = learn(model, x, x_adv, y, setting)
        return Visit(loss, logits.detach(), index, signal, collect)


class ReassignedFast(DPAATFast, ABC):
    """`Reassigned` in the recipe of `dpaat-fast`: the same views in turn, the same steps for a radius."""

    @abstractmethod
    def radii(self, index: Tensor) -> Tensor:
        """Radii `(B,)` to learn at."""

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        at_own, steps, clean = self.attack(model, index, x, y, self.perturbation.eps[index])
        signal, collect = self.observe_view(score(model, at_own), steps, clean, y)
        view, _, _ = self.attack(model, index, x, y, self.radii(index))
        loss, logits, _ = self.learn_from(model, index, x, view, y)
        return Visit(loss, logits, index, signal, collect)


class AtMean:
    """Mixed into either: at the mean size of all samples."""

    perturbation: AdaptivePerturbation

    def radii(self, index: Tensor) -> Tensor:
        """Radii `(B,)` to learn at."""
        return self.perturbation.eps.mean().expand(len(index))


class MeanRadius(AtMean, Reassigned):
    """Every sample at the mean size of all: what remains is a radius that changes over the run."""


class MeanFast(AtMean, ReassignedFast):
    """`MeanRadius` in the recipe of `dpaat-fast`: removes the own sizes and nothing else."""


class ClassMeanRadius(Reassigned):
    """Every sample at the mean size of its class: what remains is a radius per class that changes over the run."""

    @override
    def radii(self, index: Tensor) -> Tensor:
        eps = self.perturbation.eps
        of_class = mean(eps, self.labels, torch.ones_like(eps, dtype=torch.bool), self.setting.num_classes)
        return of_class[self.labels[index]]


class Permuted(nn.Module):
    """Mixed into either: at the size of another sample of the class, drawn anew in every epoch."""

    setting: Setting
    partner: Tensor
    perturbation: AdaptivePerturbation

    def __init__(self, setting: Setting, options: DPAATOptions) -> None:
        super().__init__(setting, options)
        self.register_buffer("partner", torch.arange(len(setting.labels)), persistent=False)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the partners of the epoch."""
        super().begin_epoch(epoch)  # type: ignore[misc]
        # Keyed by the epoch alone: the same in every process, and in a resumed run.
        self.partner.copy_(permute_within(self.setting.labels.cpu(), torch.Generator().manual_seed(epoch)))

    def radii(self, index: Tensor) -> Tensor:
        """Radii `(B,)` to learn at."""
        return self.perturbation.eps[self.partner[index]]


class PermutedRadius(Permuted, Reassigned):
    """Every sample at the size of another one of its class, drawn anew in every epoch.

    The distribution of the radii in each class is DPAAT's; which sample has which is chance.
    """


class PermutedFast(Permuted, ReassignedFast):
    """`PermutedRadius` in the recipe of `dpaat-fast`."""


def permute_within(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a permutation of the samples `(N,)` that leaves each in its class, given as `labels` `(N,)`."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return torch.empty_like(shuffled).scatter_(0, labels.argsort(stable=True), by_class)
