"""Attacks: pure functions of a model and a batch, with a radius per sample in every norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dpaat.attacks.apgd import MAX_TARGETS, apgd, apgd_targeted
from dpaat.attacks.checks import unchecked
from dpaat.attacks.ddn import ddn
from dpaat.attacks.fab import fab_targeted
from dpaat.attacks.fgsm import fgsm
from dpaat.attacks.noise import gaussian_noise
from dpaat.attacks.norms import NORMS
from dpaat.attacks.pgd import pgd, pgd_graded, pgd_with_clean_logits
from dpaat.attacks.restarts import on_standing, pgd_restarts
from dpaat.attacks.square import square
from dpaat.attacks.transfer import transfer
from dpaat.errors import unknown


@dataclass(frozen=True)
class AttackInfo:
    """An attack that can be named on the command line.

    Attributes:
        name: its key.
        function: called as `function(model, x, y, eps=, norm=, generator=)`, with `steps=`, `start=` and `source=`
            where it takes them.
        description: one line.
        cost: per image, in forward passes F and steps K; an input gradient costs 1 F more than its forward pass.
        passes: most forward passes per image, from steps and number of classes.
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
    cost: str
    passes: Callable[[int, int], int]
    steps: int | None = None
    norms: tuple[str, ...] = tuple(NORMS)
    starts: bool = False
    minimal: bool = False
    black_box: bool = False
    needs_source: bool = False


ATTACKS: dict[str, AttackInfo] = {
    info.name: info
    for info in (
        AttackInfo(
            "gaussian",
            gaussian_noise,
            "one draw of Gaussian noise, the floor that every attack must beat",
            "0",
            lambda steps, classes: 0,
        ),
        AttackInfo(
            "fgsm",
            fgsm,
            "one signed gradient step (Goodfellow et al. 2015)",
            "2 F",
            lambda steps, classes: 2,
            starts=True,
        ),
        AttackInfo(
            "pgd",
            pgd,
            "projected gradient descent, K steps (Madry et al. 2018)",
            "2K F",
            lambda steps, classes: 2 * steps,
            steps=20,
            starts=True,
        ),
        AttackInfo(
            "pgd-margin",
            pgd_restarts,
            "PGD on the margin from up to 5 random starts",
            "(2K + 1) F a start",
            lambda steps, classes: 5 * (2 * steps + 1),
            steps=20,
        ),
        AttackInfo(
            "apgd-ce",
            apgd,
            "Auto-PGD on the cross-entropy (Croce, Hein 2020)",
            "(2K + 2) F",
            lambda steps, classes: 2 * steps + 2,
            steps=100,
            starts=True,
        ),
        AttackInfo(
            "apgd-dlr",
            partial(apgd, loss="dlr"),
            "Auto-PGD on the difference of logits ratio, which scaled logits cannot mask",
            "(2K + 2) F",
            lambda steps, classes: 2 * steps + 2,
            steps=100,
            starts=True,
        ),
        AttackInfo(
            "apgd-t",
            apgd_targeted,
            "Auto-PGD towards each of the up to 9 likeliest wrong classes, for any number of classes",
            "(2K + 3) F a target + 1 F",
            lambda steps, classes: min(classes - 1, MAX_TARGETS) * (2 * steps + 3) + 1,
            steps=100,
            starts=True,
        ),
        AttackInfo(
            "fab-t",
            fab_targeted,
            "nearest adversarial image by FAB towards each of the up to 9 likeliest wrong classes (Croce, Hein 2020)",
            "3K F a target + 4 F",
            lambda steps, classes: min(classes - 1, MAX_TARGETS) * 3 * steps + 4,
            steps=100,
            minimal=True,
        ),
        AttackInfo(
            "ddn",
            ddn,
            "nearest adversarial image by decoupled direction and norm (Rony et al. 2019)",
            "(2K + 1) F",
            lambda steps, classes: 2 * steps + 1,
            steps=100,
            norms=("l2",),
            minimal=True,
        ),
        AttackInfo(
            "square",
            square,
            "Square Attack, random search on the logits alone, K queries (Andriushchenko et al. 2020)",
            "up to K F",
            lambda steps, classes: steps,
            steps=5000,
            black_box=True,
        ),
        AttackInfo(
            "transfer",
            transfer,
            "Auto-PGD on the cross-entropy of another model, the source",
            "(2K + 2) F of the source",
            lambda steps, classes: 2 * steps + 2,
            steps=100,
            starts=True,
            needs_source=True,
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
    "ddn",
    "fab_targeted",
    "fgsm",
    "find_attack",
    "gaussian_noise",
    "on_standing",
    "pgd",
    "pgd_graded",
    "pgd_restarts",
    "pgd_with_clean_logits",
    "square",
    "transfer",
    "unchecked",
]
