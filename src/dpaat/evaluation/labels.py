"""Multi-label evaluation: scores and thresholds.

Labels and answers are `(N, K)`, int8: 1 yes, 0 no, and -1 for a label that is unknown, which counts nowhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor, nn
from typing_extensions import override

from dpaat.data.label_sets import as_text, from_text
from dpaat.evaluation.metrics import Metrics, one_answer, verdict_metrics


class Shifted(nn.Module):
    """A network whose answer to each label turns at a logit of 0: its own threshold is taken off."""

    def __init__(self, model: nn.Module, thresholds: np.ndarray) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("thresholds", torch.as_tensor(thresholds, dtype=torch.float32))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) - self.thresholds  # type: ignore[no-any-return]


def choose_thresholds(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Threshold `(K,)` of each label's logit with the largest sum of sensitivity and specificity (Youden's index).

    Halfway between two logits `(N, K)` of clean validation images; 0 for a label that these all have, or all lack.
    """
    found = np.zeros(labels.shape[1])
    for k, (z, y) in enumerate(zip(logits.T.astype(np.float64), labels.T, strict=True)):
        z, y = z[y >= 0], y[y >= 0]
        if 0 < y.sum() < len(y):
            false, true, at = roc_curve(y, z, drop_intermediate=False)
            chosen = at[np.argmax(true - false)]
            found[k] = chosen if chosen == np.inf else (chosen + max(z[z < chosen], default=chosen - 2)) / 2
    return np.asarray(np.where(np.isfinite(found), found, logits.max(axis=0) + 1.0))


def named(answers: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Classes `(N,)` or sets of labels `(N, K)` by name, `(N,)` of str."""
    return np.array(classes)[answers] if answers.ndim == 1 else np.array(as_text(answers, classes))


def thresholds_of(known: Mapping[str, float] | None, classes: Sequence[str]) -> np.ndarray:
    """Thresholds of logits `(K,)` from those known by name; of others 0, a probability of a half."""
    return np.array([(known or {}).get(name, 0.0) for name in classes])


def one_answer_of(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], thresholds: np.ndarray | None
) -> str | None:
    """What `one_answer` says of clean logits `(N, K)`."""
    answers = logits.argmax(1) if thresholds is None else (logits > thresholds).astype(np.int8)
    return one_answer(named(answers, classes), named(labels, classes))


def strata(labels: np.ndarray) -> np.ndarray:
    """What a stratified draw goes by, `(N,)`: the class, or the rarest label that an image has."""
    if labels.ndim == 1:
        return labels
    frequency = np.where(labels == 1, (labels == 1).sum(axis=0), np.inf)
    return np.asarray(np.where((labels == 1).any(axis=1), frequency.argmin(axis=1), labels.shape[1]))


def label_metrics(
    answers: np.ndarray, labels: np.ndarray, classes: Sequence[str], scores: np.ndarray | None = None
) -> Metrics:
    """Metrics of answers and, where there are any, scores `(N, K)` that rank the images of each label.

    `accuracy` is the share of right answers; `balanced_accuracy` the mean over the labels of sensitivity and
    specificity; `map` and `auroc` are means over labels that some images have and some have not; `per_class_recall` is
    the sensitivity; `exact` the share of images without a wrong answer; `per_label` holds all by label.
    """
    right, known = answers.astype(bool) == (labels == 1), labels >= 0
    per_label: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(classes):
        yes, no, rank = labels[:, k] == 1, labels[:, k] == 0, None if scores is None else scores[known[:, k], k]
        y = yes[known[:, k]]
        ranked = {"ap": average_precision_score, "auroc": roc_auc_score} if yes.any() and no.any() else {}
        per_label[name] = {
            "sensitivity": float(right[yes, k].mean()) if yes.any() else None,
            "specificity": float(right[no, k].mean()) if no.any() else None,
            **{key: min(float(score(y, rank)), 1.0) if rank is not None else None for key, score in ranked.items()},
            "positives": int(yes.sum()),
            "negatives": int(no.sum()),
        }

    def mean(*keys: str) -> float | None:
        found = [[each[key] for key in keys if each.get(key) is not None] for each in per_label.values()]
        return float(np.mean([np.mean(each) for each in found if each])) if any(found) else None

    return Metrics(
        accuracy=float(right[known].mean()) if known.any() else 0.0,
        balanced_accuracy=mean("sensitivity", "specificity") or 0.0,
        map=mean("ap"),
        auroc=mean("auroc"),
        ece=None,
        per_class_recall={name: each["sensitivity"] for name, each in per_label.items()},
        support={name: each["positives"] for name, each in per_label.items()},
        absent=[name for name, each in per_label.items() if not each["positives"]],
        exact=float((right | ~known).all(axis=1).mean()),
        per_label=per_label,
    )


def verdicts(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Metrics:
    """Metrics of predicted classes `(N,)`, or of answers `(N, K)`, alone."""
    if labels.ndim == 2:
        return label_metrics(predicted, labels, classes)
    return verdict_metrics(torch.from_numpy(predicted), torch.from_numpy(labels), classes)


def constant_labels(labels: np.ndarray, classes: Sequence[str], answer: str) -> Metrics:
    """Metrics of one answer for all images, such as "mass|nodule": what every model must beat."""
    answers = np.repeat(from_text([answer], classes), len(labels), axis=0)
    return label_metrics(answers, labels, classes, np.zeros(labels.shape))
