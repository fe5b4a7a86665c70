"""Calibration: expected calibration error, likelihood, and temperature scaling."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from dpaat.evaluation.metrics import calibration_error

TEMPERATURES = (0.05, 20.0)


class Calibration(TypedDict):
    """What `calibration` returns; errors are fractions between 0 and 1, likelihoods nats per image."""

    temperature: float
    ece: float
    nll: float
    ece_scaled: float
    nll_scaled: float


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm of stored probabilities `(N, K)`, in place of logits, which differ by a constant per image only.

    Float64; a probability that was rounded to 0 counts as the smallest normal double, 2e-308.
    """
    exact = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(np.log(np.maximum(exact, np.finfo(np.float64).tiny)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature under which the labels are likeliest (Guo et al., ICML 2017, arXiv 1706.04599, section 4.2).

    Minimizes `mean_i -log softmax(z_i / T)[y_i]` over log T; the mean is convex in 1 / T, hence has one minimum. To be
    fitted on clean validation images, then used as it is on others, clean and attacked.

    Args:
        logits: z `(N, K)`, or `log_probabilities`.
        labels: y `(N,)`, int64, 0 to K - 1.

    Returns:
        T, between 0.05 and 20; near an end where the minimum lies at it or beyond: a model that errs nowhere wants
        T = 0, one that is no better than chance wants an infinite T.

    Raises:
        ValueError: shapes that do not fit, no images, or logits that are not finite.
    """
    _check(logits, labels)
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: _nll(logits, labels, float(np.exp(log_t))),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float) -> Calibration:
    """Measure calibration as the model is, and at a temperature; neither changes the class predicted.

    Args:
        logits: `(N, K)`, or `log_probabilities`.
        labels: `(N,)`, int64, 0 to K - 1.
        temperature: see `fit_temperature`; positive.

    Returns:
        `ece`, the expected calibration error of the predicted class (`dpaat.evaluation.metrics.calibration_error`),
        and `nll`, the mean negative log-likelihood of the labels; `ece_scaled` and `nll_scaled`, both of
        `softmax(z / temperature)`.

    Raises:
        ValueError: shapes that do not fit, no images, logits that are not finite, or a temperature of 0 or less.
    """
    _check(logits, labels)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return Calibration(
        temperature=temperature,
        ece=_ece(logits, labels, 1.0),
        nll=_nll(logits, labels, 1.0),
        ece_scaled=_ece(logits, labels, temperature),
        nll_scaled=_nll(logits, labels, temperature),
    )


def _scaled(logits: np.ndarray, temperature: float) -> np.ndarray:
    return np.asarray(log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1))


def _nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return float(-_scaled(logits, temperature)[np.arange(len(labels)), labels].mean())


def _ece(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    probabilities = np.exp(_scaled(logits, temperature))
    return calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels))


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits (N, K) and labels (N,) must fit; these are {logits.shape} and {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite; take log_probabilities of probabilities that may be 0")
