"""Attacks one after another, each on the images that withstood the ones before."""

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpaat.attacks.checks import checked
from dpaat.attacks.gradient import evaluation_mode
from dpaat.attacks.losses import LossFunction, fooled, margin
from dpaat.attacks.norms import per_sample
from dpaat.attacks.pgd import pgd
from dpaat.attacks.registry import AttackCost, register_attack

PartialAttack = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Images `(n, C, H, W)`, labels, radii and positions in the whole batch `(n,)` to adversarial images."""


@checked(passes_on=True)
def on_standing(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    attacks: Iterable[PartialAttack],
    keep: Literal["first", "best"] = "best",
) -> Tensor:
    """Run attacks in turn on the samples that none has fooled so far; stops when none is left.

    Each attack is called once, in their order, with the samples not yet fooled, and costs one forward pass more, which
    judges it. `keep` says which image to return where no attack fools: that of the first attack, or the one with the
    largest margin; `x` without attacks.
    """
    x = x.detach()
    radius = per_sample(eps, x).flatten().expand(len(x))
    x_adv, index = x.clone(), torch.arange(len(x), device=x.device)
    best = x.new_full((len(x),), -torch.inf, dtype=torch.float)
    with evaluation_mode(model):
        for attack in attacks:
            if not len(index):
                break
            candidate = attack(x[index], y[index], radius[index], index)
            with torch.no_grad():
                logits = model(candidate)
            value, fell = margin(logits, y[index]), fooled(logits, y[index])
            better = fell | ~(value <= best[index])  # so that NaN comes out too, and can be complained of
            x_adv[index[better]] = candidate[better]
            best[index] = best[index].maximum(value) if keep == "best" else torch.inf
            index = index[~fell]
    return x_adv


@register_attack(
    "pgd-margin", "PGD on the margin from up to 5 random starts", cost=AttackCost(2, 1, each="start", most=5), steps=20
)
@checked()
def pgd_restarts(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    restarts: int = 5,
    loss: LossFunction = margin,
    **options: Any,
) -> Tensor:
    """Run PGD from several random starts; samples that are misclassified are not attacked again.

    `steps` are those from each start, `restarts` the most starts, at least 1. Returned is the first misclassified
    result, else that with the largest margin.
    """

    def attack(x: Tensor, y: Tensor, eps: Tensor, _: Tensor) -> Tensor:
        return pgd(model, x, y, eps=eps, steps=steps, start="random", loss=loss, **options)

    return on_standing(model, x, y, eps=eps, attacks=repeat(attack, restarts))
