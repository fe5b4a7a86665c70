"""`benchmark.json`: what was done, on what, how it ended, and the tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpaat.benchmark.cells import CellRun
from dpaat.benchmark.grid import Grid
from dpaat.benchmark.outcomes import CellOutcome
from dpaat.benchmark.plans import ranked_attack, words
from dpaat.benchmark.summary import summarize
from dpaat.measurement import EvaluateConfig
from dpaat.provenance import provenance

SCHEMA_VERSION = 1
Document = dict[str, Any]
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:;,()'\"]+/)+")


def make_document(grid: Grid, runs: Sequence[CellRun], outcomes: Mapping[str, CellOutcome]) -> Document:
    """Document of a grid: its cells and what is finished of them, without paths of this machine."""
    finished = [(run.cell, outcomes[run.cell.name]) for run in runs if run.cell.name in outcomes]
    return {
        **provenance("cpu"),
        "schema_version": SCHEMA_VERSION,
        "device": ", ".join(sorted({outcome.facts["device"] for outcome in outcomes.values()})),
        "command": grid.command,
        "grid": _without_paths(grid.content),
        "reference": grid.reference,
        "evaluation": _plan(grid.plans.main),
        "draw": None if grid.plans.draw is None else _plan(grid.plans.draw),
        "masking": None if grid.plans.masking is None else grid.plans.masking.max_samples,
        "fingerprints": {cell.data: outcome.facts["fingerprint"] for cell, outcome in finished},
        "cells": [_cell(run, outcomes.get(run.cell.name), grid) for run in runs],
        "tables": summarize(grid, finished),
    }


def table_title(table: Document) -> str:
    """Which data and which model a table is about."""
    return f"{table['data']}, {table['model']}"


def front_comparisons(table: Document) -> list[tuple[str, str, Document]]:
    """Every recipe that is compared with the front of a family: its name, that of the family, and what came of it."""
    return [(row["recipe"], family, front) for row in table["rows"] for family, front in row["fronts"].items()]


def _plan(plan: EvaluateConfig) -> Document:
    same = {name: getattr(plan, name) for name in ("suites", "norm", "split", "max_samples", "seed")}
    return {**same, "attacks": words(plan), "ranked": ranked_attack(plan).label, "eps": plan.radii}


def _cell(run: CellRun, outcome: CellOutcome | None, grid: Grid) -> Document:
    cell = run.cell
    found: Document = {name: getattr(cell, name) for name in ("name", "recipe", "model", "data", "fold", "seed")}
    if outcome is not None:
        facts = {name: value for name, value in outcome.facts.items() if name not in ("fingerprint", "masking")}
        return found | {"status": "finished", "error": None, **facts}
    record = run.record
    return found | {
        "status": run.state(grid.plans),
        "error": _FOLDERS.sub("", record.get("error") or "") or None,  # paths reduced to their last part
        "seconds": record.get("seconds", {}),
        "seconds_per_epoch": run.seconds_per_epoch(),
    }


def _without_paths(value: Any) -> Any:
    """Reduce file names in a grid to their last part."""
    if isinstance(value, dict):
        return {
            name: Path(each).name if name == "weights" and each else _without_paths(each)
            for name, each in value.items()
        }
    return [_without_paths(each) for each in value] if isinstance(value, list) else value
