"""The fast gradient sign method and its Euclidean twin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpaat.attacks.checks import checked
from dpaat.attacks.losses import LossFunction, cross_entropy
from dpaat.attacks.norms import Start
from dpaat.attacks.pgd import pgd
from dpaat.attacks.registry import AttackCost, register_attack


@register_attack("fgsm", "one signed gradient step (Goodfellow et al. 2015)", cost=AttackCost(base=2), starts=True)
@checked("as the loss")
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    start: Start = "zero",
    loss: LossFunction = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Find adversarial images by one step of the whole radius: $x + \epsilon\, d(\nabla_x \ell(f(x), y))$.

    Arguments, result and errors are those of `pgd` with one step of size `eps`; from a random start the step is
    1.25 * eps, as in fast adversarial training (Wong et al. 2020).

    Source:
        Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv 1412.6572, section 4.
    """
    step_size = eps if start == "zero" else 1.25 * eps
    return pgd(
        model, x, y, eps=eps, steps=1, step_size=step_size, norm=norm, start=start, loss=loss, generator=generator
    )
