"""Robustness to common corruptions: what they do to images, and what they cost a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpaat.data.cache import key
from dpaat.errors import UserError, unknown
from dpaat.evaluation.attacking import Attacker, ImageArray
from dpaat.evaluation.corruption_images import CORRUPTIONS
from dpaat.evaluation.labels import verdicts
from dpaat.evaluation.specs import CLEAN

SEVERITIES = (1, 2, 3, 4, 5)
COLOUR_ONLY = ("colour-cast",)
MIN_SIDE = 16
MIN_LOSS = 0.01  # mean error that a corruption must add to the reference model before relative errors are divided by it

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

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return corrupt(self.images[rows], self.name, self.severity, seed=self.seed, ids=self.ids[rows])


def run_corruptions(attacker: Attacker, ids: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Measure a model on clean and on corrupted images, whose draws depend on their `ids` `(N,)`.

    Returns "accuracy" and "balanced_accuracy", five scores by severity for every corruption and one under "clean";
    "error" and "balanced_error", their `corruption_summary`; "skipped", corruptions without a meaning for grey images.
    """
    names, skipped = corruptions_for(attacker.images[np.arange(1)].shape[1])
    conditions = [("clean", 0), *((name, severity) for name in names for severity in SEVERITIES)]
    scores: dict[str, dict[str, list[float]]] = {"accuracy": {}, "balanced_accuracy": {}}
    for number, (name, severity) in enumerate(conditions):
        attacker.bar.expect(f"{name} {severity or ''}", (len(conditions) - number) * len(attacker))
        view = _CorruptedView(attacker.images, ids, name, severity, attacker.seed) if severity else attacker.images
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


def corruption_summary(
    errors: Errors, clean_error: float, *, reference: tuple[Errors, float] | None = None
) -> dict[str, Any]:
    """Sum up what corruptions cost, alone and against a reference model such as the standard-trained one.

    With `E_cs` the error under corruption c at severity s, `E_0` the clean one, R those of the reference:

    - mean corruption error: mean of `E_cs` over c and s; relative corruption error: that less `E_0`;
    - `CE_c = sum_s E_cs / sum_s R_cs`, and its mean over c, the mCE (Hendrycks and Dietterich 2019, arXiv 1903.12261,
      section 4, there in percent and against AlexNet);
    - `relative CE_c = sum_s (E_cs - E_0) / sum_s (R_cs - R_0)`, and its mean over c, the relative mCE (ibid.).

    A ratio is None where the reference makes no error, or for relative CE where the corruption adds less than 0.01 to
    it, and the quotient would be of noise. The means are over the corruptions that have a ratio; `reference` is R and
    `R_0`. Raises ValueError for errors that are not five in [0, 1] each, UserError where the reference lacks some.
    """
    means = _means(errors, clean_error)
    mean = float(np.mean(list(means.values())))
    ce: dict[str, float | None] | None = None
    relative: dict[str, float | None] | None = None
    if reference is not None:
        base, base_clean = _means(*reference), reference[1]
        missing = [name for name in means if name not in base]
        if missing:
            raise UserError(f"the reference run has no errors under {', '.join(missing)}; evaluate it on them first")
        ce = {name: value / base[name] if base[name] > 0 else None for name, value in means.items()}
        relative = {
            # Rounded, so that a loss of exactly the least counts whatever its binary digits.
            name: (value - clean_error) / lost if round(lost := base[name] - base_clean, 9) >= MIN_LOSS else None
            for name, value in means.items()
        }
    return {
        "clean_error": clean_error,
        "mean_corruption_error": mean,
        "relative_corruption_error": mean - clean_error,
        "per_corruption": means,
        "per_severity": np.mean(list(errors.values()), axis=0).tolist(),
        "mce": _mean(ce),
        "relative_mce": _mean(relative),
        "ce": ce,
        "relative_ce": relative,
    }


def _means(errors: Errors, clean_error: float) -> dict[str, float]:
    table = np.array([*errors.values()], dtype=np.float64) if errors else np.empty(0)
    if table.shape != (len(errors), len(SEVERITIES)) or not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"needs {len(SEVERITIES)} errors in [0, 1] for each of one or more corruptions")
    if not 0 <= clean_error <= 1:
        raise ValueError(f"clean error {clean_error} is not in [0, 1]")
    return dict(zip(errors, table.mean(axis=1).tolist(), strict=True))


def _mean(ratios: Mapping[str, float | None] | None) -> float | None:
    known = [ratio for ratio in (ratios or {}).values() if ratio is not None]
    return float(np.mean(known)) if known else None
