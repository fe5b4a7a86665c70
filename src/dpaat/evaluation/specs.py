"""An attack with its budget, as plans, results and people name it."""

from __future__ import annotations

from dataclasses import dataclass

from dpaat.attacks import NORMS, find_attack
from dpaat.errors import UserError, unknown


@dataclass(frozen=True)
class AttackSpec:
    """An attack and its budget; the radius comes on top.

    Attributes:
        name: a key of `dpaat.attacks.ATTACKS`, "clean" for no attack, "worst-case" for several together.
        steps: iterations, or queries of an attack that sees no gradients; None for an attack without.
        norm: "linf" or "l2".
    """

    name: str
    steps: int | None = None
    norm: str = "linf"

    @property
    def label(self) -> str:
        """The name that people read, such as "PGD-20"."""
        if self.name == "clean":
            return "clean"
        name = "worst case" if self.name == "worst-case" else self.name.upper()
        return name + (f"-{self.steps}" if self.steps else "") + (" L2" if self.norm == "l2" else "")

    @property
    def start(self) -> str | None:
        """Where it starts: attacks that iterate start at random in the ball, one step starts at the image."""
        if self.name in ("clean", "worst-case") or not find_attack(self.name).starts:
            return None
        return "random" if self.steps else "zero"

    def passes(self, num_classes: int) -> int:
        """Forward passes per image, about."""
        return 1 if self.name == "clean" else find_attack(self.name).passes(self.steps or 1, num_classes) + 1


CLEAN = AttackSpec("clean")


def attack_spec(name: str, *, steps: int | None = None, norm: str = "linf") -> AttackSpec:
    """Make the spec of a named attack.

    Args:
        name: see `dpaat.attacks.ATTACKS`.
        steps: its budget; default the attack's own. Ignored where it takes none.
        norm: "linf" or "l2".

    Raises:
        UserError: unknown attack or norm, fewer than 1 step, or an attack that does not know the norm.
    """
    info = find_attack(name)
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if norm not in info.norms:
        raise UserError(f"attack {name!r} works in {' and '.join(info.norms)} only, not in {norm}")
    if info.steps and steps is not None and steps < 1:
        raise UserError(f"steps: {steps} must be at least 1")
    return AttackSpec(name, (steps or info.steps) if info.steps else None, norm)
