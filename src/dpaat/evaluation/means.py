"""Intervals for the mean of a score that every image has, with the lesion as the unit (`docs/statistics.md`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from dpaat.evaluation.proportions import holding, recall_interval
from dpaat.evaluation.replicates import SMOOTHING
from dpaat.evaluation.resampling import Clusters, find_clusters, recall_moments
from dpaat.evaluation.statistics import Score, half_width, proportion_score


class ClassMean(Score):
    """Mean of one class; `n` images."""

    n: int


class Means(TypedDict):
    """Means of a score: over the population, over classes counted alike, and of every class that has images."""

    mean: Score
    balanced: Score
    per_class: dict[str, ClassMean]


def score_means(
    values: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    *,
    shares: np.ndarray,
    bounds: tuple[float, float] = (0.0, 1.0),
    binary: bool = False,
    level: float = 0.95,
) -> Means:
    """Average a score, with intervals.

    Args:
        values: score of every image `(N,)`.
        labels: `(N,)`, int64, 0 to K - 1.
        groups: the lesion of every image `(N,)`.
        classes: K class names.
        shares: weights of the classes in the population `(K,)`, of any sum: a draw may have taken others.
        bounds: least and largest value that the score can have.
        binary: whether it is 0 or 1 for nearly every image, where the mean is a proportion.
        level: share of the intervals that should cover.

    Raises:
        ValueError: no images, or lengths that differ.
    """
    if not len(values) or not len(values) == len(labels) == len(groups):
        raise ValueError(f"{len(values)} values, {len(labels)} labels, {len(groups)} groups: as many, at least 1")
    clusters = find_clusters(labels, groups)
    counts = np.bincount(labels, minlength=len(classes))
    present = counts > 0

    def average(weights: np.ndarray) -> Score:
        weights = np.where(present, weights, 0.0)
        weights = weights / weights.sum()
        if binary:
            smoothing = SMOOTHING / np.count_nonzero(weights)
            return proportion_score(recall_moments(values, clusters, weights, smoothing, paired=False), level)
        return _mean(values, clusters, weights, bounds, level)

    per_class = {}
    for k in np.flatnonzero(present).tolist():
        members = labels == k
        if binary:
            interval = list(recall_interval(values[members], groups[members], level))
            one = Score(value=float(np.mean(values[members])), interval=interval)
        else:
            one = average(np.eye(len(classes))[k])
        per_class[classes[k]] = ClassMean(**one, n=int(counts[k]))
    return Means(mean=average(shares.astype(float)), balanced=average(present.astype(float)), per_class=per_class)


def _mean(
    values: np.ndarray, clusters: Clusters, weights: np.ndarray, bounds: tuple[float, float], level: float
) -> Score:
    """Student's interval by the jackknife over lesions, within the bounds."""
    low, high = bounds
    moments = recall_moments(values, clusters, weights, 0.0, paired=True)
    drawn = np.flatnonzero(weights)
    # One lesion shows no spread: the class takes the largest variance that values between the bounds can have.
    alone = clusters.per_class(len(weights))[drawn] == 1
    variances = np.where(alone, weights[drawn] ** 2 * ((high - low) / 2) ** 2, moments.variances)
    half = half_width(dataclasses.replace(moments, variances=variances), level)
    ends = np.clip(moments.value + np.array([-half, half]), low, high)
    return Score(value=moments.value, interval=holding(moments.value, ends))
