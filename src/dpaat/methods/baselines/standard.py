"""Standard training on clean images."""

from __future__ import annotations

from dpaat.methods.base import Standard
from dpaat.methods.registry import Cost, register_method

register_method("standard", "clean images only", cost=Cost(), adversarial=False)(Standard)
