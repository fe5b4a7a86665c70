"""Attacks: pure functions of a model and a batch, with a radius per sample in every norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dpaat.attacks.apgd import apgd, apgd_targeted
from dpaat.attacks.fgsm import fgsm
from dpaat.attacks.norms import NORMS
from dpaat.attacks.pgd import pgd, pgd_with_clean_logits
from dpaat.errors import unknown


@dataclass(frozen=True)
class AttackInfo:
    """An attack that can be named on the command line."""

    name: str
    function: Callable[..., Tensor]
    description: str
    cost: str
    """Per sample, in forward passes F; an input gradient costs 1 F more than its forward pass."""
    iterative: bool
    """Whether it takes a number of steps."""


ATTACKS: dict[str, AttackInfo] = {
    info.name: info
    for info in (
        AttackInfo("fgsm", fgsm, "one signed gradient step (Goodfellow et al. 2015)", "2 F", iterative=False),
        AttackInfo("pgd", pgd, "projected gradient descent, K steps (Madry et al. 2018)", "2K F", iterative=True),
        AttackInfo("apgd-ce", apgd, "Auto-PGD on the cross-entropy (Croce, Hein 2020)", "(2K + 2) F", iterative=True),
        AttackInfo(
            "apgd-dlr",
            partial(apgd, loss="dlr"),
            "Auto-PGD on the difference of logits ratio, which scaled logits cannot mask",
            "(2K + 2) F",
            iterative=True,
        ),
        AttackInfo(
            "apgd-t",
            apgd_targeted,
            "Auto-PGD towards each of the up to 9 likeliest wrong classes, for any number of classes",
            "(2K + 3) F a target",
            iterative=True,
        ),
    )
}


def find_attack(name: str) -> AttackInfo:
    """Look an attack up by name.

    Raises:
        UserError: no such attack; names the nearest ones.
    """
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return ATTACKS[name]


__all__ = [
    "ATTACKS",
    "NORMS",
    "AttackInfo",
    "apgd",
    "apgd_targeted",
    "fgsm",
    "find_attack",
    "pgd",
    "pgd_with_clean_logits",
]
