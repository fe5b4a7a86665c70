"""Evaluation files in the run folder: `evaluation.json` and one part file of predictions per result."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dpaat.consistency import file_digest
from dpaat.data.label_sets import from_text
from dpaat.errors import UserError
from dpaat.evaluation.entries import Document, Entry, Population, key_of, order_of, part_name, population_of, subject_of
from dpaat.evaluation.labels import label_metrics, named
from dpaat.evaluation.metrics import Metrics, classification_metrics, verdict_metrics
from dpaat.evaluation.schema import damage
from dpaat.evaluation.suite import Result
from dpaat.radii import format_radius, radius_name
from dpaat.runs import BEST
from dpaat.storage import RESULTS, locked, read_json, remove_leftovers, replacing, write_text, writing

SCHEMA_VERSION = 2
EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FOLDER = "predictions.parquet"
UNWRITTEN = "results cannot be written"

OF_ENTRY = ("data", "fingerprint", "split", "attack", "norm", "steps", "eps")
"""Columns of predictions that say what all their rows are of, as the entry of the result does."""
_TEXT = ("data", "fingerprint", "id", "split", "group", "label", "attack", "norm")
_NUMBERS = {"steps": pa.int64(), "eps": pa.float64(), "predicted": pa.string(), "probabilities": pa.list_(pa.float64())}
PREDICTIONS_SCHEMA = pa.schema({**dict.fromkeys(_TEXT, pa.string()), **_NUMBERS, "fell_to": pa.string()})


def read_evaluation(run: Path) -> Document | None:
    """Read a run's `evaluation.json`; None if there is none.

    Raises UserError: not JSON, of another schema version, or damaged.
    """
    document = read_document(run / EVALUATION_FILE, SCHEMA_VERSION, remedy="evaluate")
    if document is not None and (where := damage(document)):
        raise UserError(f"{run / EVALUATION_FILE}: damaged at {where!r}; move it away and evaluate again")
    return document


def check_results(run: Path) -> None:
    """Compare metrics with the predictions that they were made of, where there are any; UserError if they disagree."""
    document = read_evaluation(run) or {"results": []}
    for entry in document["results"]:
        part = predictions_part(run, entry)
        classes = document.get("classes") or list(entry["metrics"]["support"])
        if part.is_file() and not _agrees(entry, _metrics_of(part, classes, entry)):
            raise UserError(
                f"{run / EVALUATION_FILE}: disagrees with {PREDICTIONS_FOLDER}/{part.name} ({entry['label']}, eps "
                f"{entry['eps_text']}); move both away and evaluate again"
            )


def _metrics_of(part: Path, classes: Sequence[str], entry: Entry) -> Metrics | None:
    """Metrics of a file of predictions; None where they are of other classes, images or attacks than the entry says."""
    try:
        table = pq.read_table(part, columns=["label", "predicted", "probabilities", *OF_ENTRY])
        if any(table[name].unique().to_pylist() != [entry.get(name)] for name in OF_ENTRY):
            return None
        frame = table.select(["label", "predicted", "probabilities"]).to_pandas()
        if "per_label" in entry["metrics"]:
            known, answers = (from_text(frame[name], classes) for name in ("label", "predicted"))
            rank = np.stack(frame["probabilities"].to_list()) if frame["probabilities"].notna().all() else None
            return label_metrics(answers, known, classes, rank) if len(frame) == entry["n"] else None
        labels, predicted = (torch.tensor(list(map(classes.index, frame[name]))) for name in ("label", "predicted"))
        found = verdict_metrics(predicted, labels, classes)
        if frame["probabilities"].notna().all():
            probabilities = torch.from_numpy(np.stack(frame["probabilities"].to_list()))
            ranked = classification_metrics(probabilities, labels, classes)
            found |= {"map": ranked["map"], "auroc": ranked["auroc"]}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{part}: not readable ({str(error).splitlines()[0]}); evaluate the run again") from None
    except (ValueError, TypeError, UserError):
        return None
    return found


def _agrees(entry: Entry, found: Metrics | None) -> bool:
    """Whether metrics are the same; other versions may rank ties otherwise, which moves no score by 0.5 points."""
    written = entry["metrics"]
    texts = (format_radius(entry["eps"]), radius_name(entry["eps"]))  # the latter in older files
    if found is None or entry["eps_text"] not in texts or written["support"] != found["support"]:
        return False
    recall = found["per_class_recall"]
    pairs = [(written["per_class_recall"][name], value, 1e-6) for name, value in recall.items()]
    tolerances = {"accuracy": 1e-6, "balanced_accuracy": 1e-6, "map": 0.005, "auroc": 0.005}
    pairs += [(written[name], found[name], tolerance) for name, tolerance in tolerances.items()]  # type: ignore[literal-required]
    same = all(a == b or (a is not None and b is not None and abs(a - b) <= most) for a, b, most in pairs)
    return same and ("per_label" in found or entry["n"] == sum(found["support"].values()))


def predictions_part(run: Path, entry: Entry) -> Path:
    """The file that holds a result's predictions."""
    return run / PREDICTIONS_FOLDER / Path(entry.get("predictions") or "?").name


def outdated(run: Path, document: Document, remedy: str = "evaluate") -> str | None:
    """Say that results are of a `checkpoint` that the run has no more, and what to do again; None if they are not."""
    then, path = document.get("checkpoint"), run / BEST
    if then is None or not path.is_file() or then == (now := file_digest(path)):
        return None
    return f"{run}: its results are of checkpoint {then}, but its training has gone on to {now}; {remedy} it again"


def require_present(run: Path, document: Document, remedy: str = "evaluate") -> None:
    """Refuse results of weights that the run has no more, see `outdated`, by a UserError."""
    if text := outdated(run, document, remedy):
        raise UserError(text)


def read_document(path: Path, schema_version: int, *, remedy: str) -> Document | None:
    """Read a JSON file of results of a schema version; None if there is none.

    Raises UserError: not JSON, or of another schema version; says `remedy`, what to do again.
    """
    if not path.exists():
        return None
    try:
        document = read_json(path)
        if (version := document.get("schema_version")) != schema_version:
            raise UserError(f"{path}: schema version {version}, this dpaat reads version {schema_version}")
    except UserError as error:
        raise UserError(f"{error}; move it away and {remedy} again") from None
    return document


def merge(
    document: Document | None,
    head: Document,
    *,
    result: Entry | None = None,
    constant: Entry | None = None,
    analyses: Mapping[str, Entry] | None = None,
) -> Document:
    """Put results into a document in place of earlier ones of the same kind.

    `head` are the top-level fields of the latest command; results of another `checkpoint`, or of other `classes`, than
    its are left out: they describe a model that is gone. For `result` and `constant` see `result_entry` and
    `constant_entry`; `analyses` are what was concluded from several results, by name, each with the fields of its
    population.
    """
    found, classes = document or {}, head.get("classes")

    def joined(entries: Sequence[Entry], new: Entry | None, key: Callable[[Entry], Any], order: Any) -> list[Entry]:
        kept = [e for e in entries if e.get("checkpoint", head["checkpoint"]) == head["checkpoint"]]
        kept = [e for e in kept if not (classes and "metrics" in e) or e["metrics"]["support"].keys() == set(classes)]
        return sorted(kept if new is None else [*(e for e in kept if key(e) != key(new)), new], key=order)

    named: dict[str, list[Entry]] = found.get("analyses", {})
    fresh = analyses or {}
    all_named = {n: joined(named.get(n, []), fresh.get(n), subject_of, subject_of) for n in sorted({*named, *fresh})}
    return {
        **head,
        "schema_version": SCHEMA_VERSION,
        "constant": joined(found.get("constant", []), constant, population_of, subject_of),
        "results": joined(found.get("results", []), result, key_of, order_of),
        "analyses": {name: entries for name, entries in all_named.items() if entries},
    }


def save_result(
    run: Path, head: Document, *, result: Entry | None = None, predictions: pa.Table | None = None, **further: Any
) -> Document:
    """Merge a result into the run folder, see `merge`; each file is replaced as a whole or not at all.

    The JSON is read again every time, under a lock, so that two evaluations of one run keep each other's results.
    Raises UserError: the folder cannot be written, holds an unreadable `evaluation.json`, or other weights by now.
    """
    with locked(run / RESULTS), writing(run, UNWRITTEN):
        require_present(run, head)
        before = read_evaluation(run)
        folder = run / PREDICTIONS_FOLDER
        if result is not None and predictions is not None:
            result = {**result, "predictions": part_name(result)}
            folder.mkdir(exist_ok=True)
            remove_leftovers(folder)
            with replacing(folder / result["predictions"]) as temporary:
                pq.write_table(predictions, temporary)
        document = merge(before, head, result=result, **further)
        write_text(run / EVALUATION_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")
        kept = {entry.get("predictions") for entry in document["results"]}
        for entry in before["results"] if before else []:
            if (name := entry.get("predictions")) and name not in kept:
                (folder / Path(name).name).unlink(missing_ok=True)
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
    n, spec = len(ids), result.spec
    norm = None if spec.name == "clean" else spec.norm
    said = (population.data, population.fingerprint, population.split, spec.name, norm, spec.steps, result.eps)
    columns: dict[str, list[Any]] = {
        **{name: [value] * n for name, value in zip(OF_ENTRY, said, strict=True)},
        "id": list(ids),
        "group": list(groups),
        "label": named(labels, classes).tolist(),
        "predicted": named(result.predicted, classes).tolist(),
        "probabilities": [None] * n if result.probabilities is None else list(result.probabilities.numpy()),
        "fell_to": [None] * n if result.fell_to is None else [label or None for label in result.fell_to],
    }
    return pa.table(columns, schema=PREDICTIONS_SCHEMA)
