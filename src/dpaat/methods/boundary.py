"""How far a rule holds along a line, for the methods that look for the sample's own margin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode

BISECTIONS = 10


def score(model: nn.Module, x: Tensor) -> Tensor:
    """Logits `(B, K)` in eval mode, without gradients; the model is left exactly as found."""
    with evaluation_mode(model), torch.no_grad():
        logits: Tensor = model(x)
    return logits


def bisect(crossed: Callable[[Tensor], Tensor], far: Tensor) -> tuple[Tensor, Tensor]:
    """Enclose where each sample crosses over between 0 and `far`, by halving 10 times.

    Args:
        crossed: values `(B,)` to whether each sample has crossed over there `(B,)`; one forward pass a call.
        far: values where all of interest have crossed `(B,)`; not asked again.

    Returns:
        The last value on this side and the first one beyond, each `(B,)`, `far` / 1024 apart.
    """
    near = torch.zeros_like(far)
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        beyond = crossed(middle)
        near, far = torch.where(beyond, near, middle), torch.where(beyond, middle, far)
    return near, far
