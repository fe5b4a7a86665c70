"""Published outcomes: finished cells in one small file each, to be summed up without being computed again."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpaat.benchmark.grid import Job
from dpaat.benchmark.jobs import JobRun, comparable
from dpaat.benchmark.outcomes import JobOutcome, Outcome
from dpaat.benchmark.plans import RANKED, ranked_attack, values_of
from dpaat.errors import UserError
from dpaat.evaluation.replicates import Fold, Predictions, of_labels
from dpaat.evaluation.resampling import find_clusters, merge_clusters
from dpaat.measurement import EvaluateConfig
from dpaat.storage import replacing

FOLDER = "outcomes"
HEAD = "head"
Arrays = dict[str, np.ndarray]
_UNZIPPING = (zipfile.BadZipFile, zlib.error)


def write_outcome(folder: Path, cell: Job, outcome: JobOutcome) -> None:
    """Write `NAME.npz`: configuration, plans and facts as JSON, and for main plan and draw what every image came to.

    Kept of each set of N images with K classes: `ids`, `labels`, `groups`; `correct`, one bit for each on clean
    images and by radius as verdict and under the ranked attack; `precision`, the `Fold.precision` of clean images and
    of the ranked attack by radius, `(1 + radii, 1 + blocks, K)`. Where an image has several labels,
    `resampled`, the `Fold.resampled` of all these, takes the place of both. The folder is made if need be.
    """
    classes = list(outcome.main.clean.images.classes)
    head = {"content": _content(cell), "facts": outcome.facts, "classes": classes}
    arrays = {HEAD: np.array(json.dumps(head)), **_pack("main", outcome.main)}
    if outcome.draw is not None:
        arrays |= _pack("draw", outcome.draw)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{cell.name}.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_outcomes(folder: Path, runs: Sequence[JobRun]) -> dict[str, JobOutcome]:
    """Read those of some cells that a folder of `write_outcome` has, by name; files of others are left alone.

    Raises UserError: no such folder, a file that cannot be read, or one that was computed otherwise than by the plans.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    places = [(run.cell, folder / f"{run.cell.name}.npz") for run in runs]
    return {cell.name: _read(path, cell) for cell, path in places if path.is_file()}


def check_data(outcomes: Mapping[str, JobOutcome], runs: Sequence[JobRun]) -> None:
    """Refuse cells of the same data that differ in the data or, in one fold, in the test images; names two of them."""
    data: dict[str, tuple[str, str]] = {}
    tested: dict[tuple[str, str | None], tuple[str, Predictions]] = {}
    for cell in (run.cell for run in runs if run.cell.name in outcomes):
        found = outcomes[cell.name]
        fingerprint, images = found.facts["fingerprint"], found.main.clean.images
        name, known = data.setdefault(cell.data, (cell.name, fingerprint))
        if fingerprint != known:
            raise UserError(
                f"{cell.data}: {cell.name} was computed on data with fingerprint {fingerprint}, {name} on {known}; "
                "they cannot be compared"
            )
        name, others = tested.setdefault((cell.data, cell.fold), (cell.name, images))
        if not images.same_images(others):
            raise UserError(f"{cell.data}: {cell.name} was tested on other images than {name}; they cannot be compared")


def _read(path: Path, cell: Job) -> JobOutcome:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(str(arrays[HEAD]))
            _check(path, head["content"], _content(cell))
            main = _unpack("main", arrays, head["classes"], cell.plans.main.radii)
            draw = None if cell.plans.draw is None else _unpack("draw", arrays, head["classes"], cell.plans.draw.radii)
            return JobOutcome(head["facts"], main, draw)
    except (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, *_UNZIPPING) as error:
        raise UserError(f"{path}: not the outcome of a cell, or damaged ({error}); delete it") from None


def _content(cell: Job) -> dict[str, dict[str, Any]]:
    """Everything that the outcome of a cell depends on besides code and data."""
    found, plans = {"train": comparable(vars(cell.config))}, cell.plans
    for name, plan in (("evaluate", plans.main), ("subset", plans.draw), ("masking", plans.masking)):
        # All attacks on all images: where they succeed does not depend on which were left out.
        every = plan and dataclasses.replace(plan, attacks=[*plan.attacks, *plan.ensemble], ensemble=[])
        found[name] = {} if every is None else values_of(every)
    found["evaluate"]["ranked"] = ranked_attack(plans.main).label  # which does depend on it
    return found


def _check(path: Path, before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse an outcome of other settings; those that did not exist when it was computed count as their defaults."""
    for part, fields in now.items():
        known = dict(before[part])
        if known:
            known = comparable(known) if part == "train" else {**values_of(EvaluateConfig()), **known}
        if (
            part == "evaluate"
            and "ranked" not in known
            and (known["suites"] or known["attacks"][:1] == [RANKED] or len(known["attacks"]) == 1)
        ):
            known["ranked"] = fields["ranked"]  # older files do not say it, and of these there is no doubt
        for name in fields or known:
            if (then := known.get(name)) != (wanted := fields.get(name)):
                raise UserError(f"{path}: was computed with {part} {name} {then!r}, the grid says {wanted!r}")


def _pack(part: str, outcome: Outcome) -> Arrays:
    images = outcome.clean.images
    correct = [outcome.clean, *outcome.verdicts.values(), *outcome.ranked.values()]
    precision = [outcome.clean, *outcome.ranked.values()]
    arrays: Arrays = {n: np.char.encode(getattr(images, n).astype(str), "utf-8") for n in ("ids", "groups")}
    if images.labels.ndim == 2:
        scores = [fold.resampled for fold in correct if fold.resampled is not None]
        arrays |= {"labels": images.labels, "resampled": np.concatenate(scores)}
    else:
        arrays |= {
            "labels": images.labels.astype(np.uint16),
            "correct": np.packbits(np.concatenate([fold.correct for fold in correct]).astype(bool), axis=1),
            "precision": np.concatenate([fold.precision for fold in precision]),
        }
    return {f"{part}/{name}": array for name, array in arrays.items()}


def _unpack(part: str, arrays: Mapping[str, np.ndarray], classes: Sequence[str], radii: Sequence[float]) -> Outcome:
    ids, groups = (np.char.decode(arrays[f"{part}/{name}"], "utf-8") for name in ("ids", "groups"))
    labels = arrays[f"{part}/labels"]
    if labels.ndim == 2:
        several = Predictions(ids, labels, groups, labels, None, classes)
        folds = [of_labels(several, scores) for scores in arrays[f"{part}/resampled"]]
        if len(folds) != 1 + 2 * len(radii):
            raise ValueError(f"the arrays of {part} do not fit {len(radii)} radii")
        verdicts, ranked = folds[1 : 1 + len(radii)], folds[1 + len(radii) :]
        return Outcome(folds[0], dict(zip(radii, verdicts, strict=True)), dict(zip(radii, ranked, strict=True)))
    labels = labels.astype(np.int64)
    # What was predicted is not kept, and nothing that is made of these outcomes asks for it.
    images = Predictions(ids, labels, groups, labels, None, classes)
    blocks = merge_clusters(find_clusters(labels, groups))
    bits = np.unpackbits(arrays[f"{part}/correct"], axis=1, count=len(labels)).astype(float)
    tables = arrays[f"{part}/precision"].astype(float)
    if len(bits) != 1 + 2 * len(radii) or tables.shape != (1 + len(radii), 1 + len(blocks.label), len(classes)):
        raise ValueError(f"the arrays of {part} do not fit {len(radii)} radii")

    def fold(row: int, table: int | None) -> Fold:
        return Fold(images, blocks, bits[row, None], None if table is None else tables[table, None])

    return Outcome(
        clean=fold(0, 0),
        verdicts={eps: fold(1 + k, None) for k, eps in enumerate(radii)},
        ranked={eps: fold(1 + len(radii) + k, 1 + k) for k, eps in enumerate(radii)},
    )
