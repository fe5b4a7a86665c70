"""Clinical analyses: calibration, operating points and subgroups, clean and under attack."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logit, logsumexp

from dpaat.evaluation.means import recall_interval
from dpaat.evaluation.metrics import calibration_error
from dpaat.evaluation.specs import WORST_CASE
from dpaat.evaluation.subgroups import subgroups
from dpaat.evaluation.suite import Result
from dpaat.radii import format_radius

SPECIFICITIES = (0.80, 0.90, 0.95)
TEMPERATURES = (0.05, 20.0)
SCORED_BY = "apgd-ce"  # the attack whose outputs on all images are ranked: outputs of several attacks cannot be


def clinical_analyses(
    results: Sequence[Result],
    *,
    validation: tuple[np.ndarray, np.ndarray] | None,
    labels: np.ndarray,
    groups: np.ndarray,
    frame: pd.DataFrame,
    tasks: Mapping[str, Sequence[str]],
    classes: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Clinical analyses of the results of the standard suite.

    Thresholds and temperature are chosen on `validation`, clean logits `(M, K)` and labels `(M,)` of the model's own
    validation images; None leaves both out. `labels`, `groups` (lesion or patient) and `frame` (see `subgroups`) are of
    the evaluated images `(N,)`; `tasks` maps binary questions to their positive classes.

    Returns "subgroups" for clean images and the worst case at each radius; "calibration" and "operating_points" for
    clean images and APGD-CE at each radius. Each maps a condition, such as "clean" or "8/255", to its values.
    """

    def among(attack: str) -> dict[str, Result]:
        chosen = [result for result in results if result.spec.name in ("clean", attack)]
        return {format_radius(result.eps) if result.eps else "clean": result for result in chosen}

    found: dict[str, dict[str, Any]] = {
        "subgroups": {
            name: subgroups(frame, result.predicted == labels, labels, groups, classes)
            for name, result in among(WORST_CASE).items()
        }
    }
    if validation is None:
        return found
    ranked = {n: each.probabilities.numpy() for n, each in among(SCORED_BY).items() if each.probabilities is not None}
    if several := labels.ndim == 2:  # calibration is of the one class that is predicted
        scored = {name: logit(np.clip(each, 1e-300, 1 - 1e-16)) for name, each in ranked.items()}
        asked: dict[str, Any] = {"tasks": {name: (name,) for name in classes}, "specificities": SPECIFICITIES[1:2]}
    else:
        scored = {name: log_probabilities(each) for name, each in ranked.items()}
        temperature = fit_temperature(*validation)
        known = {name: chosen for name, chosen in tasks.items() if set(chosen) < set(classes)}
        asked = {"tasks": known, "temperature": temperature}
        found["calibration"] = {name: calibration(each, labels, temperature) for name, each in scored.items()}
    thresholds = choose_thresholds(*validation, classes=classes, **asked)
    if thresholds or several:
        about: dict[str, Any] = {"labels": labels, "classes": classes, "groups": groups}
        found["operating_points"] = {n: operating_points(thresholds, each, **about) for n, each in scored.items()}
    return found


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm of stored probabilities `(N, K)`, float64, in place of logits, which differ by a constant per image.

    A probability that was rounded to 0 counts as the smallest normal double, 2e-308.
    """
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny, dtype=np.float64)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature scaling: the T under which the labels are likeliest (Guo et al., ICML 2017, arXiv 1706.04599, 4.2).

    Minimizes `mean_i -log softmax(z_i / T)[y_i]`, convex in 1 / T, for logits z `(N, K)` or `log_probabilities` and
    labels y `(N,)`, int64. To be fitted on clean validation images, then used as it is on others, clean and attacked.

    Returns T between 0.05 and 20; near an end where the minimum lies at it or beyond: a model that errs nowhere wants
    T = 0, one that is no better than chance an infinite T. Raises ValueError for shapes that do not fit, no images, or
    logits that are not finite.
    """

    def loss(log_t: float) -> float:
        return _nll(_scaled(logits, labels, float(np.exp(log_t))), labels)

    ends = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x))


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, float]:
    """Measure calibration as the model is, and at a temperature; neither changes the class predicted.

    `ece` is the expected calibration error (`dpaat.evaluation.metrics.calibration_error`), `nll` the mean negative
    log-likelihood of the labels in nats; `ece_scaled` and `nll_scaled` are those of `softmax(z / temperature)`.
    Arguments and errors as of `fit_temperature`; ValueError also for a temperature of 0 or less.
    """
    found = {"temperature": temperature}
    for suffix, divisor in (("", 1.0), ("_scaled", temperature)):
        scaled = _scaled(logits, labels, divisor)
        found[f"ece{suffix}"] = calibration_error(torch.from_numpy(np.exp(scaled)), torch.from_numpy(labels))
        found[f"nll{suffix}"] = _nll(scaled, labels)
    return found


def _scaled(logits: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    """Logarithm of `softmax(z / temperature)`, float64, of logits that fit the labels."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits (N, K) and labels (N,) must fit; these are {logits.shape} and {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite; take log_probabilities of probabilities that may be 0")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return np.asarray(log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1))


def _nll(scaled: np.ndarray, labels: np.ndarray) -> float:
    return float(-scaled[np.arange(len(labels)), labels].mean())


class Threshold(NamedTuple):
    """Decision threshold of a binary question, chosen on validation images."""

    task: str  # such as "malignant"
    positives: tuple[str, ...]  # the classes whose answer is yes
    specificity: float  # wanted on validation, in (0, 1]
    temperature: float  # by which logits are divided
    value: float  # the answer is yes where `task_scores` are larger; log-odds


def task_scores(
    logits: np.ndarray, positives: Sequence[str], classes: Sequence[str], *, temperature: float = 1.0
) -> np.ndarray:
    """Log-odds `(N,)` of a set P of classes: `log sum_{k in P} p_k - log sum_{k not in P} p_k`, `p = softmax(z / T)`.

    They rank images as the summed probability of the positive classes does, but do not tie where it rounds to 0 or 1.
    `logits` are z `(N, K)`, or `log_probabilities`; with more than two classes T changes the ranking. Raises ValueError
    where P has an unknown class, none, or all, or where the logits are not finite or do not fit.
    """
    chosen = _members(positives, classes)
    if logits.ndim != 2 or logits.shape[1] != len(classes) or not np.isfinite(logits).all():
        raise ValueError(f"logits of shape {logits.shape} must be finite and (N, {len(classes)})")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(logsumexp(scaled[:, chosen], axis=1) - logsumexp(scaled[:, ~chosen], axis=1))


def threshold_at(scores: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """Smallest threshold at which at least the wanted share of the negatives scores no higher.

    With n negatives this is the m-th smallest of their scores, m = ceil(specificity * n); ties with it are negative
    too. Takes finite scores `(N,)` and whether each image is positive `(N,)`; raises ValueError for no negatives, or a
    specificity outside (0, 1].
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"specificity must be above 0 and at most 1, not {specificity}")
    negatives = np.sort(scores[~positive])
    if not len(negatives):
        raise ValueError("a threshold needs negative images")
    # The product may come out a hair above the whole number that it means, as 0.07 * 100 does.
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
    """Choose thresholds on clean validation images for tasks, name to positive classes; a task needs negatives.

    `logits` are as for `task_scores`, `labels` `(N,)`, int64; for `temperature` see `fit_temperature`. Several labels
    an image are `(N, K)`; a task is then one label, with its logit as the score.
    """
    thresholds = []
    for task, positives in tasks.items():
        scores, positive, _ = _asked(logits, labels, positives, classes, temperature)
        thresholds += [
            Threshold(task, tuple(positives), wanted, temperature, threshold_at(scores, positive, wanted))
            for wanted in (specificities if not positive.all() else ())
        ]
    return thresholds


def operating_points(
    thresholds: Sequence[Threshold],
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Operating points: thresholds applied to images other than those they were chosen on, clean or attacked.

    An attack that aims at the wrong class, whichever, may turn one positive class into another and leave the question
    answered: under attack these numbers are at least as high as an attack on the question itself would leave them.

    Takes logits and labels as `choose_thresholds` does, and with `groups`, lesion or patient of each image `(N,)`,
    finds intervals. Returns for each threshold `sensitivity`, the share of positive images above it; `specificity`, the
    share of the others at or below it; their intervals; `auroc` of the scores. None where there are no images to count.
    """
    from sklearn.metrics import roc_auc_score

    points = []
    for threshold in thresholds:
        scores, positive, known = _asked(logits, labels, threshold.positives, classes, threshold.temperature)
        point: dict[str, Any] = {"task": threshold.task, "positives": list(threshold.positives)}
        point |= {"specificity_wanted": threshold.specificity, "threshold": threshold.value}
        above = scores > threshold.value
        for name, correct, among in (("sensitivity", above, positive), ("specificity", ~above, ~positive)):
            point |= {name: None, f"{name}_interval": None}
            if among.any():
                point[name] = float(correct[among].mean())
                if groups is not None:
                    point[f"{name}_interval"] = recall_interval(correct[among], groups[known][among])
        mixed = positive.any() and not positive.all()
        point["auroc"] = min(float(roc_auc_score(positive, scores)), 1.0) if mixed else None
        points.append(point | {"n_positive": int(positive.sum()), "n_negative": int((~positive).sum())})
    return points


def _asked(
    logits: np.ndarray, labels: np.ndarray, positives: Sequence[str], classes: Sequence[str], temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and answers of the images whose answer is known, each `(n,)`, and which they are `(N,)`."""
    if labels.ndim == 1:
        scores = task_scores(logits, positives, classes, temperature=temperature)
        return scores, _members(positives, classes)[labels], np.ones(len(labels), dtype=bool)
    k = list(classes).index(positives[0])
    known = labels[:, k] >= 0
    return logits[known, k], labels[known, k] == 1, known


def _members(positives: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Whether each class is positive, `(K,)` bool."""
    chosen = np.isin(list(classes), list(positives))
    if not set(positives) <= set(classes) or chosen.all() or not chosen.any():
        raise ValueError(f"positive classes {', '.join(positives)} must be some, not all, of {', '.join(classes)}")
    return chosen
