"""Classification metrics for unequal classes."""

from collections.abc import Iterable, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from dpaat.errors import UserError


class Metrics(TypedDict):
    """Scores as fractions between 0 and 1; `map`, `auroc` and `ece` are None where there are verdicts only."""

    accuracy: float
    balanced_accuracy: float
    map: float | None
    auroc: float | None
    ece: float | None
    per_class_recall: dict[str, float | None]
    support: dict[str, int]
    absent: list[str]
    # where an image has several labels, see `dpaat.evaluation.labels.label_metrics`
    exact: NotRequired[float]
    standing: NotRequired[float]
    per_label: NotRequired[dict[str, dict[str, Any]]]


def _scores() -> Any:
    """The scores of torchmetrics, which takes longer to load than torch."""
    from torchmetrics.functional import classification

    return classification


def require_finite(outputs: Tensor) -> None:
    """Refuse model outputs `(N, K)` that are NaN or infinite; the UserError says for how many images."""
    bad = int((~outputs.isfinite()).any(dim=1).sum())
    if bad:
        raise UserError(
            f"the model produced NaN or infinite outputs for {bad} of {len(outputs)} images; "
            "its weights or its training are broken"
        )


def require_labels(labels: Tensor, n: int, num_classes: int) -> None:
    """Refuse labels other than `(n,)` whole numbers from 0 to K - 1, or several an image, int8, by a UserError."""
    if labels.ndim == 2 and labels.dtype == torch.int8:
        if labels.shape != (n, num_classes) or not bool(((labels >= -1) & (labels <= 1)).all()):
            raise UserError(f"several labels an image must be ({n}, {num_classes}): 1, 0, or -1 for unknown")
        return
    if labels.shape != (n,):
        raise UserError(f"{n} images but labels of shape {tuple(labels.shape)}")
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise UserError(f"labels must be whole numbers, class 0 to {num_classes - 1}; these are {labels.dtype}")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise UserError(f"label {int(outside[0])} is outside 0 to {num_classes - 1} ({len(outside)} such images)")


def verdict_metrics(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> Metrics:
    """Metrics of predicted classes alone, such as the worst case over several attacks, whose outputs cannot be ranked.

    `predicted` and `labels` are `(N,)`, int64, 0 to K - 1. Raises UserError for no images or labels that do not fit,
    ValueError for predictions that do not.
    """
    require_labels(labels, len(predicted), len(classes))
    if not len(labels):
        raise UserError("there are no images to score")
    if predicted.shape != labels.shape or not 0 <= int(predicted.min()) <= int(predicted.max()) < len(classes):
        raise ValueError(f"predictions must be {len(labels)} classes from 0 to {len(classes) - 1}")
    support = torch.bincount(labels, minlength=len(classes)).tolist()
    hits = torch.bincount(labels[predicted == labels], minlength=len(classes))
    recall = (hits.float() / torch.tensor(support)).tolist()
    return Metrics(
        accuracy=float(hits.sum().float() / len(labels)),
        balanced_accuracy=float(np.mean([recall[k] for k, count in enumerate(support) if count])),
        map=None,
        auroc=None,
        ece=None,
        per_class_recall={name: recall[k] if support[k] else None for k, name in enumerate(classes)},
        support=dict(zip(classes, support, strict=True)),
        absent=[name for k, name in enumerate(classes) if not support[k]],
    )


def classification_metrics(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Metrics:
    """Classification metrics; classes without an image do not count, and are named.

    Args:
        probabilities: class probabilities `(N, K)` in [0, 1], floating. Double precision keeps the ranking of
            confident predictions, which float32 rounds to ties at 1.
        labels: true classes `(N,)`, int64, 0 to K - 1.
        classes: K class names in the order of the columns.

    Returns:
        `balanced_accuracy` is the mean recall over the classes present; `map` the mean one-vs-rest average precision of
        these; `auroc` the mean one-vs-rest area under the ROC curve, None where there is one class, with two the usual
        binary one; `ece` see `calibration_error`; `support` images per class; `absent` the classes without an image.

    Raises:
        UserError: no images, NaN, or shapes and labels that do not fit the classes.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise UserError(
            f"predictions have shape {tuple(probabilities.shape)}; {len(classes)} classes need (images, {len(classes)})"
        )
    require_finite(probabilities)
    metrics = verdict_metrics(probabilities.argmax(dim=1), labels, classes)
    present = labels.unique().tolist()
    one_vs_rest = {k: (probabilities[:, k], (labels == k).long()) for k in present}
    metrics["map"] = _mean_share(_scores().binary_average_precision(*each) for each in one_vs_rest.values())
    if len(present) > 1:
        metrics["auroc"] = _mean_share(_scores().binary_auroc(*each) for each in one_vs_rest.values())
    metrics["ece"] = calibration_error(probabilities, labels)
    return metrics


def _mean_share(scores: Iterable[Tensor]) -> float:
    # torchmetrics sums in float32, which rounds a perfect ranking up to 1.00000003.
    return float(np.mean([min(float(score), 1.0) for score in scores]))


def one_answer(predicted: np.ndarray, labels: np.ndarray) -> str | None:
    """Constant answer: a sentence where a model predicts one class whatever the image, "answers nv for all ...".

    Takes the names of the classes predicted on clean images `(N,)` and the true classes `(N,)`, as names or numbers;
    where all of these are one class, one answer is no fault.
    """
    if len(np.unique(predicted)) != 1 or len(np.unique(labels)) < 2:
        return None
    return f"answers {predicted[0]} for all {len(predicted):,} images: the constant answer"


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the predicted class (Guo et al., ICML 2017, arXiv 1706.04599, equation 3).

    The mean over the images of `|share of correct answers - mean probability|` in their bin, of 15 bins of equal width
    by the probability of the class predicted; takes class probabilities `(N, K)` in [0, 1] and labels `(N,)`, int64.
    """
    # torchmetrics counts in float32 and would give a probability of exactly 1 a bin of its own.
    below_one = probabilities.float().clamp(max=1 - torch.finfo(torch.float32).eps / 2)
    score = _scores().multiclass_calibration_error(below_one, labels, probabilities.shape[1], n_bins=15, norm="l1")
    return min(float(score), 1.0)


def curve_area(eps: Sequence[float], values: Sequence[float]) -> float:
    """Area under a curve over radii in parts of the largest radius: the mean value over [0, largest radius].

    Straight lines join the points. For the radius 0 alone it is the value there, the limit of a short curve. Raises
    ValueError where lengths differ, or radii do not start at 0 or do not ascend.
    """
    if len(eps) != len(values) or not len(eps) or eps[0] != 0 or not (np.diff(eps) > 0).all():
        raise ValueError(f"needs one value per radius, and ascending radii from 0; radii {eps}, {len(values)} values")
    area = float(np.trapezoid(values, eps) / eps[-1]) if len(eps) > 1 else float(values[0])
    return min(area, float(max(values)))  # where rounding lifts the mean above what it is a mean of


def area_weights(eps: Sequence[float]) -> list[float]:
    """Weights of the points in `curve_area`."""
    return [curve_area(eps, unit.tolist()) for unit in np.eye(len(eps))]


def constant_predictor(labels: Tensor, classes: Sequence[str], majority: str) -> Metrics:
    """Metrics of the predictor that gives one answer whatever the image: the floor that every model must beat.

    `majority` is the answer, the most frequent class of the *training* set; raises UserError if it is no class.
    """
    if majority not in classes:
        raise UserError(f"the constant predictor's class {majority!r} is not among the classes {', '.join(classes)}")
    probabilities = torch.zeros(len(labels), len(classes), dtype=torch.float64)
    probabilities[:, list(classes).index(majority)] = 1.0
    return classification_metrics(probabilities, labels, classes)
