"""Benchmarks: a grid of recipes, models, datasets, folds and seeds, trained, evaluated and summed up."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from dpaat.benchmark.archive import FOLDER, check_data, read_outcomes, write_outcome
from dpaat.benchmark.cost import Size, cell_passes, seconds_per_pass
from dpaat.benchmark.datasets import public_spec
from dpaat.benchmark.document import make_document
from dpaat.benchmark.executors import Kind, Needs, make_executor
from dpaat.benchmark.figures import write_forest, write_pareto
from dpaat.benchmark.grid import Grid, read_grid
from dpaat.benchmark.jobs import JobRun
from dpaat.benchmark.leaderboard import write_leaderboard
from dpaat.benchmark.outcomes import JobOutcome, read_outcome
from dpaat.benchmark.runner import Runner, count_cores
from dpaat.benchmark.tables import benchmark_markdown, benchmark_table
from dpaat.data import load_table, prepare
from dpaat.data.splits import export_splits
from dpaat.errors import UserError
from dpaat.precision import emulation
from dpaat.storage import locked, write_json, write_text
from dpaat.tables import Row, Table

__all__ = ["benchmark", "list_cells", "read_grid"]

SPLIT_SEED = 0
"""All seeds share the splits that this one makes, so that they can be pooled image by image."""
LOCK = ".benchmark.lock"
"""File in a benchmark's folder, held while what all its processes share is written."""
HEAD = "# Written by dpaat benchmark: what it computes in this folder. To go on: dpaat benchmark THIS --out FOLDER\n"
STARTUP = 6.0
"""Seconds that a training or an evaluation takes before its first image, about."""
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def benchmark(
    grid: Grid,
    *,
    out: Path | None = None,
    only: str = "*",
    known: Path | None = None,
    summary_only: bool = False,
    no_summary: bool = False,
    executor: Kind = "local",
    needs: Needs | None = None,
    executor_options: Mapping[str, Any] | None = None,
    console: Console,
    progress: bool = True,
) -> int:
    """Run what is left of a grid and sum up all of it that is finished.

    Several processes, also on several machines, may do so in one folder at once: they share the cells out.

    Args:
        grid: see `read_grid`.
        out: folder of the benchmark; default `runs/NAME` of the grid.
        only: run the cells whose names match this pattern, as file names do.
        known: folder `outcomes` of a benchmark that was run elsewhere; its cells are summed up and not run.
        summary_only: sum up what is finished or known, and run nothing.
        no_summary: run cells, and leave the summing up to another call.
        executor: "local", or the engine that runs every cell as a job.
        needs: what every job is to get.
        executor_options: of the engine, see `dpaat.benchmark.executors`.
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
        sizes = _sizes(grid, left)
        passes = [cell_passes(run.cell.config, grid.plans, sizes[run.cell.config.data]) for run in left]
        engine, needs = make_executor(executor, out, executor_options or {}), needs or Needs()
        console.print(_expected(grid, runs, left, sizes, passes, here=engine is None), **PLAIN)
        file = _write_grid(grid, out).resolve()
        command = ["benchmark", str(file), "--out", str(out.resolve()), "--no-summary", "--workers", "1"]
        runner = Runner(
            grid.plans,
            workers=grid.workers if engine is None or grid.workers > 1 else len(left),
            threads=grid.threads,
            splits=_shared_splits(left, out),
            executor=engine,
            command=[*command, "--threads", str(grid.threads or needs.cores)],
            needs=needs,
        )
        for precision in sorted({run.cell.config.precision for run in left if run.cell.config.accelerator == "cpu"}):
            if slow := emulation(precision, "cpu"):
                console.print(f"warning: {slow}", **PLAIN)
        runner.run(left, passes, progress=progress)
    if not no_summary:
        _sum_up(grid, runs, elsewhere, out, console, required=summary_only)
    failed = [run for run in chosen if run.state(grid.plans) == "failed"]
    for run in failed:
        console.print(f"failed: {run.cell.name}: {run.record['error']}", **PLAIN)
    return len(failed)


def list_cells(
    grid: Grid, *, out: Path | None = None, only: str = "*", known: Path | None = None, console: Console
) -> list[dict[str, str]]:
    """Print and return the cells of a grid with what each is expected to cost; arguments as for `benchmark`."""
    _, _, elsewhere, runs = _cells(grid, out, only, known)
    sizes = _sizes(grid, runs)
    costs = {run: cell_passes(run.cell.config, grid.plans, sizes[run.cell.config.data]) for run in runs}
    pace = _pace(grid, costs, elsewhere)
    rows = []
    for run, passes in costs.items():
        seconds = pace.get((run.cell.data, run.cell.model))
        minutes = "-" if seconds is None else f"{seconds * passes / 60:.1f}"
        state = "known" if run.cell.name in elsewhere else run.state(grid.plans)
        rows.append(Row(run.cell.name, [state, f"{passes / 1e6:.2f}", minutes]))
    table = Table("cell", ["state", "10^6 passes", "minutes"], rows)
    console.print(table.to_rich())
    console.print(
        f"{len(runs)} cells, {sum(costs.values()) / 1e6:.1f} million forward passes at most; minutes are known once a "
        "cell of the same data and model is finished",
        soft_wrap=True,
    )
    return table.records()


def _cells(
    grid: Grid, out: Path | None, only: str, known: Path | None
) -> tuple[Path, list[JobRun], dict[str, JobOutcome], list[JobRun]]:
    """The benchmark's folder, all cells, outcomes from elsewhere of those not finished here, and the cells chosen."""
    out = out or Path("runs") / grid.name
    runs = [JobRun(cell, out) for cell in grid.cells]
    found = {} if known is None else read_outcomes(known, runs, grid.plans)
    if known is not None and not found:
        raise UserError(f"{known}: holds the outcome of no cell of this grid, such as {runs[0].cell.name}.npz")
    check_data(found, runs)
    chosen = [run for run in runs if fnmatchcase(run.cell.name, only)]
    if not chosen:
        raise UserError(f"--only {only}: matches none of the {len(runs)} cells, such as {runs[0].cell.name}")
    own = {run.cell.name for run in runs if run.finished(grid.plans)} if found else set()
    return out, runs, {name: each for name, each in found.items() if name not in own}, chosen


def _pace(
    grid: Grid, costs: Mapping[JobRun, float], elsewhere: Mapping[str, JobOutcome]
) -> dict[tuple[str, str], float]:
    """Seconds per forward pass that finished cells have taken, by data and model."""
    pace = {}
    for run, passes in costs.items():
        if run.cell.name in elsewhere or run.finished(grid.plans):
            facts = elsewhere[run.cell.name].facts if run.cell.name in elsewhere else run.record
            pace[run.cell.data, run.cell.model] = sum(facts["seconds"].values()) / passes
    return pace


def _expected(
    grid: Grid,
    runs: Sequence[JobRun],
    left: Sequence[JobRun],
    sizes: Mapping[str, Size],
    passes: Sequence[float],
    *,
    here: bool,
) -> str:
    """How long the cells will take, from those that are finished or else from a few passes of each network."""
    side_by_side = f", {grid.workers} side by side" if here and grid.workers > 1 else ""
    text = f"{len(left)} cells to run{side_by_side}, {sum(passes) / 1e6:.3g} million forward passes at most"
    known = [run for run in runs if run.cell.config.data in sizes]
    done = {run: cell_passes(run.cell.config, grid.plans, sizes[run.cell.config.data]) for run in known}
    pace: dict[tuple[str, str], float | None] = {**_pace(grid, done, {})}
    threads = grid.threads or max(1, count_cores() // grid.workers)
    seconds = 0.0
    for run, cost in zip(left, passes, strict=True):
        key = run.cell.data, run.cell.model
        if key not in pace:
            pace[key] = seconds_per_pass(run.cell.config, sizes[run.cell.config.data], threads) if here else None
        each = pace[key]
        if each is None:
            return f"{text}; how long that takes is known once a cell is finished (--dry-run)"
        seconds += each * cost + STARTUP * (1 + len(grid.plans.all))
    minutes = seconds / 60 / min(grid.workers, len(left))
    return f"{text}: about {minutes / 60:.1f} hours" if minutes > 99 else f"{text}: about {max(1, round(minutes))} min"


def _write_grid(grid: Grid, out: Path) -> Path:
    """Write the grid, as it was given and changed on the command line, to be run again; returns the file."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{grid.name}.yaml"
    if path.is_file() and not path.read_text(encoding="utf-8").startswith(HEAD):  # its owner's own file
        path = out / f"{grid.name}-as-run.yaml"
    with locked(out / LOCK):
        write_text(path, HEAD + yaml.safe_dump(grid.file, sort_keys=False, allow_unicode=True))
    return path


def _sum_up(
    grid: Grid,
    runs: Sequence[JobRun],
    elsewhere: dict[str, JobOutcome],
    out: Path,
    console: Console,
    *,
    required: bool,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):
        own = {run: read_outcome(run, grid.plans) for run in runs if run.finished(grid.plans)}
        for run, outcome in own.items():
            write_outcome(out / FOLDER, run.cell, grid.plans, outcome)
        if outcomes := elsewhere | {run.cell.name: outcome for run, outcome in own.items()}:
            check_data(outcomes, runs)
            document = make_document(grid, runs, outcomes)
            write_json(out / "benchmark.json", document)
            write_text(out / "benchmark.md", benchmark_markdown(document, grid.name))
            write_pareto(document, out / "pareto.svg")
            names = ["benchmark.json", "benchmark.md", "pareto.svg"]
            names += [*["forest.svg"] * write_forest(document, out / "forest.svg"), "report.html"]
            for line in write_leaderboard(document, runs, grid.name, out):
                console.print(f"warning: {line}", **PLAIN)
            console.print(benchmark_table(document))
            console.print(f"written to {', '.join(str(out / name) for name in names)}", highlight=False, soft_wrap=True)
        elif required:
            raise UserError(f"--summary-only: no cell is finished in {out}, and none is known")


def _sizes(grid: Grid, runs: Sequence[JobRun]) -> dict[str, Size]:
    """Sizes of the datasets; looking into them also tells early whether they are there and whole."""
    sizes: dict[str, Size] = {}
    for spec in dict.fromkeys(run.cell.config.data for run in runs):
        try:
            table = load_table(spec)
            sizes[spec] = Size(len(table), len(table.classes), table.channels)
        except UserError as error:
            hint = f"; say with --data {public_spec(spec)} where it is" if spec in grid.content["data"] else ""
            raise UserError(f"{error}{hint}") from None
    return sizes


def _shared_splits(runs: Sequence[JobRun], out: Path) -> dict[str, Path]:
    """Write the splits of cells whose own seed would make others; returns name of the cell to file."""
    found = {}
    for cell in (run.cell for run in runs if run.cell.seed != SPLIT_SEED):
        fold = "" if cell.fold is None else "-" + cell.fold.replace("/", "of").replace(" ", "")
        path = out / "splits" / f"{cell.data}{fold}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(out / LOCK):
            if not path.is_file():
                fields = {name: getattr(cell.config, name) for name in ("image_size", "fit", "window")}
                prepared = prepare(cell.config.data, seed=SPLIT_SEED, fold=cell.fold, **fields)
                export_splits(path, prepared.ids, prepared.split)
        found[cell.name] = path
    return found
