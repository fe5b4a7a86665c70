"""Scores of attribution maps: one row per image and score, then means with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpaat.evaluation.means import Score, score_means
from dpaat.interpret.maps import REFERENCES
from dpaat.interpret.masks import area_chance, energy_inside, iou_chance, pointing_game, top_area_iou
from dpaat.interpret.measure import RANDOM_ORDER, Measured
from dpaat.interpret.similarity import rank_correlation, specific_correlation, structural_similarity
from dpaat.radii import format_radius


@dataclass(frozen=True)
class ScoreInfo:
    """A score that every image gets."""

    name: str
    title: str  # for people
    chance: str  # what its chance level is
    low: float = 0.0  # least value it can have; the largest is 1
    binary: bool = False  # whether it is 0 or 1 but for ties


SCORES: dict[str, ScoreInfo] = {
    info.name: info
    for info in (
        ScoreInfo("energy", "energy inside the lesion", "the lesion's share of the area"),
        ScoreInfo("pointing", "pointing game", "the lesion's share of the area", binary=True),
        ScoreInfo("iou", "IoU of the top area of equal size", "its mean over random areas of that size"),
        ScoreInfo(
            "rank_correlation", "rank correlation with the clean map", "with the clean map of another image", low=-1.0
        ),
        ScoreInfo("ssim", "SSIM with the clean map", "with the clean map of another image", low=-1.0),
        ScoreInfo("deletion", "deletion area (lower is better)", "pixels in random order"),
        ScoreInfo("insertion", "insertion area (higher is better)", "pixels in random order"),
        ScoreInfo("alignment", "alignment of input gradient and image", "a random direction"),
        ScoreInfo("randomized", "correlation with the map of the randomized model", "0, unrelated maps", low=-1.0),
    )
}


def image_scores(found: Measured, masks: Tensor | None) -> pd.DataFrame:
    """Score every map of every image; where a clean map is empty there is nothing that could be stable: no score.

    Of lesion masks `(N, H, W)` bool, an empty one counts as none, and gets no scores that need one. Returns columns
    `position` (of the image), `map`, `eps`, `score`, `value`, `chance` (NaN where there is none).
    """
    tables = [
        pd.DataFrame({"position": rows, "map": kind, "eps": eps, "score": score, "value": value, "chance": chance})
        for rows, kind, eps, score, value, chance in _scored(found, masks)
    ]
    return pd.concat(tables, ignore_index=True)


Rows = tuple[np.ndarray, str, float, str, np.ndarray, np.ndarray | float]


def _scored(found: Measured, masks: Tensor | None) -> Iterator[Rows]:
    everything = np.arange(len(next(iter(found.predicted.values()))))
    with_mask = everything[:0] if masks is None else np.flatnonzero(masks.flatten(1).any(dim=1).numpy())
    if masks is not None and len(with_mask):
        masks = masks[with_mask]
        area, iou = area_chance(masks), iou_chance(masks)
        for (kind, eps), maps in found.maps.items():
            seen = maps[with_mask]
            yield with_mask, kind, eps, "energy", energy_inside(seen, masks), area
            yield with_mask, kind, eps, "pointing", pointing_game(seen, masks), area
            yield with_mask, kind, eps, "iou", top_area_iou(seen, masks), iou
    for (kind, eps), maps in found.maps.items():
        if kind in REFERENCES:
            continue
        clean = found.maps[kind, 0.0]
        if eps:
            there = np.flatnonzero(clean.flatten(1).any(dim=1).numpy())
            if len(there):
                yield from _stability(there, kind, eps, clean[there], maps[there])
            continue
        for score, area, by_chance in zip(
            ("deletion", "insertion"), found.faithfulness[kind], found.faithfulness[RANDOM_ORDER], strict=True
        ):
            yield everything, kind, eps, score, area, by_chance
        if len(clean) > 1:
            yield everything, kind, eps, "randomized", specific_correlation(clean, found.randomized[kind]), 0.0
    for eps, values in found.alignment.items():
        yield everything, "input-gradient", eps, "alignment", values, found.alignment_chance


def _stability(rows: np.ndarray, kind: str, eps: float, clean: Tensor, maps: Tensor) -> Iterator[Rows]:
    for score, compare in (("rank_correlation", rank_correlation), ("ssim", structural_similarity)):
        chance = compare(clean, clean.roll(1, dims=0)) if len(clean) > 1 else np.nan
        yield rows, kind, eps, score, compare(clean, maps), chance


def summarize(
    scores: pd.DataFrame, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], shares: np.ndarray
) -> list[dict[str, Any]]:
    """Average the scores of all images, of all classes counted alike, and of each class.

    `scores` are those of `image_scores`, with class and lesion of every image `(N,)`; `shares` are weights of the
    classes in the population `(K,)`. Returns one entry per map, radius and score, ready for JSON: `n` images; `mean`,
    `balanced` and, in `per_class`, each class with `value`, `interval`, `chance`, and `excess` with its interval.
    """
    entries = []
    for key, rows in scores.groupby(["map", "eps", "score"], sort=False):
        kind, eps, score = cast("tuple[str, float, str]", key)
        info, at = SCORES[score], rows["position"].to_numpy()
        means = partial(score_means, labels=labels[at], groups=groups[at], classes=classes, shares=shares)
        value, chance = rows["value"].to_numpy(), rows["chance"].to_numpy()
        bounds = (info.low, 1.0)
        found = means(value, bounds=bounds, binary=info.binary)
        level = excess = None
        if not np.isnan(chance).any():
            level, excess = means(chance, bounds=bounds), means(value - chance, bounds=(info.low - 1, 1 - info.low))
        entries.append(
            {
                "map": kind,
                "eps": eps,
                "eps_text": format_radius(eps),
                "score": score,
                "n": len(at),
                "mean": _beside(found["mean"], level and level["mean"], excess and excess["mean"]),
                "balanced": _beside(found["balanced"], level and level["balanced"], excess and excess["balanced"]),
                "per_class": {
                    name: _beside(each, level and level["per_class"][name], excess and excess["per_class"][name])
                    for name, each in found["per_class"].items()
                },
            }
        )
    return entries


def _beside(score: Score, chance: Score | None, excess: Score | None) -> dict[str, Any]:
    """A score beside its chance level; the interval of the difference, image by image, tells the two apart."""
    return {
        **score,
        "chance": chance and chance["value"],
        "excess": excess and excess["value"],
        "excess_interval": excess and excess["interval"],
    }


def count_empty(maps: Tensor) -> int:
    """Count the maps that are 0 everywhere: they score chance on the lesion."""
    return int((~maps.flatten(1).any(dim=1)).sum())


def masks_tensor(masks: np.ndarray | None) -> Tensor | None:
    """Masks of a dataset as a tensor, None if no image has one."""
    return None if masks is None or not masks.any() else torch.from_numpy(masks)
