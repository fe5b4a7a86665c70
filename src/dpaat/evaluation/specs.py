"""Attacks with their budgets, as plans, results and people name them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dpaat.attacks import ATTACKS, NORMS, find_attack
from dpaat.errors import UserError, unknown

WORST_CASE = "worst-case"
"""The worst case of the standard suite."""
QUICK = "worst-case-quick"
"""That of the quick suite, which leaves out what its document says."""
WORST_OF = "worst-of:"
"""Begins the name of the worst case of other attacks, which follow."""


@dataclass(frozen=True)
class AttackSpec:
    """An attack and its budget; the radius comes on top."""

    name: str  # of `ATTACKS`, "clean" for no attack, or see `is_worst_case`
    steps: int | None = None  # iterations, or queries of an attack without gradients
    norm: str = "linf"
    # Of the attacks behind the worst case of a suite, which its name leaves out; random draws go by the rest's repr.
    budgets: tuple[tuple[str, int], ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """The name that people read, such as "PGD-20"."""
        if self.name == "clean":
            return "clean"
        if self.name.startswith(WORST_OF):
            name = f"worst of {self.name.removeprefix(WORST_OF).upper().replace('+', ', ')}"
        else:
            name = {WORST_CASE: "worst case", QUICK: "worst case (quick)"}.get(self.name) or self.name.upper()
            name = f"{name} ({', '.join(own)})" if (own := own_budgets(dict(self.budgets))) else name
        return name + (f"-{self.steps}" if self.steps else "") + (" L2" if self.norm == "l2" else "")

    @property
    def start(self) -> str | None:
        """Where it starts: attacks that iterate start at random in the ball, one step starts at the image."""
        if self.name == "clean" or is_worst_case(self.name) or not find_attack(self.name).starts:
            return None
        return "random" if self.steps else "zero"

    def passes(self, num_classes: int) -> int:
        """Forward passes per image, about."""
        return 1 if self.name == "clean" else find_attack(self.name).cost.passes(self.steps or 1, num_classes) + 1


CLEAN = AttackSpec("clean")


def is_worst_case(name: str) -> bool:
    """Whether an attack's name means the worst case over several."""
    return name in (WORST_CASE, QUICK) or name.startswith(WORST_OF)


def own_budgets(budgets: Mapping[str, int]) -> list[str]:
    """Budgets other than the attack's default, such as "SQUARE-100"."""
    return [f"{name.upper()}-{steps}" for name, steps in budgets.items() if steps != find_attack(name).steps]


def takes_source(name: str) -> bool:
    """Whether an attack, or one of those that a worst case is named after, makes its images on another model."""
    names = {re.sub(r"-\d+$", "", each) for each in name.removeprefix(WORST_OF).split("+")}
    return any(each in ATTACKS and find_attack(each).needs_source for each in names)


def worst_of_suite(name: str, specs: Sequence[AttackSpec], norm: str) -> AttackSpec:
    """The worst case of a suite, which is called by its name, with the budgets of its attacks."""
    return AttackSpec(name, norm=norm, budgets=tuple((spec.name, spec.steps) for spec in specs if spec.steps))


def worst_of(specs: Sequence[AttackSpec]) -> AttackSpec:
    """The worst case over some attacks, at least one, named after them."""
    names = (spec.name + (f"-{spec.steps}" if spec.steps else "") for spec in specs)
    return AttackSpec(WORST_OF + "+".join(names), norm=specs[0].norm)


def attack_spec(name: str, *, steps: int | None = None, norm: str = "linf") -> AttackSpec:
    """Make the spec of a named attack, with its own budget by default; one that takes none ignores `steps`.

    Raises UserError: unknown attack or norm, fewer than 1 step, or an attack that does not know the norm.
    """
    info = find_attack(name)
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if norm not in info.norms:
        raise UserError(f"attack {name!r} works in {' and '.join(info.norms)} only, not in {norm}")
    if info.steps and steps is not None and steps < 1:
        raise UserError(f"steps: {steps} must be at least 1")
    return AttackSpec(name, (steps or info.steps) if info.steps else None, norm)
