"""Intervals and tests for small test sets of unequal classes, whose images come in lesions (`docs/statistics.md`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from dpaat.evaluation.replicates import Fold, Predictions, find_folds, find_moments
from dpaat.evaluation.resampling import Moments

__all__ = [
    "Difference",
    "Intervals",
    "Predictions",
    "Score",
    "design_effect",
    "holm",
    "intervals",
    "paired_difference",
    "pooled_intervals",
    "recall_interval",
]


class Intervals(TypedDict):
    """What `intervals` returns: [lower, upper] for every metric, fractions between 0 and 1."""

    accuracy: list[float]
    balanced_accuracy: list[float]
    map: list[float] | None
    per_class_recall: dict[str, list[float] | None]


class Score(TypedDict):
    """A metric of one recipe, pooled over its runs, with its interval."""

    value: float
    interval: list[float]


class Difference(TypedDict):
    """A metric of two recipes on the same images; `p_value` is two-sided."""

    first: Score
    second: Score
    difference: float
    interval: list[float]
    p_value: float


def intervals(
    predicted: np.ndarray,
    probabilities: np.ndarray | None,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    *,
    level: float = 0.95,
) -> Intervals:
    """Find confidence intervals for the metrics of one run on one set of images.

    Args:
        predicted: predicted classes `(N,)`, int64.
        probabilities: class probabilities `(N, K)`, or None: no interval for the mean average precision.
        labels: true classes `(N,)`, int64, 0 to K - 1.
        groups: the lesion of every image, `(N,)`.
        classes: K class names.
        level: share of the intervals that should cover.

    Returns:
        Ready for JSON; None in `per_class_recall` for an absent class. Every interval holds its metric.

    Raises:
        ValueError: no images, or shapes and labels that do not fit.
    """
    run = Predictions(np.arange(len(labels)).astype(str), labels, groups, predicted, probabilities, classes)
    scores = pooled_intervals([run], level=level)
    recalls: dict[str, list[float] | None] = {}
    for k, name in enumerate(classes):
        members = labels == k
        correct = predicted[members] == k
        recalls[name] = list(recall_interval(correct, groups[members], level)) if members.any() else None
    # Classes of a lesion or two leave the jackknife nearly everything; their recalls' own ends say more.
    ends = np.array([ends for ends in recalls.values() if ends])
    images = np.bincount(labels)
    of_images = np.average(ends, axis=0, weights=images[images > 0])
    return Intervals(
        accuracy=_within(scores["accuracy"]["interval"], of_images),
        balanced_accuracy=_within(scores["balanced_accuracy"]["interval"], ends.mean(axis=0)),
        map=scores["map"]["interval"] if "map" in scores else None,
        per_class_recall=recalls,
    )


def pooled_intervals(runs: Sequence[Predictions], *, level: float = 0.95) -> dict[str, Score]:
    """Find metrics and intervals of one recipe over its folds and seeds.

    Runs on the same images are seeds, whose metrics are averaged; others are folds. Predictions of all folds are
    pooled before recalls are taken; mean average precision, whose scores different models do not share, is averaged
    over folds.

    Args:
        runs: of one recipe.
        level: share of the intervals that should cover.

    Returns:
        `accuracy`, `balanced_accuracy` and, where all runs have probabilities, `map`.

    Raises:
        ValueError: no runs, or two that share a part of their images.
    """
    return fold_scores(find_folds(runs), level)


def paired_difference(
    first: Sequence[Predictions], second: Sequence[Predictions], *, level: float = 0.95
) -> dict[str, Difference]:
    """Compare two recipes on the same images: first minus second.

    Args:
        first: runs of a recipe, seeds and folds as in `pooled_intervals`.
        second: as many runs of another, each on the images of its counterpart in `first`, in the same order.
        level: share of the intervals that should cover; 0.9 for one-sided bounds at 95 %.

    Returns:
        For the metrics as in `pooled_intervals`. Of a run with itself the difference is 0, from 0 to 0, with p 1.

    Raises:
        ValueError: runs that do not pair up.
    """
    for a, b in zip(first, second, strict=True):
        if not (np.array_equal(a.ids, b.ids) and np.array_equal(a.labels, b.labels)):
            raise ValueError("paired runs must have the same images with the same labels, in the same order")
    ours, theirs = find_folds(first), find_folds(second)
    our_scores, their_scores = fold_scores(ours, level), fold_scores(theirs, level)
    differences = find_moments([a.minus(b) for a, b in zip(ours, theirs, strict=True)], paired=True)
    found = {}
    for name, moments in differences.items():
        half, error = half_width(moments, level), np.sqrt(moments.variance)
        ends = moments.center + np.array([-half, half])
        p_value = 2 * stats.t.sf(abs(moments.center) / error, degrees_of_freedom(moments)) if error else 1.0
        found[name] = Difference(
            first=our_scores[name],
            second=their_scores[name],
            difference=moments.value,
            interval=holding(moments.value, np.clip(ends, -1, 1)),
            p_value=float(p_value),
        )
    return found


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method, in the order given.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979).
    """
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(p) for p in adjusted]


def fold_scores(folds: Sequence[Fold], level: float) -> dict[str, Score]:
    """Find metrics and intervals of runs that are sorted into folds already, see `pooled_intervals`.

    Intervals are made on the logit scale, which keeps them within 0 and 1 and skews them as the metric is skewed.
    """
    found = {}
    for name, moments in find_moments(folds, paired=False).items():
        found[name] = proportion_score(moments, level)
    return found


def proportion_score(moments: Moments, level: float) -> Score:
    """Find the interval of a metric between 0 and 1 on the logit scale, see `fold_scores`."""
    center, half = moments.center, half_width(moments, level)
    ends = expit(logit(center) + np.array([-half, half]) / (center * (1 - center)))
    # Where classes of a lesion or two leave nearly everything open, the logit would stretch across all of 0 to 1.
    ends = np.clip(ends, center - 2 * half, center + 2 * half)
    return Score(value=moments.value, interval=holding(moments.value, ends))


def degrees_of_freedom(moments: Moments) -> float:
    """Degrees of freedom of the variance, by Satterthwaite's approximation."""
    uncertain = np.sum(moments.variances**2 / moments.dof)
    return float(moments.variance**2 / uncertain) if uncertain else np.inf


def half_width(moments: Moments, level: float) -> float:
    """Half the length of Student's interval."""
    if not moments.variance:
        return 0.0
    return float(stats.t.ppf((1 + level) / 2, degrees_of_freedom(moments)) * np.sqrt(moments.variance))


def _within(interval: list[float], bounds: np.ndarray) -> list[float]:
    return [max(interval[0], float(bounds[0])), min(interval[1], float(bounds[1]))]


def holding(value: float, ends: np.ndarray) -> list[float]:
    """Stretch an interval to hold its metric, which corrections of the center may have left outside."""
    return [float(min(ends[0], value)), float(max(ends[1], value))]
