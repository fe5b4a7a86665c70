"""Attacks: pure functions of a model and a batch, with a radius per sample in every norm."""

from __future__ import annotations

from dpaat.attacks.apgd import apgd, apgd_targeted
from dpaat.attacks.checks import unchecked
from dpaat.attacks.ddn import ddn
from dpaat.attacks.fab import fab_targeted
from dpaat.attacks.fgsm import fgsm
from dpaat.attacks.noise import gaussian_noise
from dpaat.attacks.norms import NORMS
from dpaat.attacks.pgd import pgd, pgd_graded, pgd_with_clean_logits
from dpaat.attacks.registry import ATTACKS, AttackCost, AttackInfo, find_attack, register_attack
from dpaat.attacks.restarts import on_standing, pgd_restarts
from dpaat.attacks.square import square
from dpaat.attacks.transfer import transfer
from dpaat.plugins import load_entry_points

__all__ = [
    "ATTACKS",
    "NORMS",
    "AttackCost",
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
    "register_attack",
    "square",
    "transfer",
    "unchecked",
]

load_entry_points("dpaat.attacks")
