"""Dynamic perturbation-adaptive adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd_with_clean_logits
from dpaat.attacks.losses import cross_entropy, margin
from dpaat.methods.base import Method, Setting, Visit, learn
from dpaat.perturbation import AdaptivePerturbation

MIN_RAMP = 4.0
"""Fewest visits from 0 to eps_max: in a very short run a single visit must not decide between the two ends."""


@dataclass(frozen=True)
class DPAATOptions:
    """The axes of the method; the defaults are the preset `dpaat-half`.

    Attributes:
        scope: one criterion for all samples, or one per class.
        statistic: what the criterion takes of the collected losses: mean, median, quantile25, quantile75.
        collect: which losses are collected: those on the adversarial view, or those on the clean view.
        signal: what is compared with the criterion: the loss on the adversarial view, or the negative margin.
        update: additive, multiplicative, proportional.
        schedule: increment over a sample's visits: constant, inverse_sqrt.
        ramp: share of the epochs that a size needs to grow from 0 to eps_max, in (0, 1]; 4 visits at the least.
        eps_init: size at the start, as a share of eps_max, in [0, 1]; never below the floor.
        floor: smallest size, as a share of eps_max, in [0, 1].
        warmup: visits that are collected only.
        loss_decay: weight of the old loss of a sample when a new one is collected, in [0, 1).
        momentum: weight of the old criterion when it is renewed, in [0, 1).
    """

    scope: Literal["class", "global"] = "class"
    statistic: str = "mean"
    collect: Literal["clean", "adversarial"] = "clean"
    signal: Literal["loss", "margin"] = "loss"
    update: str = "additive"
    schedule: str = "constant"
    ramp: float = 0.5
    eps_init: float = 0.125
    floor: float = 0.0
    warmup: int = 1
    loss_decay: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True)
class PaperOptions(DPAATOptions):
    """The plain reading of the paper's abstract: each adversarial loss against the mean of all of them."""

    scope: Literal["class", "global"] = "global"
    collect: Literal["clean", "adversarial"] = "adversarial"


class DPAAT(Method):
    """Adversarial training in which every sample has a radius of its own (arXiv 2403.06798; rules are ours).

    A step costs what a step of fixed-radius training with the same objective costs: the signal comes from the
    training pass itself, and the clean losses from the same pass or, without a clean weight, from the first pass of
    the attack, which starts at the clean image.
    """

    def __init__(self, setting: Setting, options: DPAATOptions) -> None:
        super().__init__(setting)
        if not 0 < options.ramp <= 1:
            raise ValueError(f"ramp must lie in (0, 1], not {options.ramp}")
        if not 0 <= options.floor <= 1:
            raise ValueError(f"floor must lie in [0, 1], not {options.floor}")
        self.options = options
        self.perturbation = AdaptivePerturbation(
            len(setting.labels),
            setting.eps,
            labels=setting.labels if options.scope == "class" else None,
            num_classes=setting.num_classes,
            eps_min=options.floor * setting.eps,
            eps_init=max(options.eps_init, options.floor) * setting.eps,
            increment=setting.eps / max(MIN_RAMP, options.ramp * self.visits()),
            statistic=options.statistic,
            update=options.update,
            schedule=options.schedule,
            warmup=options.warmup,
            loss_decay=options.loss_decay,
            momentum=options.momentum,
        )

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        setting, eps = self.setting, self.perturbation.eps[index]
        x_adv, clean_at_start = pgd_with_clean_logits(model, x, y, eps=eps, steps=setting.steps, norm=setting.norm)
        loss, logits, clean = learn(model, x, x_adv, y, setting)
        adversarial = logits.detach()
        signal, collect = self.observe(adversarial, clean_at_start if clean is None else clean.detach(), y)
        return Visit(loss, adversarial, index, signal, collect)

    def visits(self) -> float:
        """How often the run visits a sample to attack it."""
        return self.setting.epochs

    def observe(self, adversarial: Tensor, clean: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the state is to see of logits `(B, K)`: the signal `(B,)`, and what to collect instead, if anything."""
        measure = cross_entropy if self.options.signal == "loss" else margin
        return measure(adversarial, y), measure(clean, y) if self.options.collect == "clean" else None

    @override
    def after_step(self, visit: Visit) -> None:
        assert visit.signal is not None
        self.perturbation.update(visit.index, visit.signal, visit.collect)
