"""What an evaluation leaves in the run folder: `evaluation.json` and one part file of predictions per result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dpaat.errors import UserError
from dpaat.evaluation.metrics import Metrics
from dpaat.evaluation.schema import damage
from dpaat.evaluation.suite import Result
from dpaat.radii import format_radius
from dpaat.runs import replacing, write_text
from dpaat.shapes import load_json

SCHEMA_VERSION = 2
EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FOLDER = "predictions.parquet"

PREDICTIONS_SCHEMA = pa.schema(
    {
        "data": pa.string(),
        "fingerprint": pa.string(),
        "id": pa.string(),
        "split": pa.string(),
        "group": pa.string(),
        "label": pa.string(),
        "attack": pa.string(),
        "norm": pa.string(),
        "steps": pa.int64(),
        "eps": pa.float64(),
        "predicted": pa.string(),
        "probabilities": pa.list_(pa.float64()),
        "fell_to": pa.string(),
    }
)

Entry = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True)
class Population:
    """The images that a result is about.

    Attributes:
        data: name of the dataset, such as "ham10000".
        fingerprint: the dataset's.
        split: "train", "val", "test" or "all".
        n: number of images, fewer than the split has after a draw.
    """

    data: str
    fingerprint: str
    split: str
    n: int


@dataclass(frozen=True)
class Group:
    """All results on the same images, with the constant predictor's."""

    population: Population
    results: list[Entry]
    constant: Entry | None

    @property
    def title(self) -> str:
        """Such as "ham10000, test, 1,987 images"."""
        return f"{self.population.data}, {self.population.split}, {self.population.n:,} images"


def result_entry(result: Result, population: Population, intervals: Entry | None = None, **settings: Any) -> Entry:
    """Describe a result for `evaluation.json`.

    Args:
        result: the model under one attack at one radius.
        population: the images.
        intervals: of the metrics, see `dpaat.evaluation.statistics.intervals`.
        settings: what else it depends on: checkpoint, seed, device, batch size.
    """
    spec = result.spec
    attacked = spec.name != "clean"
    return {
        **vars(population),
        "attack": spec.name,
        "label": spec.label,
        "norm": spec.norm if attacked else None,
        "steps": spec.steps,
        "start": spec.start,
        "eps": result.eps,
        "eps_text": format_radius(result.eps),
        **settings,
        "metrics": result.metrics,
        "intervals": intervals,
    }


def constant_entry(metrics: Metrics, population: Population, predicts: str) -> Entry:
    """Describe the constant predictor that always answers `predicts`."""
    return {**vars(population), "predicts": predicts, "metrics": metrics}


def read_evaluation(run: Path) -> Document | None:
    """Read a run's `evaluation.json`; None if there is none.

    Raises:
        UserError: not JSON, of another schema version, or damaged.
    """
    document = read_document(run / EVALUATION_FILE, SCHEMA_VERSION, remedy="evaluate")
    if document is not None and (where := damage(document)):
        raise UserError(f"{run / EVALUATION_FILE}: damaged at {where!r}; move it away and evaluate again")
    return document


def read_document(path: Path, schema_version: int, *, remedy: str) -> Document | None:
    """Read a JSON file of results; None if there is none.

    Args:
        path: the file.
        schema_version: the one that is understood.
        remedy: what to do again where the file is of no use.

    Raises:
        UserError: not JSON, or of another schema version.
    """
    try:
        document = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); move it away and {remedy} again") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != schema_version:
        raise UserError(
            f"{path}: schema version {version}, this dpaat reads version {schema_version}; "
            f"move it away and {remedy} again"
        )
    return dict(document)


def merge(
    document: Document | None,
    head: Document,
    *,
    result: Entry | None = None,
    constant: Entry | None = None,
    analyses: Mapping[str, Entry] | None = None,
) -> Document:
    """Put results into a document in place of earlier ones of the same kind.

    Args:
        document: what was there before.
        head: top-level fields of the latest command; its `checkpoint` is that of the results.
        result: see `result_entry`.
        constant: see `constant_entry`.
        analyses: what was concluded from several results, by name, each with the fields of its population.

    Returns:
        A new document. Results of another checkpoint are left out: they describe a model that is gone.
    """
    found = document or {}

    def others(entries: Sequence[Entry], new: Entry | None, key: Callable[[Entry], object]) -> list[Entry]:
        kept = [e for e in entries if e.get("checkpoint", head["checkpoint"]) == head["checkpoint"]]
        return kept if new is None else [*(e for e in kept if key(e) != key(new)), new]

    named: dict[str, list[Entry]] = found.get("analyses", {})
    fresh = analyses or {}
    joined = {name: others(named.get(name, []), fresh.get(name), _subject) for name in sorted({*named, *fresh})}
    return {
        **head,
        "schema_version": SCHEMA_VERSION,
        "constant": sorted(others(found.get("constant", []), constant, population_of), key=_subject),
        "results": sorted(others(found.get("results", []), result, _key), key=_order),
        "analyses": {name: sorted(entries, key=_subject) for name, entries in joined.items() if entries},
    }


def save_result(
    run: Path,
    head: Document,
    *,
    result: Entry | None = None,
    constant: Entry | None = None,
    analyses: Mapping[str, Entry] | None = None,
    predictions: pa.Table | None = None,
) -> Document:
    """Merge a result into the run folder; each file is replaced as a whole or not at all.

    The JSON is read again every time, so that two evaluations of one run keep each other's results.

    Raises:
        UserError: the folder cannot be written, or holds an unreadable `evaluation.json`.
    """
    before = read_evaluation(run)
    folder = run / PREDICTIONS_FOLDER
    try:
        if result is not None and predictions is not None:
            result = {**result, "predictions": part_name(result)}
            folder.mkdir(exist_ok=True)
            part = folder / result["predictions"]
            with replacing(part) as temporary:
                pq.write_table(predictions, temporary)
        document = merge(before, head, result=result, constant=constant, analyses=analyses)
        write_text(run / EVALUATION_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")
        kept = {entry.get("predictions") for entry in document["results"]}
        for entry in before["results"] if before else []:
            if (name := entry.get("predictions")) and name not in kept:
                (folder / Path(name).name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{run}: results cannot be written ({error.strerror or error})") from None
    return document


def prediction_rows(
    result: Result,
    population: Population,
    *,
    ids: Sequence[str],
    groups: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
) -> pa.Table:
    """One row per image: `PREDICTIONS_SCHEMA`; `probabilities` in the order of the run's classes."""
    n = len(ids)
    attacked = result.spec.name != "clean"
    columns: dict[str, list[Any]] = {
        "data": [population.data] * n,
        "fingerprint": [population.fingerprint] * n,
        "id": list(ids),
        "split": [population.split] * n,
        "group": list(groups),
        "label": [classes[k] for k in labels],
        "attack": [result.spec.name] * n,
        "norm": [result.spec.norm if attacked else None] * n,
        "steps": [result.spec.steps] * n,
        "eps": [result.eps] * n,
        "predicted": [classes[k] for k in result.predicted],
        "probabilities": [None] * n if result.probabilities is None else list(result.probabilities.numpy()),
        "fell_to": [None] * n if result.fell_to is None else [label or None for label in result.fell_to],
    }
    return pa.table(columns, schema=PREDICTIONS_SCHEMA)


def groups(document: Document) -> list[Group]:
    """Sort a document's results by the images they are about."""
    constants = {population_of(entry): entry for entry in document["constant"]}
    found: dict[Population, list[Entry]] = {}
    for entry in document["results"]:
        found.setdefault(population_of(entry), []).append(entry)
    return [Group(population, entries, constants.get(population)) for population, entries in found.items()]


def population_of(entry: Entry) -> Population:
    """The images that an entry is about."""
    return Population(entry["data"], entry["fingerprint"], entry["split"], entry["n"])


def part_name(entry: Entry) -> str:
    """File name of a result's predictions; the same kind of result always has the same one."""
    if entry["attack"] == "clean":
        return part_stem(entry, "clean") + ".parquet"
    details = (entry["attack"], f"{entry['steps'] or 1}", entry["norm"], f"{entry['eps']:.6g}")
    return part_stem(entry, *details) + ".parquet"


def part_stem(entry: Entry, *details: str) -> str:
    """File name, without its suffix, of what belongs to an entry's images."""
    parts = (entry["data"], entry["fingerprint"], entry["split"], f"n{entry['n']}", *details)
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)


def _key(entry: Entry) -> tuple[object, ...]:
    return (population_of(entry), entry["attack"], entry["norm"], entry["steps"], round(entry["eps"], 9))


def _subject(entry: Entry) -> tuple[Any, ...]:
    return (*vars(population_of(entry)).values(), entry.get("norm") or "")


def _order(entry: Entry) -> tuple[Any, ...]:
    return (
        *vars(population_of(entry)).values(),
        entry["attack"] != "clean",
        entry["attack"] == "worst-case",
        entry["attack"],
        entry["norm"] or "",
        entry["steps"] or 0,
        entry["eps"],
    )
