"""Classification metrics that stay meaningful when two thirds of the images are of one class."""

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
    multiclass_recall,
)

from dpaat.errors import UserError


class Metrics(TypedDict):
    """What `classification_metrics` returns; all scores are fractions between 0 and 1."""

    accuracy: float
    balanced_accuracy: float
    map: float
    auroc: float | None
    per_class_recall: dict[str, float | None]
    support: dict[str, int]
    absent: list[str]


def require_finite(outputs: Tensor) -> None:
    """Check that every image has finite model outputs.

    Args:
        outputs: logits or probabilities `(N, K)`.

    Raises:
        UserError: some are NaN or infinite; says for how many images.
    """
    bad = int((~outputs.isfinite()).any(dim=1).sum())
    if bad:
        raise UserError(
            f"the model produced NaN or infinite outputs for {bad} of {len(outputs)} images; "
            "its weights or its training are broken"
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
        the classes that have images inside and outside, None if there is none; `per_class_recall`, None for an
        absent class; `support`, images per class; `absent`, the classes without an image. With two classes `auroc`
        is the usual binary one.

    Raises:
        UserError: no images, NaN, or shapes and labels that do not fit the classes.
    """
    _validate(probabilities, labels, len(classes))
    support = torch.bincount(labels, minlength=len(classes)).tolist()
    recall = multiclass_recall(probabilities, labels, num_classes=len(classes), average="none").tolist()
    present = [k for k, count in enumerate(support) if count]
    precision = [float(binary_average_precision(probabilities[:, k], (labels == k).long())) for k in present]
    ranked = [k for k in present if support[k] < len(labels)]
    auroc = [float(binary_auroc(probabilities[:, k], (labels == k).long())) for k in ranked]
    return Metrics(
        accuracy=float(multiclass_accuracy(probabilities, labels, num_classes=len(classes), average="micro")),
        balanced_accuracy=float(np.mean([recall[k] for k in present])),
        map=float(np.mean(precision)),
        auroc=float(np.mean(auroc)) if auroc else None,
        per_class_recall={name: recall[k] if support[k] else None for k, name in enumerate(classes)},
        support=dict(zip(classes, support, strict=True)),
        absent=[name for k, name in enumerate(classes) if not support[k]],
    )


def constant_predictor(labels: Tensor, classes: Sequence[str], majority: str) -> Metrics:
    """Score the predictor that gives one answer whatever the image: the floor that every model must beat.

    Args:
        labels: true classes `(N,)`, int64.
        classes: K class names.
        majority: the answer, the most frequent class of the *training* set.

    Raises:
        UserError: `majority` is not one of the classes.
    """
    if majority not in classes:
        raise UserError(f"the constant predictor's class {majority!r} is not among the classes {', '.join(classes)}")
    probabilities = torch.zeros(len(labels), len(classes), dtype=torch.float64)
    probabilities[:, list(classes).index(majority)] = 1.0
    return classification_metrics(probabilities, labels, classes)


def _validate(probabilities: Tensor, labels: Tensor, num_classes: int) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] != num_classes:
        raise UserError(
            f"predictions have shape {tuple(probabilities.shape)}; {num_classes} classes need (images, {num_classes})"
        )
    if labels.shape != probabilities.shape[:1]:
        raise UserError(f"{len(probabilities)} predictions but labels of shape {tuple(labels.shape)}")
    if not len(labels):
        raise UserError("there are no images to score")
    require_finite(probabilities)
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise UserError(f"label {int(outside[0])} is outside 0 to {num_classes - 1} ({len(outside)} such images)")
