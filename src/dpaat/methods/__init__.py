"""Training methods: DPAAT, and one rival a file in `baselines`, each registered where it is defined."""

from __future__ import annotations

from dpaat.methods import baselines, dpaat
from dpaat.methods.base import Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.registry import (
    METHODS,
    Cost,
    MethodInfo,
    build_method,
    complete_options,
    find_method,
    register_method,
)
from dpaat.plugins import load_entry_points

__all__ = [
    "METHODS",
    "Cost",
    "Method",
    "MethodContext",
    "MethodInfo",
    "StepOutput",
    "baselines",
    "build_method",
    "complete_options",
    "dpaat",
    "find_method",
    "mixed_loss",
    "register_method",
]

load_entry_points("dpaat.methods")
