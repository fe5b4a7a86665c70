"""Confidence intervals of proportions and means over images that come in lesions (`docs/statistics.md`)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from dpaat.evaluation.replicates import SMOOTHING
from dpaat.evaluation.resampling import LEVEL, Moments, find_clusters, recall_moments


class Score(TypedDict):
    """A metric of one recipe, pooled over its runs, with its interval."""

    value: float
    interval: list[float]


class ClassMean(Score):
    """Mean of one class; `n` images."""

    n: int


class Means(TypedDict):
    """Means of a score: over the population, over classes counted alike, and of every class that has images."""

    mean: Score
    balanced: Score
    per_class: dict[str, ClassMean]


def recall_interval(correct: np.ndarray, groups: np.ndarray) -> list[float]:
    """Jeffreys interval [lower, upper] at 95 % of a proportion of clustered images, which count as n / `design_effect`.

    `correct` says which images are right, `groups` the lesion of each, `(n,)`. Raises ValueError for no images, or
    shapes that do not fit.

    Source: L. D. Brown, T. T. Cai, A. DasGupta, Statistical Science 16 (2001), section 3; L. Kish, "Survey Sampling"
    (1965), section 5.4.
    """
    if correct.ndim != 1 or correct.shape != groups.shape or not len(correct):
        raise ValueError(f"correct {correct.shape} and groups {groups.shape} must be of one length, at least 1")
    tail, rate, effective = (1 - LEVEL) / 2, float(np.mean(correct)), len(correct) / design_effect(correct, groups)
    return holding(rate, stats.beta.ppf([tail, 1 - tail], rate * effective + 0.5, (1 - rate) * effective + 0.5))


def design_effect(values: np.ndarray, groups: np.ndarray) -> float:
    """Design effect: how many clustered images are worth one independent image, 1 + (m - 1) rho.

    m is the size of the lesion that an image is in, averaged over images; rho is the intra-cluster correlation by the
    analysis of variance, held between 0 and 1, and 1 where nothing varies, the cautious assumption.
    """
    _, lesion, size = np.unique(groups, return_inverse=True, return_counts=True)
    n, lesions = len(values), len(size)
    heaviest = float(np.sum(size**2) / n)
    means = np.bincount(lesion, values) / size
    within = np.sum((values - means[lesion]) ** 2) / max(n - lesions, 1)
    between = np.sum(size * (means - np.mean(values)) ** 2) / max(lesions - 1, 1)
    typical = (n - heaviest) / max(lesions - 1, 1)
    total = between + (typical - 1) * within
    return 1 + (heaviest - 1) * (float(np.clip((between - within) / total, 0, 1)) if total > 0 else 1.0)


def score_means(
    values: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    *,
    shares: np.ndarray,
    bounds: tuple[float, float] = (0.0, 1.0),
    binary: bool = False,
) -> Means:
    """Means of a score that every image has, with intervals whose unit is the lesion.

    `values` are the scores, `labels` 0 to K - 1, int64, and `groups` the lesions of the images, `(N,)`; `shares`
    weights of the classes in the population `(K,)`, of any sum: a draw may have taken others. `bounds` are the least
    and the largest value of a score, which is 0 or 1 for nearly every image if `binary`: the mean is then a proportion.
    Raises ValueError for no images, or lengths that differ.
    """
    if not len(values) or not len(values) == len(labels) == len(groups):
        raise ValueError(f"{len(values)} values, {len(labels)} labels, {len(groups)} groups: as many, at least 1")
    clusters = find_clusters(labels, groups)
    counts = np.bincount(labels, minlength=len(classes))
    lesions = clusters.per_class(len(classes))

    def average(weights: np.ndarray) -> Score:
        weights = np.where(counts > 0, weights, 0.0)
        weights = weights / weights.sum()
        drawn = np.flatnonzero(weights)
        if binary:
            return proportion_score(recall_moments(values, clusters, weights, SMOOTHING / len(drawn), paired=False))
        moments = recall_moments(values, clusters, weights, 0.0, paired=True)
        # One lesion shows no spread: the class takes the largest variance that values between the bounds can have.
        largest = weights[drawn] ** 2 * ((bounds[1] - bounds[0]) / 2) ** 2
        moments = replace(moments, variances=np.where(lesions[drawn] == 1, largest, moments.variances))
        ends = np.clip(moments.value + np.array([-1, 1]) * moments.half_width(LEVEL), *bounds)
        return Score(value=moments.value, interval=holding(moments.value, ends))

    per_class = {}
    for k in np.flatnonzero(counts).tolist():
        own = values[labels == k]
        one = average(np.eye(len(classes))[k])
        if binary:
            one = Score(value=float(np.mean(own)), interval=recall_interval(own, groups[labels == k]))
        per_class[classes[k]] = ClassMean(**one, n=len(own))
    return Means(mean=average(shares.astype(float)), balanced=average(np.ones(len(classes))), per_class=per_class)


def proportion_score(moments: Moments, level: float = LEVEL) -> Score:
    """Interval of a metric on the logit scale, which keeps it within 0 and 1 and skews it as the metric is skewed."""
    center, half = moments.center, moments.half_width(level)
    ends = expit(logit(center) + np.array([-half, half]) / (center * (1 - center)))
    # Where classes of a lesion or two leave nearly everything open, the logit would stretch across all of 0 to 1.
    ends = np.clip(ends, center - 2 * half, center + 2 * half)
    return Score(value=moments.value, interval=holding(moments.value, ends))


def holding(value: float, ends: np.ndarray) -> list[float]:
    """Stretch an interval to hold its metric, which corrections of the center may have left outside."""
    return [float(min(ends[0], value)), float(max(ends[1], value))]
