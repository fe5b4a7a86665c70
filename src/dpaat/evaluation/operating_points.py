"""Operating points: sensitivity at thresholds that fix the specificity, clean and under attack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from dpaat.evaluation.means import recall_interval

SPECIFICITIES = (0.80, 0.90, 0.95)


@dataclass(frozen=True)
class Threshold:
    """Where to say yes to a binary question, as chosen on validation images."""

    task: str  # such as "malignant"
    positives: tuple[str, ...]  # the classes whose answer is yes
    specificity: float  # wanted on validation, in (0, 1]
    temperature: float  # by which logits are divided
    value: float  # the answer is yes where `task_scores` are larger; log-odds


class OperatingPoint(TypedDict):
    """What `operating_points` returns for one threshold; None where there are no images to count."""

    task: str
    positives: list[str]
    specificity_wanted: float
    threshold: float
    sensitivity: float | None
    sensitivity_interval: list[float] | None
    specificity: float | None
    specificity_interval: list[float] | None
    auroc: float | None
    n_positive: int
    n_negative: int


def task_scores(
    logits: np.ndarray, positives: Sequence[str], classes: Sequence[str], *, temperature: float = 1.0
) -> np.ndarray:
    """Log-odds of a set of classes: `log sum_{k in P} p_k - log sum_{k not in P} p_k`, `p = softmax(z / T)`.

    They rank images as the summed probability of the positive classes does, but do not tie where it rounds to 0 or 1.

    Args:
        logits: z `(N, K)`, or `dpaat.evaluation.calibration.log_probabilities`.
        positives: names P of the positive classes.
        classes: K class names in the order of the columns.
        temperature: T; with more than two classes it changes the ranking.

    Returns scores `(N,)`, float64; raises ValueError where P has an unknown class, none, or all of them, or where the
    logits are not finite or do not fit.
    """
    chosen = _members(positives, classes)
    if logits.ndim != 2 or logits.shape[1] != len(classes) or not np.isfinite(logits).all():
        raise ValueError(f"logits of shape {logits.shape} must be finite and (N, {len(classes)})")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(logsumexp(scaled[:, chosen], axis=1) - logsumexp(scaled[:, ~chosen], axis=1))


def threshold_at(scores: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """Smallest threshold t at which at least the wanted share of the negatives has a score of at most t.

    With n negatives this is the m-th smallest of their scores, m = ceil(specificity * n). Negatives that tie with it
    count as negative too, so that the specificity reached may be higher. Takes finite scores `(N,)` and whether each
    image is positive `(N,)`; raises ValueError for no negatives, or a specificity outside (0, 1].
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"specificity must be above 0 and at most 1, not {specificity}")
    negatives = np.sort(scores[~positive])
    if not len(negatives):
        raise ValueError("a threshold needs negative images")
    # The product may come out a hair above the whole number that it stands for, as 0.07 * 100 does.
    return float(negatives[max(math.ceil(specificity * len(negatives) - 1e-9), 1) - 1])


def choose_thresholds(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    tasks: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    specificities: Sequence[float] = SPECIFICITIES,
    temperature: float = 1.0,
) -> list[Threshold]:
    """Choose thresholds on clean validation images; a task without negatives there has none.

    `logits` are as for `task_scores`, `labels` `(N,)` int64, `tasks` maps names to positive classes; for `temperature`
    see `dpaat.evaluation.calibration.fit_temperature`.
    """
    thresholds = []
    for task, positives in tasks.items():
        positive = _members(positives, classes)[labels]
        scores = task_scores(logits, positives, classes, temperature=temperature)
        for wanted in specificities if not positive.all() else ():
            value = threshold_at(scores, positive, wanted)
            thresholds.append(Threshold(task, tuple(positives), wanted, temperature, value))
    return thresholds


def operating_points(
    thresholds: Sequence[Threshold],
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
    level: float = 0.95,
) -> list[OperatingPoint]:
    """Apply thresholds to images other than those they were chosen on, clean or attacked.

    An attack that aims at the wrong class, whichever, may turn one positive class into another and leave the question
    answered: under attack these numbers are at least as high as an attack on the question itself would leave them.

    Args:
        thresholds: see `choose_thresholds`.
        logits: see `task_scores`.
        labels: `(N,)`, int64, 0 to K - 1.
        classes: K class names in the order of the columns.
        groups: lesion or patient of each image `(N,)`; with them there are intervals.
        level: of the intervals, in (0, 1).

    Returns:
        One entry per threshold: `sensitivity`, the share of positive images above the threshold; `specificity`, the
        share of the others at or below it; their intervals, adjusted for groups; `auroc` of the scores.
    """
    points = []
    for threshold in thresholds:
        positive = _members(threshold.positives, classes)[labels]
        scores = task_scores(logits, threshold.positives, classes, temperature=threshold.temperature)
        above = scores > threshold.value
        sensitivity, sensitivity_interval = _share(above, positive, groups, level)
        specificity, specificity_interval = _share(~above, ~positive, groups, level)
        mixed = positive.any() and not positive.all()
        points.append(
            OperatingPoint(
                task=threshold.task,
                positives=list(threshold.positives),
                specificity_wanted=threshold.specificity,
                threshold=threshold.value,
                sensitivity=sensitivity,
                sensitivity_interval=sensitivity_interval,
                specificity=specificity,
                specificity_interval=specificity_interval,
                auroc=float(roc_auc_score(positive, scores)) if mixed else None,
                n_positive=int(positive.sum()),
                n_negative=int((~positive).sum()),
            )
        )
    return points


def _share(
    correct: np.ndarray, among: np.ndarray, groups: np.ndarray | None, level: float
) -> tuple[float | None, list[float] | None]:
    """Share of `correct` among some images, with its interval."""
    if not among.any():
        return None, None
    interval = None if groups is None else list(recall_interval(correct[among], groups[among], level))
    return float(correct[among].mean()), interval


def _members(positives: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Whether each class is positive, `(K,)` bool."""
    chosen = np.isin(list(classes), list(positives))
    if not set(positives) <= set(classes) or chosen.all() or not chosen.any():
        raise ValueError(f"positive classes {', '.join(positives)} must be some, not all, of {', '.join(classes)}")
    return chosen
