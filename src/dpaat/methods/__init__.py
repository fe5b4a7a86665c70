"""Training methods: DPAAT, and one rival a file in `baselines`, each registered where it is defined."""

from dpaat.methods import baselines, dpaat
from dpaat.methods.base import AdversarialTraining, Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.options import option
from dpaat.methods.registry import (
    METHODS,
    Cost,
    MethodInfo,
    build_method,
    complete_options,
    find_method,
    register_method,
)
from dpaat.registry import load_entry_points

__all__ = [
    "METHODS", "AdversarialTraining", "Cost", "Method", "MethodContext", "MethodInfo", "StepOutput", "baselines",
    "build_method", "complete_options", "dpaat", "find_method", "mixed_loss", "option", "register_method",
]  # fmt: skip

load_entry_points("dpaat.methods")
