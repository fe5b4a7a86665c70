"""Intervals and tests for small test sets of unequal classes, whose images come in lesions (`docs/statistics.md`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from dpaat.evaluation.proportions import design_effect, holding, recall_interval
from dpaat.evaluation.replicates import Fold, Predictions, find_folds, find_moments
from dpaat.evaluation.resampling import Moments

__all__ = [
    "Contrast",
    "Difference",
    "Intervals",
    "Predictions",
    "Score",
    "adjust",
    "contrast",
    "design_effect",
    "holm",
    "intervals",
    "paired_difference",
    "pooled_intervals",
    "recall_interval",
]


ONE_SIDED = 0.9
"""The lower end of the interval of this level is the lower one-sided bound at 95 %."""
SIGNIFICANT = 0.05
"""A p-value below this tells a difference from 0."""


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


class Contrast(TypedDict):
    """A difference between recipes on the same images; `bound` is the lower one-sided one at 95 %."""

    difference: float
    interval: list[float]
    bound: float
    p_value: float


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
        if not a.same_images(b):
            raise ValueError("paired runs must have the same images with the same labels, in the same order")
    ours, theirs = find_folds(first), find_folds(second)
    our_scores, their_scores = fold_scores(ours, level), fold_scores(theirs, level)
    return {
        name: Difference(
            first=our_scores[name],
            second=their_scores[name],
            difference=found["difference"],
            interval=[max(found["interval"][0], -1.0), min(found["interval"][1], 1.0)],
            p_value=found["p_value"],
        )
        for name, found in contrast(ours, theirs, level=level).items()
    }


def contrast(first: Sequence[Fold], second: Sequence[Fold], *, level: float = 0.95) -> dict[str, Contrast]:
    """Compare outcomes on the same images, sorted into folds already: first minus second, see `paired_difference`."""
    found = {}
    pairs = [a.minus(b) for a, b in zip(first, second, strict=True)]
    for name, moments in find_moments(pairs, paired=True).items():
        error = np.sqrt(moments.variance)
        ends = moments.center + np.array([-1, 1]) * half_width(moments, level)
        p_value = (
            2 * stats.t.sf(abs(moments.center) / error, degrees_of_freedom(moments)) if error else moments.value == 0
        )
        found[name] = Contrast(
            difference=moments.value,
            interval=holding(moments.value, ends),
            bound=min(moments.value, moments.center - half_width(moments, ONE_SIDED)),
            p_value=float(p_value),
        )
    return found


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


def adjust(comparisons: Iterable[Mapping[str, Any] | None]) -> None:
    """Add `p_adjusted` to contrasts by metric: Holm's method, one family a metric whatever its radius ("map@2/255")."""
    families: dict[str, list[Any]] = {}
    for contrasts in comparisons:
        for name, found in (contrasts or {}).items():
            families.setdefault(name.partition("@")[0], []).append(found)
    for family in families.values():
        for found, adjusted in zip(family, holm([each["p_value"] for each in family]), strict=True):
            found["p_adjusted"] = adjusted


def fold_scores(folds: Sequence[Fold], level: float = 0.95) -> dict[str, Score]:
    """Find metrics and intervals of runs that are sorted into folds already, see `pooled_intervals`.

    Intervals are made on the logit scale, which keeps them within 0 and 1 and skews them as the metric is skewed.
    """
    return {name: proportion_score(moments, level) for name, moments in find_moments(folds, paired=False).items()}


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
