"""Where models look: attribution maps of a recipe against those of another, over all cells that both have.

    python benchmarks/attention.py CELLS FIRST SECOND [--images 300] [--out FILE.json]

CELLS is the `cells` folder of a benchmark, FIRST and SECOND are recipes, as `dpaat` and `standard`. Every cell is
explained (100 images by default in `dpaat explain`; those that are explained already are kept), and each cell of FIRST
is compared with the cell of SECOND of the same model, fold and seed, on the same images. Scores weight the classes
alike. Means over the cells; differences are FIRST minus SECOND with t-intervals over the cells, which say how other
cells of this grid would turn out, and the number of cells in which FIRST is higher.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from dpaat.interpret import compare_explanations, explain_run, read_interpretability
from dpaat.provenance import provenance
from dpaat.storage import write_json

Scores = dict[tuple[str, float, str], float]


def explained(run: Path, images: int) -> list[dict[str, Any]]:
    """Scores of a run on as many images, which it is explained on unless it was."""
    document = read_interpretability(run)
    if document is None or all(entry["n"] != images for entry in document["explanations"]):
        document = explain_run(run, max_samples=images)
    (entry,) = [entry for entry in document["explanations"] if entry["n"] == images]
    scores: list[dict[str, Any]] = entry["scores"]
    return scores


def values(scores: list[dict[str, Any]], field: str) -> Scores:
    """One field of every balanced score by map, radius and name."""
    entries = ((score, score["balanced"].get(field)) for score in scores)
    return {(score["map"], score["eps"], score["score"]): value for score, value in entries if value is not None}


def pooled(pairs: list[tuple[Path, Path]], images: int) -> list[dict[str, Any]]:
    """Every score over all pairs."""
    sides = [[explained(run, images) for run in pair] for pair in pairs]
    columns = {
        f"{name}_{field}": [values(pair[number], field) for pair in sides]
        for number, name in enumerate(("first", "second"))
        for field in ("value", "excess")
    }
    differences = [values(compare_explanations(*pair), "value") for pair in pairs]
    found = []
    for key in set.intersection(*map(set, differences)):
        each = np.array([one[key] for one in differences])
        entry: dict[str, Any] = dict(zip(("map", "eps", "score"), key, strict=True))
        for name, column in columns.items():
            entry[name] = float(np.mean([one[key] for one in column])) if all(key in one for one in column) else None
        interval = [*map(float, stats.ttest_1samp(each, 0).confidence_interval(0.95))]
        entry |= {"difference": float(each.mean()), "interval": interval, "higher": int((each > 0).sum())}
        found.append(entry)
    return sorted(found, key=lambda entry: (entry["score"], entry["map"], entry["eps"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pairs = [
        (one, other)
        for one in sorted(arguments.cells.glob(f"{arguments.first}-*"))
        if (other := arguments.cells / one.name.replace(arguments.first, arguments.second, 1)).is_dir()
    ]
    if len(pairs) < 2:
        sys.exit(f"{arguments.cells}: {len(pairs)} cells with both recipes; an interval over cells needs two")
    found = pooled(pairs, arguments.images)
    about = {"first": arguments.first, "second": arguments.second, "images": arguments.images}
    document = {**provenance("cpu"), **about, "cells": [one.name for one, _ in pairs], "scores": found}
    if arguments.out:
        write_json(arguments.out, document)
    Console().print_json(data=found)


if __name__ == "__main__":
    main()
