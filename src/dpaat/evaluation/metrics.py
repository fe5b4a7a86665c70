"""Classification metrics for unequal classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_recall,
)

from dpaat.errors import UserError

CALIBRATION_BINS = 15


class Metrics(TypedDict):
    """What `classification_metrics` and `verdict_metrics` return; all scores are fractions between 0 and 1.

    `map`, `auroc` and `ece` are None where there are verdicts only.
    """

    accuracy: float
    balanced_accuracy: float
    map: float | None
    auroc: float | None
    ece: float | None
    per_class_recall: dict[str, float | None]
    support: dict[str, int]
    absent: list[str]


def require_finite(outputs: Tensor) -> None:
    """Refuse model outputs `(N, K)` that are NaN or infinite; the UserError says for how many images."""
    bad = int((~outputs.isfinite()).any(dim=1).sum())
    if bad:
        raise UserError(
            f"the model produced NaN or infinite outputs for {bad} of {len(outputs)} images; "
            "its weights or its training are broken"
        )


def require_labels(labels: Tensor, n: int, num_classes: int) -> None:
    """Refuse labels other than `(n,)` whole numbers from 0 to K - 1, by a UserError."""
    if labels.shape != (n,):
        raise UserError(f"{n} images but labels of shape {tuple(labels.shape)}")
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise UserError(f"labels must be whole numbers, class 0 to {num_classes - 1}; these are {labels.dtype}")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise UserError(f"label {int(outside[0])} is outside 0 to {num_classes - 1} ({len(outside)} such images)")


def verdict_metrics(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> Metrics:
    """Score predicted classes alone, such as the worst case over several attacks, whose outputs cannot be ranked.

    Args:
        predicted: predicted classes `(N,)`, int64, 0 to K - 1.
        labels: true classes `(N,)`, int64, 0 to K - 1.
        classes: K class names.

    Returns:
        As `classification_metrics`, with `map`, `auroc` and `ece` None.

    Raises:
        UserError: no images, or labels that do not fit.
        ValueError: predictions that do not fit.
    """
    require_labels(labels, len(predicted), len(classes))
    if not len(labels):
        raise UserError("there are no images to score")
    if predicted.shape != labels.shape or not 0 <= int(predicted.min()) <= int(predicted.max()) < len(classes):
        raise ValueError(f"predictions must be {len(labels)} classes from 0 to {len(classes) - 1}")
    support = torch.bincount(labels, minlength=len(classes)).tolist()
    recall = multiclass_recall(predicted, labels, num_classes=len(classes), average="none").tolist()
    return Metrics(
        accuracy=float(multiclass_accuracy(predicted, labels, num_classes=len(classes), average="micro")),
        balanced_accuracy=float(np.mean([recall[k] for k, count in enumerate(support) if count])),
        map=None,
        auroc=None,
        ece=None,
        per_class_recall={name: recall[k] if support[k] else None for k, name in enumerate(classes)},
        support=dict(zip(classes, support, strict=True)),
        absent=[name for k, name in enumerate(classes) if not support[k]],
    )


def classification_metrics(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Metrics:
    """Score predictions; classes without an image do not count, and are named.

    Args:
        probabilities: class probabilities `(N, K)` in [0, 1], floating. Double precision keeps the ranking of
            confident predictions, which float32 rounds to ties at 1.
        labels: true classes `(N,)`, int64, 0 to K - 1.
        classes: K class names in the order of the columns.

    Returns:
        `accuracy`; `balanced_accuracy`, the mean recall over the classes present; `map`, the one-vs-rest average
        precision averaged over the classes present; `auroc`, the one-vs-rest area under the ROC curve averaged over
        the classes that have images inside and outside, None if there is none; `ece`, see `calibration_error`;
        `per_class_recall`, None for an absent class; `support`, images per class; `absent`, the classes without an
        image. With two classes `auroc` is the usual binary one.

    Raises:
        UserError: no images, NaN, or shapes and labels that do not fit the classes.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise UserError(
            f"predictions have shape {tuple(probabilities.shape)}; {len(classes)} classes need (images, {len(classes)})"
        )
    require_finite(probabilities)
    metrics = verdict_metrics(probabilities.argmax(dim=1), labels, classes)
    support = torch.bincount(labels, minlength=len(classes)).tolist()
    present = [k for k, count in enumerate(support) if count]
    precision = [float(binary_average_precision(probabilities[:, k], (labels == k).long())) for k in present]
    ranked = [k for k in present if support[k] < len(labels)]
    auroc = [float(binary_auroc(probabilities[:, k], (labels == k).long())) for k in ranked]
    metrics["map"] = float(np.mean(precision))
    metrics["auroc"] = float(np.mean(auroc)) if auroc else None
    metrics["ece"] = calibration_error(probabilities, labels)
    return metrics


def one_answer(predicted: np.ndarray, labels: np.ndarray) -> str | None:
    """Say so where a model answers one class whatever the image, such as "answers nv for all 2,003 images: ...".

    Takes names of the classes that it answers on clean images `(N,)` and the true classes `(N,)`, as names or numbers;
    where all of these are one class, one answer is no fault.
    """
    if len(np.unique(predicted)) != 1 or len(np.unique(labels)) < 2:
        return None
    return f"answers {predicted[0]} for all {len(predicted):,} images: the constant answer"


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the predicted class (Guo et al., ICML 2017, arXiv 1706.04599, equation 3).

    The images are sorted by the probability of the class predicted into 15 bins of equal width; the error is the
    mean over the images of `|share of correct answers - mean probability|` in their bin.

    Args:
        probabilities: class probabilities `(N, K)` in [0, 1], floating.
        labels: true classes `(N,)`, int64.

    Returns:
        The error, in [0, 1].
    """
    # torchmetrics counts in float32 and would give a probability of exactly 1 a bin of its own.
    below_one = probabilities.float().clamp(max=1 - torch.finfo(torch.float32).eps / 2)
    bins, classes = CALIBRATION_BINS, probabilities.shape[1]
    return float(multiclass_calibration_error(below_one, labels, num_classes=classes, n_bins=bins, norm="l1"))


def curve_area(eps: Sequence[float], values: Sequence[float]) -> float:
    """Area under a curve over radii in parts of the largest radius: the mean value over [0, largest radius].

    Straight lines join the points, so the area is
    `sum_j (eps_j - eps_{j-1}) * (v_j + v_{j-1}) / 2 / eps_last`.

    Args:
        eps: radii, strictly ascending, the first 0.
        values: robust accuracy, or robust balanced accuracy, at each, in [0, 1].

    Returns:
        The area, in [0, 1]; for the radius 0 alone the value there, the limit of a short curve.

    Raises:
        ValueError: lengths that differ, radii that do not start at 0 or do not ascend.
    """
    if len(eps) != len(values) or not len(eps) or eps[0] != 0 or not (np.diff(eps) > 0).all():
        raise ValueError(f"needs one value per radius, and ascending radii from 0; radii {eps}, {len(values)} values")
    return float(np.trapezoid(values, eps) / eps[-1]) if len(eps) > 1 else float(values[0])


def area_weights(eps: Sequence[float]) -> list[float]:
    """Weights of the points in `curve_area`."""
    return [curve_area(eps, unit.tolist()) for unit in np.eye(len(eps))]


def constant_predictor(labels: Tensor, classes: Sequence[str], majority: str) -> Metrics:
    """Score the predictor that gives one answer whatever the image: the floor that every model must beat.

    `majority` is the answer, the most frequent class of the *training* set; raises UserError if it is no class.
    """
    if majority not in classes:
        raise UserError(f"the constant predictor's class {majority!r} is not among the classes {', '.join(classes)}")
    probabilities = torch.zeros(len(labels), len(classes), dtype=torch.float64)
    probabilities[:, list(classes).index(majority)] = 1.0
    return classification_metrics(probabilities, labels, classes)
