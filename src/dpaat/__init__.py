"""Dynamic perturbation-adaptive adversarial training (DPAAT) for medical image classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpaat.api import attack as attack
    from dpaat.api import evaluate as evaluate
    from dpaat.api import explain as explain
    from dpaat.api import load as load
    from dpaat.api import train as train
    from dpaat.attacks import fgsm as fgsm
    from dpaat.attacks import pgd as pgd
    from dpaat.attacks import pgd_with_clean_logits as pgd_with_clean_logits
    from dpaat.config import TrainConfig as TrainConfig
    from dpaat.evaluation.predict import Predictor as Predictor
    from dpaat.evaluation.suite import evaluate_model as evaluate_model
    from dpaat.integrations.indexed import Indexed as Indexed
    from dpaat.integrations.loss import AdversarialLoss as AdversarialLoss
    from dpaat.perturbation import AdaptivePerturbation as AdaptivePerturbation

__version__ = "0.1.0"
_HOME = {
    **dict.fromkeys(("attack", "evaluate", "explain", "load", "train"), "dpaat.api"),
    **dict.fromkeys(("fgsm", "pgd", "pgd_with_clean_logits"), "dpaat.attacks"),
    "AdaptivePerturbation": "dpaat.perturbation",
    "AdversarialLoss": "dpaat.integrations.loss",
    "Indexed": "dpaat.integrations.indexed",
    "Predictor": "dpaat.evaluation.predict",
    "TrainConfig": "dpaat.config",
    "evaluate_model": "dpaat.evaluation.suite",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dpaat' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
