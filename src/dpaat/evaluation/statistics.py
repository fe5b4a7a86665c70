"""Intervals and tests for small test sets of unequal classes, whose images come in lesions (`docs/statistics.md`)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from scipy import stats

from dpaat.data.label_sets import members
from dpaat.evaluation.means import Score, holding, proportion_score, recall_interval
from dpaat.evaluation.replicates import Fold, Predictions, find_folds, find_moments
from dpaat.evaluation.resampling import LEVEL

ONE_SIDED = 0.9  # the lower end of the interval of this level is the lower one-sided bound at 95 %
SIGNIFICANT = 0.05  # a p-value below this tells a difference from 0


class Intervals(TypedDict):
    """[lower, upper] of the metrics of one run, fractions between 0 and 1."""

    accuracy: list[float]
    balanced_accuracy: list[float]
    map: list[float] | None
    per_class_recall: dict[str, list[float] | None]


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


def few_runs(replicates: Iterable[tuple[str | None, int | None]]) -> str | None:
    """A caution about runs, by (fold, seed), whose 95 % intervals are known to be too short (`docs/statistics.md`)."""
    seeds = Counter(fold for fold, _ in replicates)
    if [*seeds.values()] == [2]:
        return "two seeds on one split: 95 % intervals are right in 86 to 96 % of cases; take three seeds"
    if 1 < len(seeds) <= 3 and max(seeds.values()) == 1:
        return "one seed a fold: with noisy training, 95 % intervals are right in 87 to 93 % of cases; take two seeds"
    return None


def intervals(
    predicted: np.ndarray,
    probabilities: np.ndarray | None,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
) -> Intervals:
    """Confidence intervals (95 %) of the metrics of one run on one set of images, each of which holds its metric.

    Args:
        predicted: predicted classes `(N,)`, int64.
        probabilities: class probabilities `(N, K)`, or None: no interval for the mean average precision.
        labels: true classes `(N,)`, int64, 0 to K - 1; several an image `(N, K)`, see `dpaat.evaluation.labels`.
        groups: the lesion of every image, `(N,)`.
        classes: K class names; None in `per_class_recall` for an absent one.

    Raises:
        ValueError: no images, or shapes and labels that do not fit.
    """
    run = Predictions(np.arange(len(labels)).astype(str), labels, groups, predicted, probabilities, classes)
    found: dict[str, Any] = {name: score["interval"] for name, score in pooled_intervals([run]).items()}
    recalls: dict[str, list[float] | None] = {}
    for k, name in enumerate(classes):
        mine, answered = members(labels, k), members(predicted, k)
        recalls[name] = recall_interval(answered[mine], groups[mine]) if mine.any() else None
    if labels.ndim == 1:
        # Classes of a lesion or two leave the jackknife nearly everything; their recalls' own ends say more.
        ends, images = np.array([ends for ends in recalls.values() if ends]), np.bincount(labels)
        found["accuracy"] = _within(found["accuracy"], np.average(ends, axis=0, weights=images[images > 0]))
        found["balanced_accuracy"] = _within(found["balanced_accuracy"], ends.mean(axis=0))
    return Intervals(
        accuracy=found["accuracy"],
        balanced_accuracy=found["balanced_accuracy"],
        map=found.get("map"),
        per_class_recall=recalls,
    )


def pooled_intervals(runs: Sequence[Predictions], *, level: float = LEVEL) -> dict[str, Score]:
    """Metrics and intervals of one recipe over its folds and seeds.

    Metrics of runs on the same images, seeds, are averaged. Predictions of different folds are pooled before recalls
    are taken; mean average precision, whose scores different models do not share, is averaged over folds, and found
    where all runs have probabilities. `level` is the share of the intervals that should cover. Raises ValueError: no
    runs, or two that share a part of their images.
    """
    return fold_scores(find_folds(runs), level)


def fold_scores(folds: Sequence[Fold], level: float = LEVEL) -> dict[str, Score]:
    """Metrics and intervals of runs that are sorted into folds already, see `pooled_intervals`."""
    return {name: proportion_score(moments, level) for name, moments in find_moments(folds, paired=False).items()}


def paired_difference(
    first: Sequence[Predictions], second: Sequence[Predictions], *, level: float = LEVEL
) -> dict[str, Difference]:
    """Paired comparison of two recipes on the same images: first minus second.

    `second` has as many runs as `first`, each on the images of its counterpart, in the same order; for metrics, seeds,
    folds and `level` (0.9 for one-sided bounds at 95 %) see `pooled_intervals`. Of a run with itself the difference is
    0, from 0 to 0, with p 1. Raises ValueError: runs that do not pair up.
    """
    if not all(a.same_images(b) for a, b in zip(first, second, strict=True)):
        raise ValueError("paired runs must have the same images with the same labels, in the same order")
    ours, theirs = find_folds(first), find_folds(second)
    our_scores, their_scores = fold_scores(ours, level), fold_scores(theirs, level)
    return {
        name: Difference(
            first=our_scores[name],
            second=their_scores[name],
            difference=found["difference"],
            interval=_within(found["interval"], np.array([-1.0, 1.0])),
            p_value=found["p_value"],
        )
        for name, found in contrast(ours, theirs, level=level).items()
    }


def contrast(first: Sequence[Fold], second: Sequence[Fold], *, level: float = LEVEL) -> dict[str, Contrast]:
    """Paired comparison of outcomes that are sorted into folds already, see `paired_difference`."""
    found = {}
    pairs = [a.minus(b) for a, b in zip(first, second, strict=True)]
    for name, moments in find_moments(pairs, paired=True).items():
        value, center, error = moments.value, moments.center, np.sqrt(moments.variance)
        p_value = 2 * stats.t.sf(abs(center) / error, moments.degrees_of_freedom) if error else value == 0
        found[name] = Contrast(
            difference=value,
            interval=holding(value, center + np.array([-1, 1]) * moments.half_width(level)),
            bound=min(value, center - moments.half_width(ONE_SIDED)),
            p_value=float(p_value),
        )
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values (Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(p) for p in adjusted]


def adjust(comparisons: Iterable[Mapping[str, Any] | None]) -> None:
    """Holm's adjustment of contrasts, one family a metric whatever its radius ("map@2/255"): adds `p_adjusted`."""
    families: dict[str, list[Any]] = {}
    for contrasts in comparisons:
        for name, found in (contrasts or {}).items():
            families.setdefault(name.partition("@")[0], []).append(found)
    for family in families.values():
        for found, adjusted in zip(family, holm([each["p_value"] for each in family]), strict=True):
            found["p_adjusted"] = adjusted


def _within(interval: list[float], bounds: np.ndarray) -> list[float]:
    return [max(interval[0], float(bounds[0])), min(interval[1], float(bounds[1]))]
