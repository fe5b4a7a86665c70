"""Benchmarks: a grid of recipes, models, datasets, folds and seeds, trained, evaluated and summed up."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from dpaat.benchmark.archive import FOLDER, check_data, read_outcomes, write_outcome
from dpaat.benchmark.cost import Size, cell_passes, seconds_per_pass
from dpaat.benchmark.document import Document, make_document
from dpaat.benchmark.executors import Kind, Needs, make_executor
from dpaat.benchmark.figures import write_forest, write_pareto
from dpaat.benchmark.grid import Grid, read_grid
from dpaat.benchmark.jobs import JobRun
from dpaat.benchmark.leaderboard import write_leaderboard
from dpaat.benchmark.outcomes import read_outcome
from dpaat.benchmark.runner import Runner, count_cores
from dpaat.benchmark.splits import LOCK, check_finished, shared_splits
from dpaat.benchmark.tables import benchmark_markdown, benchmark_table
from dpaat.data import load_table
from dpaat.errors import UserError
from dpaat.precision import emulation
from dpaat.storage import locked, write_json, write_text
from dpaat.tables import Row, Table

__all__ = ["benchmark", "list_cells", "read_grid"]

HEAD = "# Written by dpaat benchmark: what it computes in this folder. To go on: dpaat benchmark THIS --out FOLDER\n"
STARTUP = 6.0
"""Seconds that a training or an evaluation takes before its first image, about."""
Pace = dict[tuple[str, str], float | None]
"""Seconds per forward pass, by data and model; None where only a GPU's finished cell can tell."""
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
    summary: dict[str, Any] | None = None,
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
        summary: filled with the content of `benchmark.json`, where this call writes it.

    Returns:
        How many of the chosen cells failed.

    Raises:
        UserError: something is wrong with the data or the known cells, found before anything runs.
    """
    work = _Work(grid, out, only, known)
    chosen = work.here
    for run in work.runs:
        if run in chosen or (run.finished and not no_summary):  # what is summed up must be of this grid, too
            run.check()
    if not summary_only:
        check_finished(chosen)
    if left := [] if summary_only else [run for run in chosen if not run.finished]:
        passes = [work.passes(run) for run in left]
        engine, needs = make_executor(executor, work.out, executor_options or {}), needs or Needs()
        here = engine is None
        console.print(work.expected(left, work.pace(left, here=here), here=here), **PLAIN)
        command = ["benchmark", str(work.write_grid().resolve()), "--out", str(work.out.resolve()), "--no-summary"]
        runner = Runner(
            workers=grid.workers if engine is None or grid.workers > 1 else len(left),
            threads=grid.threads,
            splits=shared_splits(work.out, left),
            executor=engine,
            command=[*command, "--workers", "1", "--threads", str(grid.threads or needs.cores)],
            needs=needs,
        )
        for precision in sorted({run.cell.config.precision for run in left if run.cell.config.accelerator == "cpu"}):
            if slow := emulation(precision, "cpu"):
                console.print(f"warning: {slow}", **PLAIN)
        runner.run(left, passes, progress=progress)
    if not no_summary:
        document = work.sum_up(console, required=summary_only)
        if summary is not None:
            summary |= document
    failed = [run for run in chosen if run.state == "failed"]
    for run in failed:
        console.print(f"failed: {run.cell.name}: {run.record['error']}", **PLAIN)
    return len(failed)


def list_cells(
    grid: Grid,
    *,
    out: Path | None = None,
    only: str = "*",
    known: Path | None = None,
    executor: Kind = "local",
    console: Console,
) -> list[dict[str, str]]:
    """Print and return the cells of a grid with what each is expected to cost; arguments as for `benchmark`."""
    work = _Work(grid, out, only, known)
    passes = {run.cell.name: work.passes(run) for run in work.chosen}
    left = [run for run in work.here if not run.finished]
    here = executor == "local"
    check_finished(work.here)
    pace, rows = work.pace(left, here=here), []
    for run in work.chosen:
        name, seconds = run.cell.name, pace.get((run.cell.data, run.cell.model))
        minutes = "-" if seconds is None else f"{seconds * passes[name] / 60:.1f}"
        state = "known" if name in work.elsewhere else run.state
        rows.append(Row(name, [state, f"{passes[name] / 1e6:.2f}", minutes]))
    table = Table("cell", ["state", "10^6 passes", "minutes"], rows)
    console.print(table.to_rich())
    console.print(work.expected(left, pace, here=here), **PLAIN)
    return table.records()


class _Work:
    """A grid in the benchmark's folder: its cells, those chosen, and outcomes from elsewhere of some not finished."""

    def __init__(self, grid: Grid, out: Path | None, only: str, known: Path | None) -> None:
        self.grid, self.out = grid, out or Path("runs") / grid.name
        self.runs = [JobRun(cell, self.out) for cell in grid.cells]
        found = {} if known is None else read_outcomes(known, self.runs)
        if known is not None and not found:
            raise UserError(f"{known}: holds the outcome of no cell of this grid, such as {grid.cells[0].name}.npz")
        check_data(found, self.runs)
        self.chosen = [run for run in self.runs if fnmatchcase(run.cell.name, only)]
        if not self.chosen:
            raise UserError(f"--only {only}: matches none of the {len(self.runs)} cells, such as {grid.cells[0].name}")
        own = {run.cell.name for run in self.runs if run.cell.name in found and run.finished}
        self.elsewhere = {name: outcome for name, outcome in found.items() if name not in own}
        self.here = [run for run in self.chosen if run.cell.name not in self.elsewhere]
        self._sizes: dict[str, Size] = {}

    def passes(self, run: JobRun) -> float:
        """Forward passes of a cell; looking into its data also tells early whether they are there and whole."""
        spec = run.cell.config.data
        if spec not in self._sizes:
            try:
                table = load_table(spec)
            except UserError as error:
                hint = f"; say with --data {spec} where it is" if spec in self.grid.content["data"] else ""
                raise UserError(f"{error}{hint}") from None
            self._sizes[spec] = Size(len(table), len(table.classes), table.channels)
        return cell_passes(run.cell.config, self.grid.plans, self._sizes[spec])

    def pace(self, left: Sequence[JobRun], *, here: bool) -> Pace:
        """Seconds per forward pass: of cells that are finished, or else of a few passes on this machine's CPU."""
        pace: Pace = {}
        for run in (run for run in self.runs if run.cell.config.data in self._sizes):
            if (known := self.elsewhere.get(run.cell.name)) or run.finished:
                facts = known.facts if known else run.record
                pace[run.cell.data, run.cell.model] = sum(facts["seconds"].values()) / self.passes(run)
        threads = self.grid.threads or max(1, count_cores() // self.grid.workers)
        for run in left if here else ():
            key, config = (run.cell.data, run.cell.model), run.cell.config
            if key not in pace:
                pace[key] = seconds_per_pass(config, self._sizes[config.data], threads)
        return pace

    def expected(self, left: Sequence[JobRun], pace: Pace, *, here: bool) -> str:
        """How many cells there are to run, and how long they will take together."""
        if not left:
            return "0 cells to run"
        workers, passes = self.grid.workers, [self.passes(run) for run in left]
        side_by_side = f", {workers} side by side" if here and workers > 1 else ""
        text = f"{len(left)} cells to run{side_by_side}, {sum(passes) / 1e6:.3g} million forward passes at most"
        seconds = 0.0
        for run, cost in zip(left, passes, strict=True):
            if (each := pace.get((run.cell.data, run.cell.model))) is None:
                return f"{text}; how long that takes is known once a cell is finished (--dry-run)"
            seconds += each * cost + STARTUP * (1 + len(self.grid.plans.all))
        minutes = seconds / 60 / min(workers, len(left))
        about = f"{minutes / 60:.1f} hours" if minutes > 99 else f"{max(1, round(minutes))} min"
        return f"{text}: about {about}"

    def write_grid(self) -> Path:
        """Write the grid, as it was given and changed on the command line, to be run again; returns the file."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.grid.name}.yaml"
        if path.is_file() and not path.read_text(encoding="utf-8").startswith(HEAD):  # its owner's own file
            path = self.out / f"{self.grid.name}-as-run.yaml"
        with locked(self.out / LOCK):
            write_text(path, HEAD + yaml.safe_dump(self.grid.file, sort_keys=False, allow_unicode=True))
        return path

    def sum_up(self, console: Console, *, required: bool) -> Document:
        """Write tables, figures and pages of what is finished, if anything is; UserError where it is `required`."""
        grid, runs, out = self.grid, self.runs, self.out
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / LOCK):
            outcomes = dict(self.elsewhere)
            for run in runs:
                if run.finished:
                    outcomes[run.cell.name] = outcome = read_outcome(run)
                    write_outcome(out / FOLDER, run.cell, outcome)
            if not outcomes and required:
                raise UserError(f"--summary-only: no cell is finished in {out}, and none is known")
            if not outcomes:
                return {}
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
            return document
