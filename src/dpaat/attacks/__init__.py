"""Attacks: pure functions of a model and a batch, called `attack(model, x, y, *, eps, norm="linf", ...)`.

The model maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`; it runs in eval mode and is left exactly as found.
`x` are clean images, `y` their labels `(B,)`, int64; where an image has several, `(B, K)`, int8: 1 yes, 0 no, -1
unknown, and it is fooled where the answer to any known one, yes above a logit of 0, is wrong. `eps` is a radius in
pixel units of a [0, 1] image, one number or one per sample `(B,)`, in the `norm` "linf" or "l2". `steps` are
iterations, at least 1, and `generator` is the source of all random draws. The result is a batch of adversarial images,
detached, each within `eps` of its own and in [0, 1]. Arguments out of their range raise ValueError.
"""

from dpaat.attacks.apgd import apgd, apgd_targeted, transfer
from dpaat.attacks.checks import unchecked
from dpaat.attacks.ddn import ddn
from dpaat.attacks.fab import fab_targeted
from dpaat.attacks.noise import gaussian_noise
from dpaat.attacks.norms import NORMS
from dpaat.attacks.pgd import fgsm, pgd, pgd_graded, pgd_with_clean_logits
from dpaat.attacks.registry import ATTACKS, AttackCost, AttackInfo, find_attack, register_attack
from dpaat.attacks.restarts import on_standing, pgd_restarts
from dpaat.attacks.square import square
from dpaat.registry import load_entry_points

__all__ = [
    "ATTACKS", "NORMS", "AttackCost", "AttackInfo", "apgd", "apgd_targeted", "ddn", "fab_targeted", "fgsm",
    "find_attack", "gaussian_noise", "on_standing", "pgd", "pgd_graded", "pgd_restarts", "pgd_with_clean_logits",
    "register_attack", "square", "transfer", "unchecked",
]  # fmt: skip

load_entry_points("dpaat.attacks")
