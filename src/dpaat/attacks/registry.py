"""Registry of attacks: each registers itself where it is defined, with its norms, its budget and its cost."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dpaat.attacks.norms import NORMS
from dpaat.registry import Registry


@dataclass(frozen=True)
class AttackCost:
    """Cost of an attack per image, in forward passes F; an input gradient costs 1 F more than its forward pass.

    Attributes:
        per_step: for each step K, or each query.
        base: beside the steps.
        each: what steps and base are made for: "target" (a wrong class), "start", or "" for once.
        most: number of targets or starts at the most.
        once: further passes.
    """

    per_step: float = 0
    base: float = 0
    each: str = ""
    most: int = 1
    once: float = 0

    def passes(self, steps: int, classes: int) -> int:
        """Most forward passes per image."""
        repeats = min(classes - 1, self.most) if self.each == "target" else self.most
        return int(repeats * (self.per_step * steps + self.base) + self.once)

    def __str__(self) -> str:
        factor = "K" if self.per_step == 1 else f"{self.per_step:g}K"
        parts = [factor] * (self.per_step > 0) + [f"{self.base:g}"] * (self.base > 0)
        text = f"({' + '.join(parts)}) F" if len(parts) > 1 else f"{(parts or ['0'])[0]} F"
        return text + (f" a {self.each}" if self.each else "") + (f" + {self.once:g} F" if self.once else "")


@dataclass(frozen=True)
class AttackInfo:
    """An attack that can be named on the command line.

    Attributes:
        name: its key.
        function: called as `function(model, x, y, eps=, norm=, generator=)`, with `steps=`, `start=` and `source=`
            where it takes them.
        description: one line.
        cost: per image.
        steps: usual number of steps, or of queries where there are no gradients; None if it takes none.
        norms: those that it knows.
        starts: whether it takes `start`, "zero" or "random".
        minimal: whether it looks for the nearest adversarial image, so that one run serves all radii.
        black_box: whether it sees the logits only.
        needs_source: whether it takes `source`, another model to make its images on.
    """

    name: str
    function: Callable[..., Tensor]
    description: str
    cost: AttackCost
    steps: int | None = None
    norms: tuple[str, ...] = tuple(NORMS)
    starts: bool = False
    minimal: bool = False
    black_box: bool = False
    needs_source: bool = False


ATTACKS = Registry("attack", AttackInfo)
register_attack, find_attack = ATTACKS.register, ATTACKS.find
