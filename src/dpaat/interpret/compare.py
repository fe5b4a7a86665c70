"""Paired comparison of two explained runs, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from dpaat.errors import UserError
from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.means import score_means
from dpaat.evaluation.results import require_present
from dpaat.interpret.document import INTERPRETABILITY_FILE, read_interpretability, read_scores
from dpaat.interpret.maps import REFERENCES
from dpaat.interpret.scoring import SCORES
from dpaat.radii import format_radius

SAME = ("data", "fingerprint", "split")
KEYS = ["id", "group", "label", "map", "eps", "score"]


def compare_explanations(first: Path, second: Path) -> list[dict[str, Any]]:
    """Find the differences of all scores of two runs on the images that both have: first minus second.

    Returns one entry per set of images, map, radius and score: the fields of `Population`, where `n` counts the images
    in common; `norm`, `map`, `eps`, `eps_text`, `score`; `mean`, `balanced` and, in `per_class`, each class with
    `value` and `interval` of the difference.

    Raises:
        UserError: a run that is not explained, or no images in common.
    """
    ours, theirs = _document(first), _document(second)
    found = []
    for one in ours["explanations"]:
        for other in theirs["explanations"]:
            if _images(one) == _images(other) and ours["classes"] == theirs["classes"]:
                found += _differences(first, one, second, other, ours["classes"])
    if not found:
        raise UserError(f"{first} and {second}: explained on no images in common; explain both on the same split")
    return found


def _differences(first: Path, one: Entry, second: Path, other: Entry, classes: list[str]) -> list[dict[str, Any]]:
    paired = read_scores(first, one).merge(read_scores(second, other), on=KEYS, suffixes=("", "_other"))
    shares = np.array([one["support"][name] for name in classes])
    number = {name: k for k, name in enumerate(classes)}
    entries = []
    for key, rows in paired.groupby(["map", "eps", "score"], sort=False):
        kind, eps, score = cast("tuple[str, float, str]", key)
        if kind in REFERENCES:  # the same for every run
            continue
        reach = 1 - SCORES[score].low
        means = score_means(
            (rows["value"] - rows["value_other"]).to_numpy(),
            rows["label"].map(number).to_numpy(dtype=np.int64),
            rows["group"].to_numpy(dtype=str),
            classes,
            shares=shares,
            bounds=(-reach, reach),
        )
        about = {name: one[name] for name in SAME} | {"n": len(rows), "norm": one["attack"]["norm"]}
        entries.append({**about, "map": kind, "eps": eps, "eps_text": format_radius(eps), "score": score, **means})
    return entries


def _images(entry: Entry) -> tuple[Any, ...]:
    return (*(entry[name] for name in SAME), entry["attack"]["norm"], entry["attack"]["steps"])


def _document(run: Path) -> Document:
    document = read_interpretability(run)
    if document is None:
        raise UserError(f"{run}: has no {INTERPRETABILITY_FILE}; explain it first with dpaat explain {run}")
    require_present(run, document, "explain")
    return document
