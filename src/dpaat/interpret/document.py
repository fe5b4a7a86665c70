"""Explanations in the run folder: `interpretability.json`, with images and maps in `interpretability/`."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpaat.consistency import file_digest
from dpaat.errors import UserError
from dpaat.evaluation.entries import Document, Entry, Population, part_stem
from dpaat.evaluation.results import UNWRITTEN, read_document, require_present
from dpaat.storage import RESULTS, locked, remove_leftovers, replacing, write_text, writing
from dpaat.validation import Int, many, maybe, misfit, record

SCHEMA_VERSION = 1
INTERPRETABILITY_FILE = "interpretability.json"
FOLDER = "interpretability"


EXPLANATION = record(
    **dict.fromkeys(("data", "fingerprint", "split", "checkpoint"), str),
    n=Int,
    attack=record(norm=str, label=str),
    files=dict[str, str],
    digests=maybe(dict[str, str]),
    **dict.fromkeys(("scores", "randomization"), list[dict[str, Any]]),
)
EXPLANATIONS = record(classes=list[str], explanations=many(EXPLANATION))


def read_interpretability(run: Path) -> Document | None:
    """Read a run's `interpretability.json`, None if there is none; UserError for a damaged one or another version."""
    path = run / INTERPRETABILITY_FILE
    document = read_document(path, SCHEMA_VERSION, remedy="explain")
    if document is not None and (where := misfit(document, EXPLANATIONS)):
        raise UserError(f"{path}: damaged at {where!r}; move it away and explain again")
    return document


def read_maps(run: Path, entry: Entry) -> dict[str, np.ndarray]:
    """Read the images and maps of an entry, see `docs/interpretability.md`; UserError for a file of no use."""
    with _file_of(run, entry, "maps") as path, np.load(path, allow_pickle=False) as content:
        return dict(content)


def read_scores(run: Path, entry: Entry) -> pd.DataFrame:
    """Read the scores of every image of an entry; UserError for a file of no use.

    Returns columns `id`, `group`, `label` (class name), `map`, `eps`, `score`, `value`, `chance`.
    """
    with _file_of(run, entry, "scores") as path:
        return pd.read_parquet(path)


@contextmanager
def _file_of(run: Path, entry: Entry, kind: str) -> Iterator[Path]:
    path: Path = run / FOLDER / entry["files"][kind]
    digest = entry.get("digests", {}).get(kind)  # not in entries of before
    if digest and path.is_file() and file_digest(path) != digest:
        raise UserError(f"{path}: is not what {INTERPRETABILITY_FILE} was written with; explain the run again")
    try:
        yield path
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); explain the run again") from None


def save_explanation(
    run: Path, head: Document, entry: Entry, *, scores: pd.DataFrame, maps: Mapping[str, np.ndarray]
) -> Document:
    """Write an explanation into the run folder; each file is replaced as a whole or not at all.

    An earlier explanation of the same images in the same norm is replaced, and those of another checkpoint, which
    describe a model that is gone, are removed. Others stay. `head` are the top-level fields, `entry` the results with
    the fields of `Population`; for `scores` and `maps` see `read_scores` and `read_maps`. Raises UserError: the folder
    cannot be written, holds an unreadable document, or other weights by now.
    """
    with locked(run / RESULTS), writing(run, UNWRITTEN):
        require_present(run, head, "explain")
        before = read_interpretability(run)
        stem = part_stem(entry, entry["attack"]["norm"])
        entry = {**entry, "files": {"scores": f"{stem}.parquet", "maps": f"{stem}.npz"}}
        earlier: list[Entry] = before["explanations"] if before else []
        kept = [e for e in earlier if e["checkpoint"] == head["checkpoint"] and _key(e) != _key(entry)]
        document = {**head, "schema_version": SCHEMA_VERSION, "explanations": sorted([*kept, entry], key=_key)}
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
        with replacing(folder / entry["files"]["scores"]) as temporary:
            scores.to_parquet(temporary, index=False)
        with replacing(folder / entry["files"]["maps"]) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **maps)
        entry["digests"] = {kind: file_digest(folder / name) for kind, name in entry["files"].items()}
        write_text(run / INTERPRETABILITY_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")
        wanted = {name for each in document["explanations"] for name in each["files"].values()}
        for name in {name for each in earlier for name in each["files"].values()} - wanted:
            (folder / Path(name).name).unlink(missing_ok=True)
        return document


def _key(entry: Entry) -> tuple[Any, ...]:
    return (*(entry[name] for name in Population.__dataclass_fields__), entry["attack"]["norm"])
