"""Runs against each other, image by image, with the number of comparisons taken into account."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Group as Lines
from rich.text import Text

import dpaat
from dpaat.errors import UserError
from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.results import (
    EVALUATION_FILE,
    PREDICTIONS_FOLDER,
    PREDICTIONS_SCHEMA,
    check_results,
    read_evaluation,
    require_present,
)
from dpaat.evaluation.schema import COMPARED
from dpaat.evaluation.statistics import Predictions, holm, paired_difference, pooled_intervals
from dpaat.evaluation.table import condition, plain_table, titled, with_interval
from dpaat.runs import write_text
from dpaat.shapes import misfit

SCHEMA_VERSION = 1
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "map": "mAP"}
Replicate = tuple[str | None, int | None]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Runs that differ in seed and fold only.

    Attributes:
        name: what to call it.
        runs: evaluated folders, by (fold, seed).
    """

    name: str
    runs: Mapping[Replicate, Path]


def compare_runs(runs: Sequence[Path]) -> Document:
    """Compare evaluated runs on the same images under the same attacks.

    Runs of one recipe that differ in seed or fold are pooled. Every recipe is compared with the first one given.
    Intervals and p-values respect that images come in lesions (`dpaat.evaluation.statistics`); p-values are adjusted
    by Holm's method over all comparisons of one metric.

    Args:
        runs: evaluated folders, those of the reference first.

    Returns:
        `reference`; `recipes`, their runs; `conditions`, each with the `scores` of every recipe and the `differences`
        from the reference, recipe minus reference, with `p_value` and `p_adjusted`.

    Raises:
        UserError: fewer than two recipes, a run that was not evaluated, or nothing that all were evaluated on.
    """
    documents = {path: _evaluated(path) for path in dict.fromkeys(runs)}
    reference, *others = recipes = _recipes(documents)
    if not others:
        raise UserError("compare: give runs of at least two recipes; these differ in seed and fold only")
    for recipe in others:
        if recipe.runs.keys() != reference.runs.keys():
            raise UserError(
                f"compare: {recipe.name} and {reference.name} were not run with the same folds and seeds "
                f"({_replicates(recipe)} against {_replicates(reference)})"
            )
    replicates = list(reference.runs)
    conditions: list[Document] = []
    for key, entry in _common(documents).items():
        found = {
            recipe.name: [_predictions(recipe.runs[r], documents[recipe.runs[r]], key) for r in replicates]
            for recipe in recipes
        }
        first = found[reference.name]
        for recipe in others:
            if not all(_same_images(a, b) for a, b in zip(first, found[recipe.name], strict=True)):
                raise UserError(
                    f"compare: {recipe.name} and {reference.name} were not evaluated on the same images of "
                    f"{entry['data']}, {entry['split']}; evaluate them with the same --max-samples and --seed"
                )
        shown = ("data", "split", "attack", "label", "norm", "steps", "eps", "eps_text")
        conditions.append(
            {
                **{name: entry[name] for name in shown},
                "n": sum(len(each.labels) for each in found[reference.name]),
                "scores": {name: pooled_intervals(each) for name, each in found.items()},
                "differences": {
                    recipe.name: paired_difference(found[recipe.name], found[reference.name]) for recipe in others
                },
            }
        )
    _adjust(conditions)
    return {
        "schema_version": SCHEMA_VERSION,
        "dpaat_version": dpaat.__version__,
        "reference": reference.name,
        "recipes": {recipe.name: [path.resolve().name for path in recipe.runs.values()] for recipe in recipes},
        "fingerprints": sorted({document["data_fingerprint"] for document in documents.values()}),
        "data_warnings": {
            str(path): document["data_warnings"]
            for path, document in documents.items()
            if document.get("data_warnings")
        },
        "conditions": conditions,
    }


def write_comparison(document: Document, out: Path) -> None:
    """Write a comparison as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write_text(out, json.dumps(document, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None


def differences_table(document: Document) -> Lines:
    """Scores of every recipe with intervals, and differences from the reference with adjusted p-values."""
    reference = document["reference"]
    tables: list[Lines] = []
    for each in document["conditions"]:
        table = plain_table()
        table.add_column("")
        for heading in METRICS.values():
            table.add_column(heading, justify="right")
            table.add_column(f"- {reference}", justify="right")
        for name, scores in each["scores"].items():
            cells = []
            for metric in METRICS:
                score = scores.get(metric)
                cells.append("-" if score is None else with_interval(score["value"], score["interval"]))
                difference = each["differences"].get(name, {}).get(metric)
                cells.append("" if difference is None else _difference(difference))
            table.add_row(Text(name), *cells)
        tables.append(titled(f"{each['data']}, {each['split']}, {each['n']:,} images: {condition(each)}", table))
    return Lines(*tables, Text("percent, 95 % intervals; p adjusted by Holm over all comparisons of a metric"))


def _difference(difference: Mapping[str, Any]) -> str:
    text = with_interval(difference["difference"], difference["interval"], sign=True)
    return f"{text} p {difference['p_adjusted']:.2g}"


def _evaluated(path: Path) -> Document:
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder")
    document = read_evaluation(path)
    if document is None:
        raise UserError(f"{path}: not evaluated yet; run `dpaat evaluate {path}` first")
    if where := misfit(document, COMPARED):
        raise UserError(f"{path / EVALUATION_FILE}: damaged, it has no usable {where!r}; evaluate {path} again")
    require_present(path, document)
    check_results(path)
    return document


def _recipes(documents: Mapping[Path, Document]) -> list[Recipe]:
    """Sort runs into recipes, named by the method, or by the first run's folder where that would not be unique."""
    found: dict[tuple[Any, ...], dict[Replicate, Path]] = {}
    for path, document in documents.items():
        recipe = document["recipe"] or path.resolve()
        replicate = (document["fold"], document["training_seed"])
        runs = found.setdefault((document["method"], document["model"], recipe), {})
        if replicate in runs:
            raise UserError(f"compare: {path} and {runs[replicate]} have the same recipe, fold and seed; drop one")
        runs[replicate] = path
    methods = [method for method, _, _ in found]
    names = [
        method if method and methods.count(method) == 1 else next(iter(runs.values())).resolve().name
        for (method, _, _), runs in found.items()
    ]
    if len(set(names)) < len(names):
        names = [str(next(iter(runs.values()))) for runs in found.values()]
    return [Recipe(name, runs) for name, runs in zip(names, found.values(), strict=True)]


def _replicates(recipe: Recipe) -> str:
    return ", ".join(f"fold {fold or '-'} seed {seed}" for fold, seed in recipe.runs)


def _key(entry: Entry) -> tuple[Any, ...]:
    return (entry["data"], entry["split"], entry["attack"], entry["norm"], entry["steps"], round(entry["eps"], 9))


def _common(documents: Mapping[Path, Document]) -> dict[tuple[Any, ...], Entry]:
    """Conditions under which all runs were evaluated, in the order of the first; the largest set of images counts."""
    keys = [{_key(entry) for entry in document["results"]} for document in documents.values()]
    shared = set.intersection(*keys)
    if not shared:
        raise UserError("compare: the runs have no evaluation in common; evaluate them with the same options")
    return {_key(entry): entry for entry in next(iter(documents.values()))["results"] if _key(entry) in shared}


def _predictions(path: Path, document: Document, key: tuple[Any, ...]) -> Predictions:
    entry = max((e for e in document["results"] if _key(e) == key), key=lambda e: e["n"])
    part = path / PREDICTIONS_FOLDER / Path(entry.get("predictions") or "?").name
    try:
        frame = pq.read_table(part, schema=PREDICTIONS_SCHEMA).to_pandas().sort_values("id", kind="stable")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{part}: cannot be read ({error}); evaluate {path} again") from None
    classes = document["classes"]
    number = {name: k for k, name in enumerate(classes)}
    scored = bool(frame["probabilities"].notna().all())
    known = frame[["label", "predicted"]].isin(classes).all(axis=None) and not frame["id"].duplicated().any()
    rows = frame["probabilities"] if scored else []
    if len(frame) != entry["n"] or not known or not all(_is_distribution(row, len(classes)) for row in rows):
        raise UserError(f"{part}: damaged, it does not hold predictions of {entry['n']} images; evaluate {path} again")
    return Predictions(
        ids=frame["id"].to_numpy(dtype=str),
        labels=frame["label"].map(number).to_numpy(dtype=np.int64),
        groups=frame["group"].to_numpy(dtype=str),
        predicted=frame["predicted"].map(number).to_numpy(dtype=np.int64),
        probabilities=np.stack(frame["probabilities"].to_list()) if scored else None,
        classes=classes,
    )


def _is_distribution(probabilities: np.ndarray, classes: int) -> bool:
    return len(probabilities) == classes and bool(np.isfinite(probabilities).all())


def _same_images(one: Predictions, other: Predictions) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)


def _adjust(conditions: Sequence[Document]) -> None:
    """Add adjusted p-values, one family per metric."""
    for metric in METRICS:
        family = [d[metric] for each in conditions for d in each["differences"].values() if metric in d]
        for difference, adjusted in zip(family, holm([d["p_value"] for d in family]), strict=True):
            difference["p_adjusted"] = adjusted
