"""Robustness to common corruptions: what they do to images, and what they cost a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dpaat.data.loading import key
from dpaat.errors import UserError, unknown
from dpaat.evaluation.attacking import Attacker, ImageArray
from dpaat.evaluation.corruption_images import CORRUPTIONS
from dpaat.evaluation.images import RowView
from dpaat.evaluation.labels import verdicts
from dpaat.evaluation.specs import CLEAN

SEVERITIES = (1, 2, 3, 4, 5)
COLOUR_ONLY = ("colour-cast",)
MIN_SIDE = 16

Errors = Mapping[str, Sequence[float]]
"""Corruption to the errors at severities 1 to 5, fractions: 1 - accuracy, or 1 - balanced accuracy."""


def corruptions_for(channels: int) -> tuple[list[str], list[str]]:
    """Names of the corruptions that images of 1 or 3 channels can have, and of those that have no meaning for them."""
    skipped = list(COLOUR_ONLY) if channels == 1 else []
    return [name for name in CORRUPTIONS if name not in skipped], skipped


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int, ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Corrupt images `(N, C, H, W)` uint8, grey or RGB, each by randomness that depends on (seed, name, id) alone.

    `name` is of `CORRUPTIONS`, `severity` 1 (mild) to 5, `ids` `(N,)` name the images. Raises UserError: unknown name
    or severity, images below 16 pixels a side, a colour corruption of grey images; ValueError: images of another type
    or shape, or as many ids as there are not images.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} of corruption {name}; severities are 1, 2, 3, 4 and 5")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be uint8 (N, 1 or 3, H, W), not {images.dtype} {images.shape}")
    if len(ids) != len(images):
        raise ValueError(f"{len(images)} images but {len(ids)} ids")
    if min(images.shape[2:]) < MIN_SIDE:
        raise UserError(f"images of {images.shape[2]}x{images.shape[3]} pixels; corruptions need {MIN_SIDE} a side")
    if name in COLOUR_ONLY and images.shape[1] == 1:
        raise UserError(f"corruption {name} has no meaning for grey images; leave it out")
    function, strengths = CORRUPTIONS[name]
    corrupted = np.empty_like(images)
    for row, (image, image_id) in enumerate(zip(images, ids, strict=True)):
        # Plain types, since numpy's print otherwise and would make another key.
        rng = np.random.default_rng(key(int(seed), name, str(image_id)))
        corrupted[row] = function(image, strengths[severity - 1], rng)
    return corrupted


@dataclass(frozen=True, eq=False)
class _CorruptedView:
    """Images as a corruption of some severity leaves them, made when indexed."""

    images: ImageArray
    ids: np.ndarray
    name: str
    severity: int
    seed: int
    channels: int  # wanted, see `RowView`

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        images = corrupt(self.images[rows], self.name, self.severity, seed=self.seed, ids=self.ids[rows])
        return np.repeat(images, self.channels // images.shape[1], axis=1)


def run_corruptions(attacker: Attacker, ids: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Measure a model on clean and on corrupted images, whose draws depend on their `ids` `(N,)`.

    Returns "accuracy" and "balanced_accuracy", five scores by severity for every corruption and one under "clean";
    "error" and "balanced_error", their `corruption_summary`; "skipped", corruptions without a meaning for grey images.
    """
    images = own = attacker.images
    if isinstance(images, RowView):  # grey images are corrupted as such, whatever the model takes
        own = replace(images, channels=images.images.shape[1])
    channels, (names, skipped) = images[np.arange(1)].shape[1], corruptions_for(own[np.arange(1)].shape[1])
    conditions = [("clean", 0), *((name, severity) for name in names for severity in SEVERITIES)]
    scores: dict[str, dict[str, list[float]]] = {"accuracy": {}, "balanced_accuracy": {}}
    for number, (name, severity) in enumerate(conditions):
        attacker.bar.expect(f"{name} {severity or ''}", (len(conditions) - number) * len(attacker))
        view = _CorruptedView(own, ids, name, severity, attacker.seed, channels) if severity else images
        outputs = attacker.on(view, f"corruptions/{name}-{severity}").outputs(CLEAN)
        metrics = verdicts(outputs.predicted, attacker.labels, classes)
        scores["accuracy"].setdefault(name, []).append(metrics["accuracy"])
        scores["balanced_accuracy"].setdefault(name, []).append(metrics["balanced_accuracy"])
    found: dict[str, Any] = dict(scores)
    for name, metric in (("error", "accuracy"), ("balanced_error", "balanced_accuracy")):
        errors = {corruption: [1 - score for score in values] for corruption, values in scores[metric].items()}
        (clean,) = errors.pop("clean")
        found[name] = corruption_summary(errors, clean)
    return {**found, "skipped": skipped}


def corruption_summary(errors: Errors, clean_error: float) -> dict[str, Any]:
    """Sum up what corruptions cost: the mean error over corruptions and severities, and that less the clean error.

    Raises ValueError for errors that are not five in [0, 1] each.
    """
    table = np.array([*errors.values()], dtype=np.float64) if errors else np.empty(0)
    if table.shape != (len(errors), len(SEVERITIES)) or not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"needs {len(SEVERITIES)} errors in [0, 1] for each of one or more corruptions")
    if not 0 <= clean_error <= 1:
        raise ValueError(f"clean error {clean_error} is not in [0, 1]")
    means = table.mean(axis=1)
    return {
        "clean_error": clean_error,
        "mean_corruption_error": float(means.mean()),
        "relative_corruption_error": float(means.mean()) - clean_error,
        "per_corruption": dict(zip(errors, means.tolist(), strict=True)),
        "per_severity": table.mean(axis=0).tolist(),
    }
