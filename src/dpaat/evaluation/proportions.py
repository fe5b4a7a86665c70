"""Jeffreys intervals for proportions of images that come in lesions."""

from __future__ import annotations

import numpy as np
from scipy import stats


def recall_interval(correct: np.ndarray, groups: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Find a Jeffreys interval for a proportion of clustered images.

    The images count as n / deff, with the design effect deff = 1 + (m - 1) rho: m is the size of the lesion that an
    image is in, averaged over images; rho is the intra-cluster correlation by the analysis of variance, held between
    0 and 1, and 1 where nothing varies, the cautious assumption.

    Args:
        correct: right or wrong, `(n,)`, of the images of one class.
        groups: the lesion of every image, `(n,)`.
        level: share of the intervals that should cover.

    Raises:
        ValueError: no images, or shapes that do not fit.

    Source: L. D. Brown, T. T. Cai, A. DasGupta, "Interval estimation for a binomial proportion", Statistical Science
    16 (2001), section 3; L. Kish, "Survey Sampling" (1965), section 5.4.
    """
    if correct.ndim != 1 or correct.shape != groups.shape or not len(correct):
        raise ValueError(f"correct {correct.shape} and groups {groups.shape} must be of one length, at least 1")
    n, rate = len(correct), float(np.mean(correct))
    effective = n / design_effect(correct, groups)
    tail = (1 - level) / 2
    a, b = rate * effective + 0.5, (1 - rate) * effective + 0.5
    low, high = holding(rate, stats.beta.ppf([tail, 1 - tail], a, b))
    return low, high


def design_effect(values: np.ndarray, groups: np.ndarray) -> float:
    """Find how many clustered images are worth one independent image, see `recall_interval`."""
    _, lesion = np.unique(groups, return_inverse=True)
    size = np.bincount(lesion)
    n, lesions = len(values), len(size)
    heaviest = float(np.sum(size**2) / n)
    means = np.bincount(lesion, values) / size
    within = np.sum((values - means[lesion]) ** 2) / max(n - lesions, 1)
    between = np.sum(size * (means - np.mean(values)) ** 2) / max(lesions - 1, 1)
    typical = (n - heaviest) / max(lesions - 1, 1)
    total = between + (typical - 1) * within
    correlation = float(np.clip((between - within) / total, 0, 1)) if total > 0 else 1.0
    return 1 + (heaviest - 1) * correlation


def holding(value: float, ends: np.ndarray) -> list[float]:
    """Stretch an interval to hold its metric, which corrections of the center may have left outside."""
    return [float(min(ends[0], value)), float(max(ends[1], value))]
