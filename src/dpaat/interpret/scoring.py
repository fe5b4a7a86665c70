"""Scores of attribution maps: one row per image and score, means with intervals, paired differences of two runs."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from torch import Tensor

from dpaat.errors import UserError
from dpaat.evaluation.entries import Entry
from dpaat.evaluation.means import Score, score_means
from dpaat.evaluation.results import require_present
from dpaat.interpret.document import INTERPRETABILITY_FILE, read_interpretability, read_scores
from dpaat.interpret.maps import REFERENCES
from dpaat.interpret.measure import RANDOM_ORDER, Measured
from dpaat.interpret.metrics import area_chance, energy_inside, iou_chance, pointing_game, top_area_iou
from dpaat.interpret.similarity import rank_correlation, specific_correlation, structural_similarity
from dpaat.radii import format_radius


class ScoreInfo(NamedTuple):
    """A score that every image gets."""

    title: str  # for people
    chance: str  # what its chance level is
    low: float = 0.0  # least value it can have; the largest is 1
    binary: bool = False  # whether it is 0 or 1 but for ties


AREA, OTHER, RANDOM = "the lesion's share of the area", "with the clean map of another image", "pixels in random order"
SCORES = {
    "energy": ScoreInfo("energy inside the lesion", AREA),
    "pointing": ScoreInfo("pointing game", AREA, binary=True),
    "iou": ScoreInfo("IoU of the top area of equal size", "its mean over random areas of that size"),
    "rank_correlation": ScoreInfo("rank correlation with the clean map", OTHER, low=-1.0),
    "ssim": ScoreInfo("SSIM with the clean map", OTHER, low=-1.0),
    "deletion": ScoreInfo("deletion area (lower is better)", RANDOM),
    "insertion": ScoreInfo("insertion area (higher is better)", RANDOM),
    "alignment": ScoreInfo("alignment of input gradient and image", "a random direction"),
    "randomized": ScoreInfo("correlation with the map of the randomized model", "0, unrelated maps", low=-1.0),
}

STABILITY = {"rank_correlation": rank_correlation, "ssim": structural_similarity}
FAITHFULNESS = ("deletion", "insertion")
SAME = ("data", "fingerprint", "split")
Rows = tuple[np.ndarray, str, float, str, np.ndarray, np.ndarray | float]
COLUMNS = ("position", "map", "eps", "score", "value", "chance")


def image_scores(found: Measured, masks: Tensor | None) -> pd.DataFrame:
    """Score every map of every image; where a clean map is empty there is nothing that could be stable: no score.

    Of lesion masks `(N, H, W)` bool, an empty one counts as none, and gets no scores that need one. Returns columns
    `position` (of the image), `map`, `eps`, `score`, `value`, `chance` (NaN where there is none).
    """
    tables = [pd.DataFrame(dict(zip(COLUMNS, rows, strict=True))) for rows in _scored(found, masks)]
    return pd.concat(tables, ignore_index=True)


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
    # Rows often stand in the order of their classes, whose maps are alike: neighbours of a drawn order are compared.
    place = np.random.default_rng(0).permutation(len(everything))
    for (kind, eps), maps in found.maps.items():
        if kind in REFERENCES:
            continue
        clean = found.maps[kind, 0.0]
        if eps:
            there = np.flatnonzero(clean.flatten(1).any(dim=1).numpy())
            one, two = clean[there], maps[there]
            drawn = np.argsort(place[there])
            other = one[np.roll(drawn, 1)[np.argsort(drawn)]]
            for score, compare in STABILITY.items() if len(there) else ():
                chance = compare(one, other) if len(one) > 1 else np.nan
                yield there, kind, eps, score, compare(one, two), chance
            continue
        areas = zip(FAITHFULNESS, found.faithfulness[kind], found.faithfulness[RANDOM_ORDER], strict=True)
        for score, area, by_chance in areas:
            yield everything, kind, eps, score, area, by_chance
        if len(clean) > 1:
            yield everything, kind, eps, "randomized", specific_correlation(clean, found.randomized[kind]), 0.0
    for eps, values in found.alignment.items():
        yield everything, "input-gradient", eps, "alignment", values, found.alignment_chance


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
        low, at = SCORES[score].low, rows["position"].to_numpy()
        means = partial(score_means, labels=labels[at], groups=groups[at], classes=classes, shares=shares)
        value, chance = rows["value"].to_numpy(), rows["chance"].to_numpy()
        found = [means(value, bounds=(low, 1.0), binary=SCORES[score].binary)]
        if not np.isnan(chance).any():
            found += [means(chance, bounds=(low, 1.0)), means(value - chance, bounds=(low - 1, 1 - low))]
        about = {"map": kind, "eps": eps, "eps_text": format_radius(eps), "score": score, "n": len(at)}
        sides = {name: _beside(*(each[name] for each in found)) for name in ("mean", "balanced")}
        per_class = {name: _beside(*(each["per_class"][name] for each in found)) for name in found[0]["per_class"]}
        entries.append({**about, **sides, "per_class": per_class})
    return entries


def _beside(score: Score, chance: Score | None = None, excess: Score | None = None) -> dict[str, Any]:
    """A score beside its chance level; the interval of the difference, image by image, tells the two apart."""
    return {
        **score,
        "chance": chance and chance["value"],
        "excess": excess and excess["value"],
        "excess_interval": excess and excess["interval"],
    }


def compare_explanations(first: Path, second: Path) -> list[dict[str, Any]]:
    """Find the differences of all scores of two runs on the images that both have: first minus second.

    Returns one entry per set of images, map, radius and score: the fields of `Population`, where `n` counts the images
    in common; `norm`, `map`, `eps`, `eps_text`, `score`; `mean`, `balanced` and, in `per_class`, each class with
    `value` and `interval` of the difference. UserError for a run that is not explained, or no images in common.
    """
    documents = []
    for run in (first, second):
        document = read_interpretability(run)
        if document is None:
            raise UserError(f"{run}: has no {INTERPRETABILITY_FILE}; explain it first with dpaat explain {run}")
        require_present(run, document, "explain")
        documents.append(document)
    ours, theirs = documents
    found = [
        difference
        for one, other in product(ours["explanations"], theirs["explanations"])
        if all(one[name] == other[name] for name in SAME) and ours["classes"] == theirs["classes"]
        if all(one["attack"][name] == other["attack"][name] for name in ("norm", "steps"))
        for difference in _differences(read_scores(first, one), read_scores(second, other), one, ours["classes"])
    ]
    if not found:
        raise UserError(f"{first} and {second}: explained on no images in common; explain both on the same split")
    return found


def _differences(ours: pd.DataFrame, theirs: pd.DataFrame, one: Entry, classes: list[str]) -> Iterator[dict[str, Any]]:
    keys = ["map", "eps", "score"]
    paired = ours.merge(theirs, on=["id", "group", "label", *keys], suffixes=("", "_other"))
    shares = np.array([one["support"][name] for name in classes])
    for key, rows in paired.groupby(keys, sort=False):
        kind, eps, score = cast("tuple[str, float, str]", key)
        if kind in REFERENCES:  # the same for every run
            continue
        reach = 1 - SCORES[score].low
        means = score_means(
            (rows["value"] - rows["value_other"]).to_numpy(),
            rows["label"].map(classes.index).to_numpy(dtype=np.int64),
            rows["group"].to_numpy(dtype=str),
            classes,
            shares=shares,
            bounds=(-reach, reach),
        )
        about = {name: one[name] for name in SAME} | {"n": len(rows), "norm": one["attack"]["norm"]}
        yield {**about, "map": kind, "eps": eps, "eps_text": format_radius(eps), "score": score, **means}
