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
    """The axes of `dpaat-half`, and four more; the defaults are the preset `dpaat-fast`.

    Attributes:
        graded: share of `steps` that an attack takes in the largest ball, in (0, 1]; in smaller ones in proportion.
        least: fewest steps of an attack, at most `steps`: too few invite catastrophic overfitting in small balls too.
        start: share of the epochs, in [0, 1), before any adversarial view is shown; the last epoch always has them.
        attacked: share of the epochs, in [0, 1], that show a sample's adversarial view beside its clean one; at 0 the
            two views take turns.
    """

    graded: float = 0.5
    least: int = 1
    start: float = 0.0
    attacked: float = 0.0


@dataclass(frozen=True)
class LateOptions(FastOptions):
    """The preset `dpaat`: few adversarial views, late, in turn with clean ones.

    Chosen on images outside of the headline benchmark's first fold (`docs/ablation.md`).
    """

    eps_init: float = 0.25
    graded: float = 1.0
    least: int = 5
    start: float = 0.5


class DPAATFast(DPAAT):
    """DPAAT whose attacks cost a fraction of those of `dpaat-half`, which learns from both views at every visit.

    - **Fewer adversarial views.** A sample shows its clean and its adversarial view in turn, the clean one in the share
      w = `clean_weight` of the epochs. Or, with `attacked`, it shows the clean one always and the other beside it in
      that share of the epochs: where w is large, turns would leave few visits to move the sizes at. Over the epochs
      that attack, the objective is (1 - w) * loss(x_adv) + w * loss(x) either way.
    - **Steps in proportion to the ball.** An attack takes ceil(graded * steps * eps_i / eps_max) steps of
      2.5 eps_i / steps_i, about as long as those of the largest ball; but at least `least` of them.
    - **Size 0 is not attacked.**

    A sample's state moves where it is attacked. The clean loss that is collected is that of the clean view beside, or,
    where views take turns, of the attack's first pass, in eval mode.
    """

    def __init__(self, setting: Setting, options: FastOptions) -> None:
        if not 0 < options.graded <= 1:
            raise ValueError(f"graded must lie in (0, 1], not {options.graded}")
        if options.least < 1:
            raise ValueError(f"least must be at least 1, not {options.least}")
        if not 0 <= options.start < 1:
            raise ValueError(f"start must lie in [0, 1), not {options.start}")
        if not 0 <= options.attacked <= 1:
            raise ValueError(f"attacked must lie in [0, 1], not {options.attacked}")
        self._in_turn = options.attacked == 0
        self._share = options.attacked or 1 - setting.clean_weight
        self._first = min(round(options.start * setting.epochs), setting.epochs - 1)
        super().__init__(setting, options)
        self._most, self._least = options.graded * setting.steps, min(options.least, setting.steps)
        self._epoch = 0

    @override
    def begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @override
    def visits(self) -> float:
        return (self.setting.epochs - self._first) * self._share

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        view, steps, clean = self.attack(model, index, x, y, self.perturbation.eps[index])
        loss, logits, beside = self.learn_from(model, index, x, view, y)
        signal, collect = self.observe_view(logits, steps, clean if beside is None else beside, y)
        return Visit(loss, logits, index, signal, collect)

    def learn_from(
        self, model: nn.Module, index: Tensor, x: Tensor, view: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The objective, the logits `(B, K)` of the views, and those of the clean views where both are shown."""
        if self._in_turn:
            logits = model(view)
            return self.setting.learn_loss(logits, y).mean(), logits.detach(), None
        rows = self.is_adversarial(index).nonzero()[:, 0]
        logits = model(torch.cat([x, view[rows]]))
        losses = self.setting.learn_loss(logits, torch.cat([y, y[rows]]))
        weight = self.setting.clean_weight if self._epoch >= self._first else 1.0
        loss = weight * losses[: len(x)].sum() + (1 - weight) / self._share * losses[len(x) :].sum()
        clean, adversarial = logits.detach().split([len(x), len(rows)])
        return loss / len(x), clean.index_copy(0, rows, adversarial), clean

    def attack(
        self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The views to learn from, the steps `(B,)` that they took, and the clean logits of those that took any."""
        setting = self.setting
        most = (self._most * eps / setting.eps).ceil().int().clamp(min=self._least)
        steps = most * ((eps > 0) & self.is_adversarial(index))
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
        """Whether this epoch shows the adversarial view, bool `(B,)`, of the samples `(B,)`.

        From the first epoch of attacks on, the same share of the epochs does for every sample, and every epoch, to
        within rounding, for that share of the samples.
        """
        share = round(self._share * UNIT)
        turn = (index * GOLDEN + self._epoch * share) % UNIT < share
        return turn & (self._epoch >= self._first)

    @override
    def after_step(self, visit: Visit) -> None:
        assert visit.signal is not None
        rows = self.is_adversarial(visit.index).nonzero()[:, 0]
        collect = None if visit.collect is None else visit.collect[rows]
        self.perturbation.update(visit.index[rows], visit.signal[rows], collect)
