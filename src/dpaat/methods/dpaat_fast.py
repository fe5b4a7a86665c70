"""DPAAT that attacks no sample more often, and no longer, than its own perturbation size needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd_graded
from dpaat.methods.base import Setting, Visit
from dpaat.methods.dpaat import DPAAT, DPAATOptions

GOLDEN, UNIT = 2654435769, 2**32
"""The golden ratio as a fraction of 2^32: its multiples, modulo 2^32, spread evenly, whichever samples meet."""


@dataclass(frozen=True)
class FastOptions(DPAATOptions):
    """The axes of `dpaat`, and two more.

    Attributes:
        graded: share of `steps` that an attack takes in the largest ball, in (0, 1]; in smaller ones in proportion.
        start: share of the epochs, in [0, 1), before any adversarial view is shown; the last epoch always has them.
    """

    graded: float = 0.5
    start: float = 0.0


class DPAATFast(DPAAT):
    """`dpaat` at a fraction of its cost, from three savings.

    - **One view a visit.** `dpaat` learns at every visit from a sample's clean and its adversarial view. Here a sample
      shows them in turn, the clean one in the share `clean_weight` of the epochs: the objective is the same over the
      epochs, half of the attacks fall away, and the pass to learn from has B views instead of 2B.
    - **Steps in proportion to the ball.** An attack takes ceil(graded * steps * eps_i / eps_max) steps of
      2.5 eps_i / steps_i: about as long as those of the largest ball.
    - **Size 0 is not attacked.**

    A sample's state moves where it is attacked. The clean loss that is collected comes from the attack's first pass,
    in eval mode.
    """

    def __init__(self, setting: Setting, options: FastOptions) -> None:
        if not 0 < options.graded <= 1:
            raise ValueError(f"graded must lie in (0, 1], not {options.graded}")
        if not 0 <= options.start < 1:
            raise ValueError(f"start must lie in [0, 1), not {options.start}")
        self._first = min(round(options.start * setting.epochs), setting.epochs - 1)
        super().__init__(setting, options)
        self._most = options.graded * setting.steps
        self._epoch = 0

    @override
    def begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @override
    def visits(self) -> float:
        return (self.setting.epochs - self._first) * (1 - self.setting.clean_weight)

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        view, steps, clean = self.attack(model, index, x, y, self.perturbation.eps[index])
        logits = model(view)
        signal, collect = self.observe_view(logits.detach(), steps, clean, y)
        return Visit(self.setting.learn_loss(logits, y).mean(), logits.detach(), index, signal, collect)

    def attack(
        self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The views to learn from, the steps `(B,)` that they took, and the clean logits of those that took any."""
        setting = self.setting
        steps = (self._most * eps / setting.eps).ceil().int() * self.is_adversarial(index)
        view, clean = pgd_graded(model, x, y, eps=eps, steps=steps, norm=setting.norm)
        return view, steps, clean

    def observe_view(
        self, logits: Tensor, steps: Tensor, clean: Tensor | None, y: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """`observe` where some views are clean: what `attack` found, and the logits `(B, K)` of the views."""
        if clean is None:
            return self.observe(logits, logits, y)
        return self.observe(logits, torch.where(steps[:, None] > 0, clean.to(logits), logits), y)

    def is_adversarial(self, index: Tensor) -> Tensor:
        """Whether it is the turn of the adversarial view, bool `(B,)`, of the samples `(B,)` in this epoch.

        From the first epoch of attacks on, every sample has it in the share 1 - clean_weight of the epochs, and every
        epoch, to within rounding, for that share of the samples.
        """
        share = round((1 - self.setting.clean_weight) * UNIT)
        turn = (index * GOLDEN + self._epoch * share) % UNIT < share
        return turn & (self._epoch >= self._first)

    @override
    def after_step(self, visit: Visit) -> None:
        assert visit.signal is not None
        rows = self.is_adversarial(visit.index).nonzero()[:, 0]
        collect = None if visit.collect is None else visit.collect[rows]
        self.perturbation.update(visit.index[rows], visit.signal[rows], collect)
