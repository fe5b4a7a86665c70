"""Gaussian noise: the floor that every attack must beat."""

import torch
from torch import Tensor, nn

from dpaat.attacks.checks import checked
from dpaat.attacks.norms import make_ball
from dpaat.attacks.registry import AttackCost, register_attack


@register_attack("gaussian", "one draw of Gaussian noise, the floor that every attack must beat", cost=AttackCost())
@checked("unused")
def gaussian_noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add one draw of Gaussian noise to each image, brought into a ball of its own radius; the model is not asked.

    In Linf, `eps` is also the standard deviation before clipping; in L2, the noise has this length before the box
    clips it.
    """
    ball = make_ball(norm, x.detach(), eps)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return ball.project_(ball.x + ball.eps * (ball.direction(noise) if norm == "l2" else noise))
