"""Registry of attacks: each registers itself where it is defined, with its norms, its budget and its cost."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dpaat.attacks.norms import NORMS
from dpaat.registry import Registry


@dataclass(frozen=True)
class AttackCost:
    """Cost of an attack per image, in forward passes F; an input gradient costs 1 F more than its forward pass."""

    per_step: float = 0  #: for each step K, or each query
    base: float = 0  #: beside the steps
    each: str = ""  #: what steps and base are made for: "target" (a wrong class), "start", or "" for once
    most: int = 1  #: number of targets or starts at the most
    once: float = 0  #: further passes

    def repeats(self, wrong: int) -> int:
        """Targets of an image with so many wrong answers, or starts, at the most."""
        return min(wrong, self.most) if self.each == "target" else self.most

    def passes(self, steps: int, classes: int) -> int:
        """Most forward passes per image."""
        return int(self.repeats(classes - 1) * (self.per_step * steps + self.base) + self.once)

    def __str__(self) -> str:
        factor = "K" if self.per_step == 1 else f"{self.per_step:g}K"
        parts = [factor] * (self.per_step > 0) + [f"{self.base:g}"] * (self.base > 0)
        text = f"({' + '.join(parts)}) F" if len(parts) > 1 else f"{(parts or ['0'])[0]} F"
        return text + (f" a {self.each}" if self.each else "") + (f" + {self.once:g} F" if self.once else "")


@dataclass(frozen=True)
class AttackInfo:
    """An attack that can be named on the command line."""

    name: str
    #: called as `function(model, x, y, eps=, norm=, generator=)`, with `steps=`, `start=` and `source=` where it takes
    #: them
    function: Callable[..., Tensor]
    description: str
    cost: AttackCost  #: per image
    #: usual number of steps, or of queries where there are no gradients; None if it takes none
    steps: int | None = None
    norms: tuple[str, ...] = tuple(NORMS)  #: those that it knows
    starts: bool = False  #: whether it takes `start`, "zero" or "random"
    stops: bool = False  #: whether it takes `stop`, which ends at the first misclassified image
    mixes: bool = False  #: whether several radii and, with `rank`, targets may share a batch
    minimal: bool = False  #: whether it looks for the nearest adversarial image, so that one run serves all radii
    black_box: bool = False  #: whether it sees the logits only
    needs_source: bool = False  #: whether it takes `source`, another model to make its images on


ATTACKS = Registry("attack", AttackInfo)
register_attack, find_attack = ATTACKS.register, ATTACKS.find
