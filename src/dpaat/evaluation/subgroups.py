"""Subgroup analysis: recall by age, sex, body site and source, compared within class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from dpaat.data.label_sets import members
from dpaat.evaluation.means import design_effect, recall_interval
from dpaat.evaluation.resampling import LEVEL

ATTRIBUTES = ("age", "sex", "site", "source")
MIN_IMAGES = 10
UNKNOWN = "unknown"
AGE_BANDS = {"0-29": 0, "30-44": 30, "45-59": 45, "60-74": 60, "75+": 75}  # name to youngest age, years


Subgroup = dict[str, Any]
"""`n`, and from 10 images on `accuracy`, `per_class` (`n`, `recall`, `interval`), `excess` and `excess_interval`."""


def subgroups(
    frame: pd.DataFrame,
    correct: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
) -> dict[str, dict[str, Subgroup]]:
    """Subgroup analysis by what is known about the images.

    Body site, age and source go with the diagnosis, so a lower accuracy may merely mean a harder mix of classes.
    `excess` compares within class: see `excess_accuracy`.

    `frame` has a row per image, and those of the columns `age` (years), `sex`, `site` and `source` that are there; what
    is missing counts as "unknown". `correct` tells which images are classified correctly `(N,)`, bool, or which labels
    `(N, K)`; `labels` are `(N,)`, int64, 0 to K - 1, or several an image `(N, K)`; `groups`, the lesion or patient of
    each image `(N,)`, is what the intervals (95 %) are adjusted for.

    Returns attribute to name to `Subgroup`. Age bands are in their order, others in the alphabet's, "unknown" last.
    """
    if not len(frame) == len(correct) == len(labels) == len(groups):
        raise ValueError(
            f"{len(frame)} rows, {len(correct)} verdicts, {len(labels)} labels, {len(groups)} groups: must be as many"
        )
    correct = np.asarray(correct, dtype=bool)
    found: dict[str, dict[str, Subgroup]] = {}
    for attribute in (name for name in ATTRIBUTES if name in frame):
        column = frame[attribute]
        if attribute == "age":
            years, edges = pd.to_numeric(column, errors="coerce"), [*AGE_BANDS.values(), np.inf]
            column = pd.cut(years, edges, right=False, labels=list(AGE_BANDS))
        text = column.astype("string").str.strip()
        levels = text.mask(text == "").fillna(UNKNOWN).to_numpy(dtype=str)
        order = sorted(set(levels.tolist()), key=lambda name: (name == UNKNOWN, name))
        found[attribute] = {name: _subgroup(levels == name, correct, labels, groups, classes) for name in order}
    return found


def excess_accuracy(
    member: np.ndarray, correct: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[float, list[float] | None]:
    """Excess accuracy: by how much a subgroup is classified better than its mix of classes would have it.

    With `c_i` whether image i is classified correctly, `R_k` the recall of class k over all images, S the subgroup and
    n its size, the excess is `D = (1/n) sum_{i in S} (c_i - R_{y_i})`. Since `R_k` holds the subgroup's own images,
    `D = (1/n) sum_i a_i (c_i - R_{y_i})` over all images, where `a_i = [i in S] - n_{S,y_i} / n_{y_i}`. Images of one
    group share their fate: with `u_g` the sum of `a_i (c_i - R_{y_i})` over group g and G the number of groups in S,
    the variance is `G / (G - 1) * sum_g u_g^2 / n^2`, and the interval is Student's with G - 1 degrees of freedom.
    Residuals about `R_k`, rather than about the subgroup's own recall, keep it wide enough where a class has few
    images in S. Where recalls are near 0 or 1, a small subgroup may hold no exception at all: the variance is at least
    that under no difference, `sum_k n_{S,k} (1 - n_{S,k} / n_k) r_k (1 - r_k) / n^2` times the design effect, with
    `r_k` the recall of half a right and half a wrong image more. Where an image has several labels, the positives and
    the negatives of each are its classes, and the mean over its known labels its score.

    `member`, at least one, is `(N,)` bool; `correct`, bool, and `labels` are `(N,)`, or `(N, K)`; `groups` `(N,)`.

    Returns the excess, in [-1, 1], and its interval; None where there is nothing to judge by: S is one group,
    holds all images of its classes, or its classes are classified all right or all wrong.
    """
    residual, influence, least = np.zeros(len(labels)), np.zeros(len(labels)), 0.0
    known = np.maximum((labels >= 0).sum(axis=1), 1) if labels.ndim == 2 else np.ones(len(labels))
    for label, right in zip(np.atleast_2d(labels.T), np.atleast_2d(correct.T), strict=True):
        for k in np.unique(label[label >= 0]):
            cell = label == k
            off = np.where(cell, right - right[cell].mean(), 0.0) / known
            residual += off
            influence += (member - member[cell].mean()) * off
            rate = (right[cell].sum() + 0.5) / (cell.sum() + 1)
            inside = np.sum(1 / known[cell & member] ** 2)
            least += float(inside * (1 - member[cell].mean()) * rate * (1 - rate))
    excess = float(residual[member].mean())
    squares = np.bincount(np.unique(groups, return_inverse=True)[1], weights=influence) ** 2
    n, n_groups = member.sum(), len(np.unique(groups[member]))
    if n_groups < 2 or squares.max() < 1e-18:
        return excess, None
    least *= design_effect(residual[member], groups[member])
    deviation = np.sqrt(max(n_groups / (n_groups - 1) * squares.sum(), least)) / n
    reach = float(t.ppf((1 + LEVEL) / 2, n_groups - 1) * deviation)
    return excess, [max(excess - reach, -1.0), min(excess + reach, 1.0)]


def _subgroup(
    member: np.ndarray, correct: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str]
) -> Subgroup:
    n = int(member.sum())
    if n < MIN_IMAGES:
        return {"n": n}
    per_class = {}
    for k, name in enumerate(classes):
        cell = member & members(labels, k)
        if cell.any():
            right = correct[cell] if labels.ndim == 1 else correct[cell, k]
            interval = recall_interval(right, groups[cell])
            per_class[name] = {"n": int(cell.sum()), "recall": float(right.mean()), "interval": interval}
    excess, interval_ = excess_accuracy(member, correct, labels, groups)
    accuracy = float(correct[member][labels[member] >= 0].mean())
    return {"n": n, "accuracy": accuracy, "per_class": per_class, "excess": excess, "excess_interval": interval_}
