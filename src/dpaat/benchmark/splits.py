"""Splits of the data, which all seeds of a benchmark share."""

from collections.abc import Sequence
from pathlib import Path

from dpaat.benchmark.grid import Job
from dpaat.benchmark.jobs import JobRun
from dpaat.data import PreparedData, prepare
from dpaat.data.splits import export_splits
from dpaat.storage import locked

SPLIT_SEED = 0
"""All seeds share the splits that this one makes, so that they can be pooled image by image."""
LOCK = ".benchmark.lock"
"""File in a benchmark's folder, held while what all its processes share is written."""


def shared_splits(out: Path, runs: Sequence[JobRun]) -> dict[str, Path]:
    """Write the splits of cells whose own seed would make others; returns name of the cell to file."""
    found, written = {}, set[Path]()
    for cell in (run.cell for run in runs if run.cell.seed != SPLIT_SEED):
        fold = "" if cell.fold is None else "-" + cell.fold.replace("/", "of").replace(" ", "")
        path = out / "splits" / f"{cell.data}{fold}.csv"
        if path not in written:
            path.parent.mkdir(parents=True, exist_ok=True)
            prepared = _prepared(cell)
            with locked(out / LOCK):  # anew in every call: the data may have changed
                export_splits(path, prepared.ids, prepared.split)
            written.add(path)
        found[cell.name] = path
    return found


def check_finished(runs: Sequence[JobRun]) -> None:
    """Refuse finished cells of data, or of splits of them, that have changed since; the UserError names one."""
    now: dict[tuple[str, str | None, str], PreparedData] = {}
    for run in (run for run in runs if run.finished):
        key = (run.cell.config.data, run.cell.fold, run.cell.config.window)
        if key not in now:
            now[key] = _prepared(run.cell)
        run.check_data(now[key])


def _prepared(cell: Job) -> PreparedData:
    fields = {name: getattr(cell.config, name) for name in ("image_size", "fit", "window")}
    return prepare(cell.config.data, seed=SPLIT_SEED, fold=cell.fold, **fields)
