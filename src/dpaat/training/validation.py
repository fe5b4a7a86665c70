"""Validation of an epoch: clean, and under attack at growing radii."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.attacks import pgd, unchecked
from dpaat.attacks.losses import cross_entropy
from dpaat.evaluation.labels import label_metrics
from dpaat.evaluation.metrics import classification_metrics
from dpaat.radii import radius_name


class RobustOutputs:
    """Validation cascade: images are attacked at growing radii while they are classified correctly.

    Those that are still right wait until they fill a batch: in small batches of changing size a CPU takes a quarter
    longer for an image. At most a batch of `batch_size` waits at each of the ascending radii, attacked by PGD.
    """

    def __init__(self, model: nn.Module, radii: Sequence[float], *, steps: int, norm: str, batch_size: int) -> None:
        self.model, self.radii = model, radii
        self.steps, self.norm, self.batch_size = steps, norm, batch_size
        self._labels: list[Tensor] = []
        self._clean: list[Tensor] = []
        self._attacked: list[list[tuple[Tensor, Tensor]]] = [[] for _ in radii]
        self._waiting: list[tuple[Tensor, ...] | None] = [None for _ in radii]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Look at a batch of clean images `(B, C, H, W)` with labels `(B,)`, and attack those that make up batches."""
        logits = self.model(x).float()
        first = sum(map(len, self._labels))
        self._labels.append(y)
        self._clean.append(logits)
        self._wait(0, self._stands(logits, y), x, y, torch.arange(first, first + len(y), device=y.device))

    def finish(self) -> None:
        """Attack those that still wait; to be called after the last batch."""
        for level, waiting in enumerate(self._waiting):
            if waiting is not None and len(waiting[0]):
                self._attack(level, *waiting)

    def collect(self) -> tuple[Tensor, dict[float, Tensor]]:
        """Labels `(N,)`, and logits `(N, K)` at every radius from 0; once misclassified, an image keeps them."""
        logits = torch.cat(self._clean)
        found = {0.0: logits}
        for radius, parts in zip(self.radii, self._attacked, strict=True):
            logits = logits.clone()
            for rows, attacked in parts:
                logits[rows] = attacked
            found[radius] = logits
        return torch.cat(self._labels), found

    def _stands(self, logits: Tensor, y: Tensor) -> Tensor:
        """Of several labels, each with a smallest radius of its own, every image is attacked at every radius."""
        return logits.argmax(1) == y if y.ndim == 1 else torch.ones_like(y[:, 0], dtype=torch.bool)

    def _wait(self, level: int, stands: Tensor, *arrivals: Tensor) -> None:
        if level == len(self.radii):
            return
        arrived = tuple(column[stands] for column in arrivals)
        waiting = self._waiting[level]
        columns = arrived if waiting is None else tuple(map(torch.cat, zip(waiting, arrived, strict=True)))
        full = len(columns[0]) - len(columns[0]) % self.batch_size
        self._waiting[level] = tuple(column[full:] for column in columns)
        for start in range(0, full, self.batch_size):
            self._attack(level, *(column[start : start + self.batch_size] for column in columns))

    def _attack(self, level: int, x: Tensor, y: Tensor, rows: Tensor) -> None:
        with unchecked():
            x_adv = pgd(self.model, x, y, eps=self.radii[level], steps=self.steps, norm=self.norm)
        logits = self.model(x_adv).float()
        self._attacked[level].append((rows, logits))
        self._wait(level + 1, self._stands(logits, y), x, y, rows)


def validation_scores(
    labels: Tensor,
    outputs: Mapping[float, Tensor],
    classes: Sequence[str],
    select: str,
    thresholds: np.ndarray | None = None,
) -> dict[str, float]:
    """Scores of an epoch from labels `(N,)` and logits `(N, K)` at every radius from 0.

    Labels `(N, K)` are answered at `thresholds` `(K,)`, of logits.

    "val/score" is the one by which the best is chosen: `select` is "balanced-accuracy", "robust-balanced-accuracy"
    (mean over all radii), "auroc" or "robust-auroc".
    """
    labels, balanced, auroc = labels.cpu(), [], []
    scores: dict[str, float | None] = {}
    for radius, output in outputs.items():
        logits = output.cpu().double()
        metrics = (
            classification_metrics(logits.softmax(1), labels, classes)
            if thresholds is None
            else label_metrics(logits.numpy() > thresholds, labels.numpy(), classes, logits.numpy())
        )
        at = f"@{radius_name(radius)}" if radius else ""
        robust = "robust_" if radius else ""
        if not radius:
            scores["val/loss"] = float(
                F.cross_entropy(logits, labels) if labels.ndim == 1 else cross_entropy(logits, labels).mean()
            )
            scores["val/auroc"] = metrics["auroc"]
        scores |= {f"val/{robust}{name}{at}": metrics[name] for name in ("accuracy", "balanced_accuracy", "map")}
        balanced.append(metrics["balanced_accuracy"])
        auroc.append(float("nan") if metrics["auroc"] is None else metrics["auroc"])
    known = {name: float("nan") if value is None else value for name, value in scores.items()}
    score = {
        "balanced-accuracy": balanced[0],
        "robust-balanced-accuracy": sum(balanced) / len(balanced),
        "auroc": known["val/auroc"],
        "robust-auroc": sum(auroc) / len(auroc),
    }[select]
    return known | {"val/score": score}
