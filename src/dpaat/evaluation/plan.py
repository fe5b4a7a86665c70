"""The plan of an evaluation: attacks, radii and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dpaat.attacks import NORMS, find_attack
from dpaat.errors import UserError, unknown
from dpaat.evaluation.attacking import PRECISIONS, Precision
from dpaat.evaluation.specs import AttackSpec, attack_spec
from dpaat.evaluation.subject import SPLITS
from dpaat.radii import parse_radii
from dpaat.shapes import check_filled

SUITES = ("standard", "masking", "corruptions")
DEFAULT_RADII = {"linf": (1 / 255, 2 / 255, 4 / 255, 8 / 255), "l2": (0.25, 0.5, 1.0, 2.0)}


@dataclass(frozen=True)
class Plan:
    """Attacks, radii and images of an evaluation.

    Attributes:
        suites: any of "standard", "masking", "corruptions"; empty for single attacks.
        attacks: names of single attacks, see `dpaat.attacks.ATTACKS`.
        ensemble: further attacks, made only on what `attacks` and those before leave standing; what comes out is the
            worst case over all of them.
        steps: budgets, by name of the attack; where absent, the attack's own.
        eps: radii in units of a [0, 1] image, ascending; default 1, 2, 4 and 8/255, in L2 0.25, 0.5, 1 and 2.
        norm: "linf" or "l2".
        split: "train", "val", "test" or "all".
        max_samples: evaluate a seeded stratified draw of so many images.
        batch_size: images per batch.
        precision: in which the attacks search, "32" or "bf16"; verdicts are always in float32.
        seed: of the draw and of the attacks.

    Raises:
        UserError: a value out of its range, naming it.
    """

    suites: Sequence[str] = ()
    attacks: Sequence[str] = ("pgd",)
    ensemble: Sequence[str] = ()
    steps: Mapping[str, int] = field(default_factory=dict)
    eps: Sequence[float] | None = None
    norm: str = "linf"
    split: str = "test"
    max_samples: int | None = None
    batch_size: int = 128
    precision: Precision = "32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_filled(self)
        for kind, name, known in (
            ("norm", self.norm, NORMS),
            ("split", self.split, SPLITS),
            ("precision", self.precision, PRECISIONS),
            *(("suite", suite, SUITES) for suite in self.suites),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        for name, value in (("batch size", self.batch_size), ("max samples", self.max_samples)):
            if value is not None and value < 1:
                raise UserError(f"{name}: {value} must be at least 1")
        for name, value in self.steps.items():
            if find_attack(name).steps is None:
                raise UserError(f"steps: attack {name!r} takes no number of steps")
            if value < 1:
                raise UserError(f"steps: {value} for {name} must be at least 1")
        if not self.radii and (self.suites or self.ensemble):
            raise UserError("eps: a suite or an ensemble needs a radius above 0, such as 8/255")
        if self.suites and self.ensemble:
            raise UserError("ensemble: goes with single attacks, not with a suite, which has its own")
        if not (self.suites or self.attacks or self.ensemble):
            raise UserError("attacks: name at least one, see `dpaat list attacks`")
        self.all_specs  # noqa: B018 - looked up here for its error

    @property
    def radii(self) -> list[float]:
        """Radii above 0, ascending."""
        return [eps for eps in parse_radii(list(self.eps or DEFAULT_RADII[self.norm]), norm=self.norm) if eps > 0]

    @property
    def specs(self) -> list[AttackSpec]:
        """The single attacks with their budgets."""
        return [self.spec(name) for name in dict.fromkeys(self.attacks)]

    @property
    def ensemble_specs(self) -> list[AttackSpec]:
        """Those of the ensemble that are not among the single attacks."""
        return [self.spec(name) for name in dict.fromkeys(self.ensemble) if name not in self.attacks]

    @property
    def all_specs(self) -> list[AttackSpec]:
        """The single attacks, then those of the ensemble."""
        return self.specs + self.ensemble_specs

    def spec(self, name: str) -> AttackSpec:
        """One attack with its budget."""
        return attack_spec(name, steps=self.steps.get(name), norm=self.norm)


def parse_steps(text: str | int | None, attacks: Sequence[str]) -> dict[str, int]:
    """Read budgets as people write them: "20" for every attack, or "apgd-t=50,square=1000"."""
    if text is None:
        return {}
    budgets: dict[str, int] = {}
    for part in str(text).split(","):
        name, equals, number = part.strip().rpartition("=")
        try:
            value = int(number)
        except ValueError:
            raise UserError(f"steps: {part.strip()!r} is not a number of steps, such as 20 or square=1000") from None
        chosen = [find_attack(name).name] if equals else [a for a in attacks if find_attack(a).steps]
        budgets |= dict.fromkeys(chosen, value)
    return budgets


def stratified_draw(labels: np.ndarray, n: int, *, seed: int, at_least: int = 1) -> np.ndarray:
    """Draw n positions, each class of `labels` `(N,)` in proportion to its size, but at least so many while it allows.

    Returns ascending positions, int64; all of them if N is not larger than n.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)
    take = np.floor(exact).astype(np.int64)
    floor = np.minimum(at_least, counts)
    if n < floor.sum():
        floor = np.minimum(1, counts) if n >= len(classes) else np.zeros_like(counts)
    take = np.maximum(take, floor)
    while take.sum() != n:
        step = 1 if take.sum() < n else -1
        allowed = take < counts if step > 0 else take > floor
        take[np.argmax(np.where(allowed, step * (exact - take), -np.inf))] += step
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == k))[:count] for k, count in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
