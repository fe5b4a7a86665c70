"""Common corruptions by name, and what they cost a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from dpaat.data.loading import key
from dpaat.errors import UserError, unknown
from dpaat.evaluation import corruption_images as draw

SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIDE = 16
MIN_LOSS = 0.01
"""Mean error that a corruption must add to the reference model before relative errors are divided by it."""

Errors = Mapping[str, Sequence[float]]
"""Corruption to the errors at severities 1 to 5, fractions: 1 - accuracy, or 1 - balanced accuracy."""


@dataclass(frozen=True)
class CorruptionInfo:
    """A corruption that can be named.

    `function(image, severity, rng)` takes an image `(C, H, W)` uint8 and a severity from 1 to 5, and returns a uint8
    image of the same shape. `colour_only` corruptions have no meaning for grey images.
    """

    name: str
    function: Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
    description: str
    colour_only: bool = False


CORRUPTIONS: dict[str, CorruptionInfo] = {
    info.name: info
    for info in (
        CorruptionInfo("noise", draw.noise, "Gaussian noise of the sensor"),
        CorruptionInfo("blur", draw.blur, "out of focus, a Gaussian kernel"),
        CorruptionInfo("brightness", draw.brightness, "over- or underexposed"),
        CorruptionInfo("contrast", draw.contrast, "flattened towards the mean"),
        CorruptionInfo("jpeg", draw.jpeg, "compressed by JPEG"),
        CorruptionInfo("pixelation", draw.pixelation, "coarser pixels"),
        CorruptionInfo("vignette", draw.vignette, "darkened towards the corners"),
        CorruptionInfo("hairs", draw.hairs, "dark hairs across the image"),
        CorruptionInfo("ruler", draw.ruler, "marks of a scale along the edges"),
        CorruptionInfo("colour-cast", draw.colour_cast, "tinted by the light, warm to cool", colour_only=True),
    )
}


class CorruptionSummary(TypedDict):
    """What `corruption_summary` returns; the last four are None without a reference."""

    clean_error: float
    mean_corruption_error: float
    relative_corruption_error: float
    per_corruption: dict[str, float]
    per_severity: list[float]
    mce: float | None
    relative_mce: float | None
    ce: dict[str, float | None] | None
    relative_ce: dict[str, float | None] | None


def find_corruption(name: str) -> CorruptionInfo:
    """Look a corruption up by name; raises UserError if there is none, naming the nearest."""
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    return CORRUPTIONS[name]


def corruptions_for(channels: int) -> tuple[list[str], list[str]]:
    """Names of the corruptions that images of 1 or 3 channels can have, and of those that have no meaning for them."""
    skipped = [info.name for info in CORRUPTIONS.values() if info.colour_only and channels == 1]
    return [name for name in CORRUPTIONS if name not in skipped], skipped


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int, ids: Sequence[str]) -> np.ndarray:
    """Corrupt images, each by randomness of its own.

    The draws depend on (seed, name, id) alone: neither on the other images nor on their order, nor on the severity.

    Args:
        images: `(N, C, H, W)` uint8, grey or RGB, at least 16 pixels a side.
        name: see `CORRUPTIONS`.
        severity: 1 (mild) to 5.
        seed: of all draws.
        ids: name of each image `(N,)`.

    Returns:
        Corrupted images `(N, C, H, W)`, uint8.

    Raises:
        UserError: unknown name or severity, images that are too small, a colour corruption of grey images.
        ValueError: images of another type or shape, or as many ids as there are not images.
    """
    info = find_corruption(name)
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} of corruption {name}; severities are 1, 2, 3, 4 and 5")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be uint8 (N, 1 or 3, H, W), not {images.dtype} {images.shape}")
    if len(ids) != len(images):
        raise ValueError(f"{len(images)} images but {len(ids)} ids")
    if min(images.shape[2:]) < MIN_SIDE:
        raise UserError(f"images of {images.shape[2]}x{images.shape[3]} pixels; corruptions need {MIN_SIDE} a side")
    if info.colour_only and images.shape[1] == 1:
        raise UserError(f"corruption {name} has no meaning for grey images; leave it out")
    corrupted = np.empty_like(images)
    for row, (image, image_id) in enumerate(zip(images, ids, strict=True)):
        # Plain types, since numpy's print otherwise and would make another key.
        rng = np.random.default_rng(key(int(seed), name, str(image_id)))
        corrupted[row] = info.function(image, severity, rng)
    return corrupted


def corruption_summary(
    errors: Errors, clean_error: float, *, reference: tuple[Errors, float] | None = None
) -> CorruptionSummary:
    """Sum up what corruptions cost, alone and against a reference model such as the standard-trained one.

    With `E_cs` the error under corruption c at severity s, `E_0` the clean one, R those of the reference:

    - mean corruption error: mean of `E_cs` over c and s; relative corruption error: that less `E_0`;
    - `CE_c = sum_s E_cs / sum_s R_cs`, and its mean over c, the mCE (Hendrycks and Dietterich 2019, arXiv 1903.12261,
      section 4, there in percent and against AlexNet);
    - `relative CE_c = sum_s (E_cs - E_0) / sum_s (R_cs - R_0)`, and its mean over c, the relative mCE (ibid.).

    A ratio of 1 means as the reference, below 1 better. Where the reference makes no error under a corruption, CE_c is
    None; where the corruption adds less than 0.01 to its error, and the quotient would be of noise, relative CE_c is.
    The means are over the corruptions that have a ratio, and None if none has.

    Args:
        errors: E, of accuracy or of balanced accuracy.
        clean_error: `E_0`, in [0, 1].
        reference: R and `R_0`, of the same images and kind; further corruptions in it do not count.

    Returns:
        `mean_corruption_error`, `relative_corruption_error`; `per_corruption`, mean over severities;
        `per_severity`, mean over corruptions; `mce`, `relative_mce`, `ce`, `relative_ce`.

    Raises:
        UserError: the reference lacks a corruption.
        ValueError: no corruption, not five errors each, or an error outside [0, 1].
    """
    means = _means(errors, clean_error)
    mean = float(np.mean(list(means.values())))
    summary = CorruptionSummary(
        clean_error=clean_error,
        mean_corruption_error=mean,
        relative_corruption_error=mean - clean_error,
        per_corruption=means,
        per_severity=np.mean(list(errors.values()), axis=0).tolist(),
        mce=None,
        relative_mce=None,
        ce=None,
        relative_ce=None,
    )
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
        summary["ce"], summary["mce"] = ce, _mean(ce)
        summary["relative_ce"], summary["relative_mce"] = relative, _mean(relative)
    return summary


def _means(errors: Errors, clean_error: float) -> dict[str, float]:
    table = np.array([*errors.values()], dtype=np.float64) if errors else np.empty(0)
    if table.shape != (len(errors), len(SEVERITIES)) or not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"needs {len(SEVERITIES)} errors in [0, 1] for each of one or more corruptions")
    if not 0 <= clean_error <= 1:
        raise ValueError(f"clean error {clean_error} is not in [0, 1]")
    return dict(zip(errors, table.mean(axis=1).tolist(), strict=True))


def _mean(ratios: Mapping[str, float | None]) -> float | None:
    known = [ratio for ratio in ratios.values() if ratio is not None]
    return float(np.mean(known)) if known else None
