"""What the command line knows of a training method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dpaat.methods.base import Method

FIXED = 4 / 255
"""Default radius of the methods that fix one for all images."""
LARGEST = 8 / 255
"""Default largest radius of the methods that move it."""


@dataclass(frozen=True)
class MethodInfo:
    """A training method that can be named on the command line."""

    name: str
    build: Callable[..., Method]
    description: str
    cost: str
    """Per sample and step, in the mean over the epochs, in forward passes F, for K attack steps; a clean weight adds
    3 F unless `in_turn`."""
    adversarial: bool = True
    """Whether it trains for robustness, and is therefore selected by robust validation accuracy."""
    eps: float = 0.0
    """Default radius."""
    moves_radius: bool = False
    """Whether a run's `eps` is only the largest radius of a sample."""
    clean_weight: float = 0.0
    """Default share of the clean loss."""
    in_turn: bool = False
    """Whether a visit shows one view of a sample, clean or adversarial, instead of both."""
    options: type[Any] | None = None
    """Dataclass of further options."""

    def attacked(self, clean_weight: float, options: Mapping[str, Any]) -> float:
        """Share of the visits that attack, in an epoch with attacks, at a run's clean weight and options."""
        if not self.in_turn:
            return float(self.adversarial)
        return float(options.get("attacked") or 1 - clean_weight)

    def beside(self, clean_weight: float, options: Mapping[str, Any]) -> float:
        """Share of the visits, in an epoch with attacks, that learn from the clean and the adversarial view."""
        if self.in_turn:
            return float(options.get("attacked", 0.0))
        return float(self.adversarial and clean_weight > 0)
