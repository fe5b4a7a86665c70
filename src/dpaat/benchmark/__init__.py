"""Benchmarks: a grid of recipes, models, datasets, folds and seeds, trained, evaluated and summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console

from dpaat.benchmark.archive import FOLDER, check_data, read_outcomes, write_outcome
from dpaat.benchmark.cells import CellRun
from dpaat.benchmark.cost import Size, cell_passes, size_of
from dpaat.benchmark.datasets import public_spec
from dpaat.benchmark.document import make_document
from dpaat.benchmark.figures import write_forest, write_pareto
from dpaat.benchmark.grid import Grid, read_grid
from dpaat.benchmark.outcomes import CellOutcome, read_outcome
from dpaat.benchmark.runner import Runner
from dpaat.benchmark.tables import benchmark_markdown, benchmark_table
from dpaat.data import prepare
from dpaat.data.splits import export_splits
from dpaat.errors import UserError
from dpaat.precision import emulation
from dpaat.storage import write_json, write_text
from dpaat.tables import Row, Table

__all__ = ["benchmark", "list_cells", "read_grid"]

SPLIT_SEED = 0
"""All seeds share the splits that this one makes, so that they can be pooled image by image."""
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def benchmark(
    grid: Grid,
    *,
    out: Path | None = None,
    only: str = "*",
    known: Path | None = None,
    summary_only: bool = False,
    console: Console,
    progress: bool = True,
) -> int:
    """Run what is left of a grid and sum up all of it that is finished.

    Args:
        grid: see `read_grid`.
        out: folder of the benchmark; default `runs/NAME` of the grid.
        only: run the cells whose names match this pattern, as file names do.
        known: folder `outcomes` of a benchmark that was run elsewhere; its cells are summed up and not run.
        summary_only: sum up what is finished or known, and run nothing.
        console: where to print.
        progress: show a progress line on stderr.

    Returns:
        How many of the chosen cells failed.

    Raises:
        UserError: something is wrong with the data or the known cells, found before anything runs.
    """
    out, runs, elsewhere, chosen = _cells(grid, out, only, known)
    chosen = [run for run in chosen if run.cell.name not in elsewhere]
    for run in chosen:
        run.check()
    left = [] if summary_only else [run for run in chosen if not run.finished(grid.plans)]
    if left:
        passes = _passes(grid, left)
        runner = Runner(grid.plans, workers=grid.workers, threads=grid.threads, splits=_shared_splits(left, out))
        for precision in sorted({run.cell.config.precision for run in left if run.cell.config.accelerator == "cpu"}):
            if slow := emulation(precision, "cpu"):
                console.print(f"warning: {slow}", **PLAIN)
        runner.run(left, passes, progress=progress)
    own = {run: read_outcome(run, grid.plans) for run in runs if run.finished(grid.plans)}
    for run, outcome in own.items():
        write_outcome(out / FOLDER, run.cell, grid.plans, outcome)
    if outcomes := elsewhere | {run.cell.name: outcome for run, outcome in own.items()}:
        check_data(outcomes, runs)
        _write(grid, runs, outcomes, out, console)
    elif summary_only:
        raise UserError(f"--summary-only: no cell is finished in {out}, and none is known")
    failed = [run for run in chosen if run.state(grid.plans) == "failed"]
    for run in failed:
        console.print(f"failed: {run.cell.name}: {run.record['error']}", **PLAIN)
    return len(failed)


def list_cells(
    grid: Grid, *, out: Path | None = None, only: str = "*", known: Path | None = None, console: Console
) -> None:
    """Print the cells of a grid with what each is expected to cost; arguments as for `benchmark`."""
    _, _, elsewhere, runs = _cells(grid, out, only, known)
    costs = dict(zip(runs, _passes(grid, runs), strict=True))
    pace = {}
    for run, passes in costs.items():
        if run.cell.name in elsewhere or run.finished(grid.plans):
            facts = elsewhere[run.cell.name].facts if run.cell.name in elsewhere else run.record
            pace[run.cell.data, run.cell.model] = sum(facts["seconds"].values()) / passes
    rows = []
    for run, passes in costs.items():
        seconds = pace.get((run.cell.data, run.cell.model))
        minutes = "-" if seconds is None else f"{seconds * passes / 60:.1f}"
        state = "known" if run.cell.name in elsewhere else run.state(grid.plans)
        rows.append(Row(run.cell.name, [state, f"{passes / 1e6:.2f}", minutes]))
    console.print(Table("cell", ["state", "10^6 passes", "minutes"], rows).to_rich())
    console.print(
        f"{len(runs)} cells, {sum(costs.values()) / 1e6:.1f} million forward passes at most; minutes are known once a "
        "cell of the same data and model is finished",
        soft_wrap=True,
    )


def _cells(
    grid: Grid, out: Path | None, only: str, known: Path | None
) -> tuple[Path, list[CellRun], dict[str, CellOutcome], list[CellRun]]:
    """The benchmark's folder, all cells, outcomes from elsewhere of those not finished here, and the cells chosen."""
    out = out or Path("runs") / grid.name
    runs = [CellRun(cell, out) for cell in grid.cells]
    found = {} if known is None else read_outcomes(known, runs, grid.plans)
    if known is not None and not found:
        raise UserError(f"{known}: holds the outcome of no cell of this grid, such as {runs[0].cell.name}.npz")
    check_data(found, runs)
    chosen = [run for run in runs if fnmatchcase(run.cell.name, only)]
    if not chosen:
        raise UserError(f"--only {only}: matches none of the {len(runs)} cells, such as {runs[0].cell.name}")
    own = {run.cell.name for run in runs if run.finished(grid.plans)} if found else set()
    return out, runs, {name: each for name, each in found.items() if name not in own}, chosen


def _passes(grid: Grid, runs: Sequence[CellRun]) -> list[float]:
    """Expected cost of cells; looks into the datasets, which also tells early whether they are there and whole."""
    sizes: dict[str, Size] = {}
    for spec in dict.fromkeys(run.cell.config.data for run in runs):
        try:
            sizes[spec] = size_of(spec)
        except UserError as error:
            hint = f"; say with --data {public_spec(spec)} where it is" if spec in grid.content["data"] else ""
            raise UserError(f"{error}{hint}") from None
    return [cell_passes(run.cell.config, grid.plans, sizes[run.cell.config.data]) for run in runs]


def _shared_splits(runs: Sequence[CellRun], out: Path) -> dict[str, Path]:
    """Write the splits of cells whose own seed would make others; returns name of the cell to file."""
    found = {}
    for cell in (run.cell for run in runs if run.cell.seed != SPLIT_SEED):
        fold = "" if cell.fold is None else "-" + cell.fold.replace("/", "of").replace(" ", "")
        path = out / "splits" / f"{cell.data}{fold}.csv"
        if not path.is_file():
            fields = {name: getattr(cell.config, name) for name in ("image_size", "fit", "window")}
            prepared = prepare(cell.config.data, seed=SPLIT_SEED, fold=cell.fold, **fields)
            path.parent.mkdir(parents=True, exist_ok=True)
            export_splits(path, prepared.ids, prepared.split)
        found[cell.name] = path
    return found


def _write(
    grid: Grid, runs: Sequence[CellRun], outcomes: Mapping[str, CellOutcome], out: Path, console: Console
) -> None:
    document = make_document(grid, runs, outcomes)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "benchmark.json", document)
    write_text(out / "benchmark.md", benchmark_markdown(document, grid.name))
    write_pareto(document, out / "pareto.svg")
    names = ["benchmark.json", "benchmark.md", "pareto.svg"]
    names += ["forest.svg"] if write_forest(document, out / "forest.svg") else []
    console.print(benchmark_table(document))
    console.print(f"written to {', '.join(str(out / name) for name in names)}", highlight=False, soft_wrap=True)
