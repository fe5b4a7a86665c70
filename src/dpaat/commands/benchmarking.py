"""The command benchmark."""

from pathlib import Path
from typing import Any, Literal

from dpaat.errors import UserError
from dpaat.parsing import Changes
from dpaat.terminal import console


def benchmark(
    grid: Path | None = None,
    /,
    data: list[str] = [],  # noqa: B006 - never changed
    out: Path | None = None,
    methods: str | None = None,
    models: str | None = None,
    folds: str | None = None,
    seeds: str | None = None,
    masking: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    only: str = "*",
    known: Path | None = None,
    reference: str | None = None,
    summary_only: bool = False,
    no_summary: bool = False,
    dry_run: bool = False,
    executor: Literal["local", "submitit", "ray"] = "local",
    cores: int = 1,
    gpus: int = 0,
    memory: float | None = None,
    executor_options: dict[str, Any] = {},  # noqa: B006 - never changed
    *,
    fields: Changes,
) -> dict[str, Any]:
    """Train and evaluate every cell of a grid, several side by side, and sum up what is finished in a leaderboard.

    What is done is not repeated, what failed is tried again, and one failure does not stop the rest. Several calls,
    also on several machines, share the cells of one --out.

    Args:
        grid: YAML file (docs/benchmark.md), or one of `dpaat list grids`; without one, a grid is made of the options.
        data: in place of the grid's; may be repeated.
        out: folder to make; by default runs/ and the grid's name.
        methods: training methods with commas, or all, in place of the grid's recipes; without a grid by default
            standard,pgd,trades,dpaat.
        models: those of the grid's models to keep, with commas, by default all; without a grid the networks, by default
            resnet18.
        folds: number of folds, or some of them such as 1/3,2/3, in place of the grid's; by default one split.
        seeds: with commas, in place of the grid's; by default 0.
        masking: images for the checks for gradient masking; by default the grid's, without a grid none.
        workers: cells side by side; by default the grid's, with an executor all.
        threads: of every cell; by default the grid's, else the cores are shared out.
        only: run the cells whose names match this pattern.
        known: folder of outcomes computed elsewhere, which are summed up, not run again.
        reference: recipe to compare the others with, of several radii the first; by default the grid's, else standard,
            else the first method.
        summary_only: sum up what is finished or known, run nothing.
        no_summary: run cells, sum up nothing.
        dry_run: list the cells and what each is expected to cost.
        executor: where cells are computed; submitit (SLURM) and ray run each as a job.
        cores: of every job.
        gpus: of every job.
        memory: of every job, in GiB; by default the engine's.
        executor_options: of the engine, such as --executor-options.slurm_partition gpu.
        fields: of the training.

    Examples:
        dpaat benchmark --data folder:photos --methods all --folds 3   every method on your own images
        dpaat benchmark --data folder:photos --methods pgd,dpaat --models resnet18 --epochs 50 --out runs/two
        dpaat benchmark smoke                                          run it again to go on, or to retry what failed
        dpaat benchmark quick --data folder:photos                     a first look at your own images
        dpaat benchmark grid.yaml --data ham10000:DIR --workers 2 --out results/ham
        dpaat benchmark grid.yaml --only 'dpaat-*-f1-s0'               one row again
        dpaat benchmark grid.yaml --known docs/results/ham10000-32px   with the cells of a published benchmark
        dpaat benchmark grid.yaml --known docs/results/ham10000-32px --summary-only --reference pgd-1
        dpaat benchmark grid.yaml --executor submitit --gpus 1 --executor-options.slurm_partition gpu
        dpaat benchmark grid.yaml --dry-run
    """
    from dpaat import benchmark as module
    from dpaat.benchmark.executors import Needs

    try:
        numbers = [int(each) for each in _parts(seeds)]
    except ValueError:
        raise UserError(f"seeds: {seeds!r} are not whole numbers with commas") from None
    found = module.read_grid(
        grid,
        data=data or [],
        workers=workers,
        threads=threads,
        reference=reference,
        models=_parts(models),
        methods=_parts(methods),
        folds=folds,
        seeds=numbers,
        masking=masking,
        train=fields,
    )
    needs = Needs(cores, gpus, memory)
    if executor == "local" and (idle := [n for n, v in {"gpus": gpus, "memory": memory}.items() if v]):
        raise UserError(f"{idle[0]}: is asked for with --executor submitit or ray only")
    if executor == "local" and executor_options:
        raise UserError("executor_options: belong to --executor submitit or ray")
    out, summary = out or Path("runs") / found.name, dict[str, Any]()
    options: dict[str, Any] = {"out": out, "known": known, "only": only, "console": console()}
    if dry_run:
        return {"cells": module.list_cells(found, executor=executor, **options)}
    options |= {"summary_only": summary_only, "no_summary": no_summary, "summary": summary}
    options |= {"executor": executor, "needs": needs, "executor_options": executor_options}
    failed = module.benchmark(found, **options)
    return {"folder": str(out.resolve()), "problems": failed} | summary


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
