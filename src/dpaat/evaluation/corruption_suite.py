"""Run a model over all corruptions at all severities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dpaat.evaluation.attacking import Attacker, ImageArray
from dpaat.evaluation.corruptions import SEVERITIES, corrupt, corruption_summary, corruptions_for
from dpaat.evaluation.journal import Journal
from dpaat.evaluation.metrics import verdict_metrics
from dpaat.evaluation.progress import PassBar
from dpaat.evaluation.specs import CLEAN


@dataclass(frozen=True, eq=False)
class CorruptedView:
    """Images `(N, C, H, W)` uint8 as a corruption of some severity leaves them, made when indexed; `ids` are `(N,)`."""

    images: ImageArray
    ids: np.ndarray
    name: str
    severity: int
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        return corrupt(self.images[positions], self.name, self.severity, seed=self.seed, ids=self.ids[positions])


def run_corruptions(
    model: nn.Module,
    images: ImageArray,
    labels: np.ndarray,
    ids: np.ndarray,
    *,
    classes: tuple[str, ...],
    seed: int = 0,
    journal: Journal | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Measure a model on clean and on corrupted images.

    Args:
        model: maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        images: `(N, C, H, W)`, uint8, grey or RGB.
        labels: `(N,)`, int64.
        ids: name of each image `(N,)`; its draws depend on it.
        classes: K class names.
        journal: where finished batches are kept.
        progress: show a bar with the time left.
        seed: of the draws.
        options: of `Attacker`: batch_size, device.

    Returns:
        "accuracy" and "balanced_accuracy": for every corruption, the five scores by severity, and under "clean" one;
        "error" and "balanced_error": their `corruption_summary`; "skipped": corruptions without a meaning for grey
        images.
    """
    journal = Journal() if journal is None else journal
    names, skipped = corruptions_for(images[np.arange(1)].shape[1])
    conditions = [("clean", 0), *((name, severity) for name in names for severity in SEVERITIES)]
    scores: dict[str, dict[str, list[float]]] = {"accuracy": {}, "balanced_accuracy": {}}
    bar = PassBar(show=progress)
    try:
        for number, (name, severity) in enumerate(conditions):
            bar.expect(f"{name} {severity or ''}", (len(conditions) - number) * len(labels))
            view = CorruptedView(images, ids, name, severity, seed) if severity else images
            own = journal.within(f"{name}-{severity}")
            attacker = Attacker(
                model, view, labels, num_classes=len(classes), seed=seed, journal=own, progress=False, **options
            )
            predicted = torch.from_numpy(attacker.outputs(CLEAN).predicted)
            metrics = verdict_metrics(predicted, torch.from_numpy(labels), classes)
            scores["accuracy"].setdefault(name, []).append(metrics["accuracy"])
            scores["balanced_accuracy"].setdefault(name, []).append(metrics["balanced_accuracy"])
            bar.done(len(labels))
    finally:
        bar.close()
    return {
        **scores,
        "error": _summary(scores["accuracy"]),
        "balanced_error": _summary(scores["balanced_accuracy"]),
        "skipped": skipped,
    }


def _summary(scores: dict[str, list[float]]) -> dict[str, Any]:
    errors = {name: [1 - score for score in values] for name, values in scores.items()}
    (clean,) = errors.pop("clean")
    return dict(corruption_summary(errors, clean))
