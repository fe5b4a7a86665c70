"""Transfer: adversarial images made on another model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpaat.attacks.apgd import apgd
from dpaat.attacks.norms import Start
from dpaat.attacks.registry import AttackCost, register_attack


@register_attack(
    "transfer",
    "Auto-PGD on the cross-entropy of another model, the source",
    cost=AttackCost(2, 2),
    steps=100,
    starts=True,
    needs_source=True,
)
def transfer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    source: nn.Module,
    eps: float | Tensor,
    steps: int = 100,
    norm: str = "linf",
    start: Start = "random",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make adversarial images by Auto-PGD on another model; `model` itself is not asked.

    A model that falls to these and not to attacks of its own hides its gradient.

    Args:
        model: the model that they are meant for; not used.
        x: see `apgd`.
        y: see `apgd`.
        source: the model that they are made on, with the same classes, on the device of `x`.
        eps: see `apgd`.
        steps: see `apgd`.
        norm: see `apgd`.
        start: see `apgd`.
        generator: see `apgd`.

    Source:
        Papernot et al., "Transferability in Machine Learning", 2016, arXiv 1605.07277.
    """
    return apgd(source, x, y, eps=eps, steps=steps, norm=norm, start=start, generator=generator)
