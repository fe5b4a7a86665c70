"""Dynamic perturbation-adaptive adversarial training (DPAAT) for medical image classifiers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpaat.attacks import fgsm as fgsm
    from dpaat.attacks import pgd as pgd
    from dpaat.attacks import pgd_with_clean_logits as pgd_with_clean_logits
    from dpaat.integrations.indexed import Indexed as Indexed
    from dpaat.integrations.loss import AdversarialLoss as AdversarialLoss
    from dpaat.perturbation import AdaptivePerturbation as AdaptivePerturbation

__version__ = "0.1.0"
__all__ = [
    "AdaptivePerturbation",
    "AdversarialLoss",
    "Indexed",
    "__version__",
    "fgsm",
    "pgd",
    "pgd_with_clean_logits",
]

_HOME = {
    "AdaptivePerturbation": "dpaat.perturbation",
    "AdversarialLoss": "dpaat.integrations.loss",
    "Indexed": "dpaat.integrations.indexed",
    "fgsm": "dpaat.attacks",
    "pgd": "dpaat.attacks",
    "pgd_with_clean_logits": "dpaat.attacks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dpaat' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
