"""Replicates of a recipe: seeds on the same images, folds on different ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dpaat.evaluation.resampling import (
    SCORES,
    Clusters,
    Moments,
    find_clusters,
    leave_out_precision,
    merge_clusters,
    precision_moments,
    recall_moments,
    resampled_scores,
)

SMOOTHING = 3 / 4
"""Weight, shared by the classes, of the made-up lesions that smooth the estimates; chosen by simulation."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one run on its images."""

    ids: np.ndarray  # `(N,)` str
    labels: np.ndarray  # true classes, `(N,)` int64, 0 to K - 1; several an image `(N, K)`, int8, -1 unknown
    groups: np.ndarray  # the lesion of every image, `(N,)`
    predicted: np.ndarray  # classes, `(N,)` int64, or answers `(N, K)`
    probabilities: np.ndarray | None  # `(N, K)`, None where only the predicted class is known
    classes: Sequence[str]  # K names

    def __post_init__(self) -> None:
        n, k = len(self.labels), len(self.classes)
        each = (n,) if self.labels.ndim == 1 else (n, k)
        parts = ((self.ids, (n,)), (self.groups, (n,)), (self.labels, each), (self.predicted, each))
        if not n or any(part.shape != shape for part, shape in parts):
            raise ValueError("ids, labels, groups and predicted must be of one length, at least 1")
        if self.labels.ndim == 1 and (self.labels.min() < 0 or self.labels.max() >= k):
            raise ValueError(f"labels must be between 0 and {k - 1}")
        if self.probabilities is not None and self.probabilities.shape != (n, k):
            raise ValueError(f"probabilities have shape {self.probabilities.shape}, not {(n, k)}")

    def same_images(self, other: "Predictions") -> bool:
        """Whether another run has the same images with the same labels, in the same order."""
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.labels, other.labels)


@dataclass(frozen=True, eq=False)
class Fold:
    """Outcomes on one set of images, of S seeds of one recipe, or differences between two recipes."""

    images: Predictions  # any of the runs, for what does not depend on the model
    blocks: Clusters  # the lesions as they are left out for average precision
    correct: np.ndarray  # 1 or 0 for every seed and image, `(S, N)`, or their differences
    precision: np.ndarray | None  # see `precision_moments`, `(S, 1 + blocks, K)`; None without probabilities
    # With several labels an image all is here instead: `resampled_scores` of every seed, `(S, 4, 1 + resamples)`.
    resampled: np.ndarray | None = None

    def minus(self, other: "Fold") -> "Fold":
        """Difference of two recipes, seed by seed."""
        precision = None
        if self.precision is not None and other.precision is not None:
            precision = self.precision - other.precision
        if self.resampled is not None and other.resampled is not None:
            return replace(self, resampled=self.resampled - other.resampled)
        return replace(self, correct=self.correct - other.correct, precision=precision)


def find_fold(run: Predictions) -> Fold:
    """Outcomes of one run."""
    if run.labels.ndim == 2:
        scores = resampled_scores(run.predicted, run.labels, run.probabilities, run.groups)
        return of_labels(run, scores)
    blocks = merge_clusters(find_clusters(run.labels, run.groups))
    correct = (run.predicted == run.labels)[None].astype(float)
    if run.probabilities is None:
        return Fold(run, blocks, correct, None)
    table = np.full((1 + len(blocks.label), len(run.classes)), np.nan)
    for k in np.unique(run.labels):
        table[:, k] = leave_out_precision(run.probabilities[:, k], run.labels, k, blocks)
    return Fold(run, blocks, correct, table[None])


def of_labels(images: Predictions, scores: np.ndarray) -> Fold:
    """Outcomes of one run on images of several labels, from their `resampled_scores`."""
    nothing = np.zeros(0, dtype=np.int64)
    return Fold(images, Clusters(nothing, nothing), np.zeros((1, 0)), None, scores[None])


def find_folds(runs: Sequence[Predictions]) -> list[Fold]:
    """Outcomes of several runs of one recipe, see `merge_seeds`."""
    return merge_seeds([find_fold(run) for run in runs])


def merge_seeds(runs: Sequence[Fold]) -> list[Fold]:
    """Sort runs into folds: those on the same images are seeds of one.

    Raises ValueError for no runs, two that share a part of their images, or that order them or the classes differently.
    """
    if not runs:
        raise ValueError("there are no runs")
    folds: list[list[Fold]] = []
    for run in runs:
        seeds = next((each for each in folds if run.images.same_images(each[0].images)), None)
        if seeds is not None:
            seeds.append(run)
        elif any(np.isin(run.images.ids, each[0].images.ids).any() for each in folds):
            raise ValueError("two runs must have all images and labels in common, in the same order, or none")
        else:
            folds.append([run])
    if any(list(run.images.classes) != list(runs[0].images.classes) for run in runs):
        raise ValueError("the runs differ in their classes")
    merged = []
    for seeds in folds:
        tables = [run.precision for run in seeds if run.precision is not None]
        precision = np.concatenate(tables) if len(tables) == len(seeds) else None
        scores = [run.resampled for run in seeds if run.resampled is not None]
        correct = np.concatenate([run.correct for run in seeds])
        resampled = np.concatenate(scores) if scores else None
        merged.append(replace(seeds[0], correct=correct, precision=precision, resampled=resampled))
    return merged


def find_moments(folds: Sequence[Fold], *, paired: bool) -> dict[str, Moments]:
    """Moments of `accuracy`, `balanced_accuracy` and, if all runs have probabilities, `map`.

    They are pooled over folds of one recipe, or of differences (`paired`), and averaged over seeds.
    """
    if folds[0].resampled is not None:
        return _label_moments(folds, paired=paired)
    labels = np.concatenate([fold.images.labels for fold in folds])
    clusters = find_clusters(labels, np.concatenate([fold.images.groups for fold in folds]))
    correct = np.concatenate([fold.correct.mean(axis=0) for fold in folds])
    images = np.bincount(labels, minlength=len(folds[0].images.classes))
    present = images > 0
    share = SMOOTHING / present.sum()
    accuracy = recall_moments(correct, clusters, images / images.sum(), share, paired=paired)
    balanced = recall_moments(correct, clusters, present / present.sum(), share, paired=paired)
    recalls = []
    for fold in folds:
        own = np.bincount(fold.images.labels)
        recalls.append(fold.correct @ (1 / own[fold.images.labels]) / np.count_nonzero(own))
    found = {
        "accuracy": _with_training(accuracy, [fold.correct.mean(axis=1) for fold in folds]),
        "balanced_accuracy": _with_training(balanced, recalls),
    }
    tables = [fold.precision for fold in folds if fold.precision is not None]
    if len(tables) == len(folds):
        parts = []
        for fold, table in zip(folds, tables, strict=True):
            lesions = find_clusters(fold.images.labels, fold.images.groups)
            parts.append(precision_moments(table.mean(axis=0), fold.blocks, lesions, share, paired=paired))
        mean = Moments(
            float(np.mean([part.value for part in parts])),
            float(np.mean([part.center for part in parts])),
            np.concatenate([part.variances for part in parts]) / len(parts) ** 2,
            np.concatenate([part.dof for part in parts]),
        )
        found["map"] = _with_training(mean, [np.nanmean(table[:, 0], axis=1) for table in tables])
    return found


def _label_moments(folds: Sequence[Fold], *, paired: bool) -> dict[str, Moments]:
    """The same where an image has several labels: means over folds, with the variance of the cluster bootstrap."""
    tables = [fold.resampled for fold in folds if fold.resampled is not None]
    lesions = np.array([len(np.unique(fold.images.groups)) for fold in folds])
    found = {}
    for number, name in enumerate(SCORES):
        scores = [table[:, number] for table in tables]
        if not any(np.isnan(each[:, 0]).any() for each in scores):
            value = float(np.mean([each[:, 0].mean() for each in scores]))
            variances = np.array([np.nanvar(each[:, 1:].mean(axis=0), ddof=1) for each in scores])
            # Resampling one lesion shows nothing: the most there can be.
            variances[(lesions < 2) & [bool(each.any()) for each in scores]] = 1.0 if paired else 0.25
            variances /= len(scores) ** 2
            share = 0.0 if paired else SMOOTHING / lesions.sum()
            moments = Moments(value, (value + share / 2) / (1 + share), variances, np.maximum(lesions - 1.0, 1.0))
            found[name] = _with_training(moments, [each[:, 0] for each in scores])
    return found


def _with_training(moments: Moments, values: Sequence[np.ndarray]) -> Moments:
    """Add what another training would change, as far as several runs show it.

    `values` is the metric of every seed, per fold. Seeds show the variance of training by themselves; with one run per
    fold it is what the folds differ by beyond their lesions.
    """
    dof = sum(len(seeds) - 1 for seeds in values)
    if dof:
        variance = sum(float(np.sum((seeds - seeds.mean()) ** 2)) for seeds in values) / dof
        variance = variance * sum(1 / len(seeds) for seeds in values) / len(values) ** 2
    elif len(values) > 1:
        dof = len(values) - 1
        variance = max(float(np.var([seeds[0] for seeds in values], ddof=1)) / len(values) - moments.variance, 0.0)
    else:
        return moments
    return replace(moments, variances=np.append(moments.variances, variance), dof=np.append(moments.dof, dof))
