"""What an evaluation leaves in the run folder: `evaluation.json` and one part file of predictions per result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dpaat.errors import UserError
from dpaat.evaluation.entries import Document, Entry, Population, key_of, order_of, part_name, population_of, subject_of
from dpaat.evaluation.schema import damage
from dpaat.evaluation.suite import Result
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
    joined = {name: others(named.get(name, []), fresh.get(name), subject_of) for name in sorted({*named, *fresh})}
    return {
        **head,
        "schema_version": SCHEMA_VERSION,
        "constant": sorted(others(found.get("constant", []), constant, population_of), key=subject_of),
        "results": sorted(others(found.get("results", []), result, key_of), key=order_of),
        "analyses": {name: sorted(entries, key=subject_of) for name, entries in joined.items() if entries},
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
