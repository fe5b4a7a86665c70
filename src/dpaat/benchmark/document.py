"""`benchmark.json`: what was done, on what, how it ended, and the tables."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpaat.benchmark.contrasts import Point, front_contrast
from dpaat.benchmark.grid import Grid, Job, Recipe
from dpaat.benchmark.jobs import JobRun
from dpaat.benchmark.outcomes import AREA, Condition, JobOutcome, Outcome, conditions
from dpaat.benchmark.plans import ranked_attack, words
from dpaat.evaluation.statistics import adjust, contrast, fold_scores
from dpaat.measurement import EvaluateConfig
from dpaat.provenance import provenance

SCHEMA_VERSION = 1
Document = dict[str, Any]
ALL = "all models"
"""What takes a model's place in the table over all of them."""
Finished = tuple[Job, JobOutcome]
Replicate = tuple[str, str, int]
"""Model, fold and seed."""
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:;,()'\"]+/)+")


def make_document(grid: Grid, runs: Sequence[JobRun], outcomes: Mapping[str, JobOutcome]) -> Document:
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
        "cells": [_cell(run, outcomes.get(run.cell.name)) for run in runs],
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


def _cell(run: JobRun, outcome: JobOutcome | None) -> Document:
    cell = run.cell
    found: Document = {name: getattr(cell, name) for name in ("name", "recipe", "model", "data", "fold", "seed")}
    if outcome is not None:
        facts = {name: value for name, value in outcome.facts.items() if name not in ("fingerprint", "masking")}
        return found | {"status": "finished", "error": None, **facts}
    record = run.record
    return found | {
        "status": run.state,
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


class Aggregate:
    """The outcomes of all recipes on one kind of images, put together once for every choice of replicates."""

    def __init__(self, outcomes: Mapping[str, Mapping[Replicate, Outcome]], radii: Sequence[float]) -> None:
        self.outcomes, self.radii = outcomes, radii
        self._known: dict[tuple[str, tuple[Replicate, ...]], list[Condition]] = {}

    def conditions(self, recipe: str, replicates: Sequence[Replicate] | None = None) -> list[Condition]:
        """A recipe under every condition, over all its replicates or some."""
        chosen = tuple(self.shared(recipe) if replicates is None else replicates)
        if (recipe, chosen) not in self._known:
            found = conditions([self.outcomes[recipe][each] for each in chosen], self.radii)
            self._known[recipe, chosen] = found
        return self._known[recipe, chosen]

    def shared(self, *recipes: str) -> list[Replicate]:
        """The models, folds and seeds that all of some recipes have."""
        return sorted(set.intersection(*({*self.outcomes[recipe]} for recipe in recipes)))

    def images(self, recipe: str) -> int:
        """How many images a recipe is evaluated on."""
        return sum(len(fold.images.labels) for fold in self.conditions(recipe)[0].folds)

    def scores(self, recipe: str) -> Document:
        """A recipe's metrics over all its replicates, with intervals."""
        found = [(each.names, fold_scores(each.folds)) for each in self.conditions(recipe)]
        return {name: scores[metric] for names, scores in found for metric, name in names.items()}

    def differences(self, recipe: str, reference: str) -> Document | None:
        """A recipe minus the reference; None for the reference itself, or without replicates in common."""
        if recipe == reference or reference not in self.outcomes or not (shared := self.shared(recipe, reference)):
            return None
        pairs = zip(self.conditions(recipe, shared), self.conditions(reference, shared), strict=True)
        found = [(ours.names, contrast(ours.folds, theirs.folds)) for ours, theirs in pairs]
        return {name: contrasts[metric] for names, contrasts in found for metric, name in names.items()}

    def points(self, recipe: str, replicates: Sequence[Replicate]) -> dict[str, Point]:
        """A recipe in the planes of clean against robust scores: the area, mAP and accuracy at every radius."""
        clean, *attacked = self.conditions(recipe, replicates)
        found = {AREA: Point(clean.folds, attacked[-1].folds, "balanced_accuracy")}
        for metric in ("map", "accuracy"):
            for each in attacked:
                if name := each.names.get(metric):
                    found[name] = Point(clean.folds, each.folds, metric)
        return found

    def fronts(self, recipe: Recipe, recipes: Sequence[Recipe], clean: str) -> dict[str, Document]:
        """A recipe of no family against the front of each; `clean`, a recipe, is the end of every front at radius 0.

        Members that have fewer of the recipe's runs than others are left out: they would confine the comparison.
        """
        families: dict[str, list[str]] = {}
        for other in recipes if recipe.family is None and recipe.name != clean else ():
            if other.family is not None:
                families.setdefault(other.family, []).append(other.name)
        fronts = {}
        for family, members in families.items():
            ends = [clean] if clean in self.outcomes and clean not in members else []
            runs = {member: len(self.shared(recipe.name, *ends, member)) for member in members}
            compared = [*ends, *(member for member in members if runs[member] == max(runs.values()))]
            if replicates := self.shared(recipe.name, *compared):
                others = {member: self.points(member, replicates) for member in compared}
                found = {
                    name: front_contrast(point, {member: points[name] for member, points in others.items()})
                    for name, point in self.points(recipe.name, replicates).items()
                }
                differences, against = ({name: pair[k] for name, pair in found.items()} for k in (0, 1))
                fronts[family] = {"members": compared, "differences": differences, "against": against}
        return fronts


def summarize(grid: Grid, finished: Sequence[Finished]) -> list[Document]:
    """Make a table for every dataset and model that has finished cells, and one over all models of a dataset.

    Every recipe is pooled over its own cells. Differences from the reference, and from the front of every family of
    recipes, are taken over the models, folds and seeds that both have; their p-values are adjusted by Holm's method
    over all comparisons of one metric in the table. Over several models, their differences count as those of
    trainings do, and every model as much as another.
    """
    tables: dict[tuple[str, str], dict[str, dict[Replicate, Finished]]] = {}
    for name in ("", ALL):
        for cell, outcome in finished:
            if not name or len({each.model for each, _ in finished if each.data == cell.data}) > 1:
                rows = tables.setdefault((cell.data, name or cell.model), {})
                rows.setdefault(cell.recipe, {})[_replicate(cell)] = (cell, outcome)
    found = {key: _balance(rows) if key[1] == ALL else rows for key, rows in tables.items()}
    summed = []
    for (data, model), rows in ((key, rows) for key, rows in found.items() if rows):
        possible = {_replicate(cell) for cell in grid.cells if cell.data == data and model in (cell.model, ALL)}
        summed.append({"data": data, "model": model, "replicates": len(possible), **_table(grid, rows)})
    return summed


def _balance(rows: Mapping[str, dict[Replicate, Finished]]) -> dict[str, dict[Replicate, Finished]]:
    """Of each recipe that several models have, the folds and seeds that all of those have."""
    balanced = {}
    for recipe, found in rows.items():
        models = {model for model, _, _ in found}
        common = {key: each for key, each in found.items() if all((other, *key[1:]) in found for other in models)}
        if len(models) > 1 and common:
            balanced[recipe] = common
    return balanced


def _replicate(cell: Job) -> Replicate:
    return cell.model, cell.fold or "", cell.seed


def _table(grid: Grid, found: Mapping[str, Mapping[Replicate, Finished]]) -> Document:
    recipes = [recipe for recipe in grid.recipes if recipe.name in found]
    all_of = {n: {r: each.main for r, (_, each) in cells.items()} for n, cells in found.items()}
    main = Aggregate(all_of, grid.plans.main.radii)
    drawn = {n: {r: each.draw for r, (_, each) in cells.items() if each.draw is not None} for n, cells in found.items()}
    draw = None if grid.plans.draw is None else Aggregate(drawn, grid.plans.draw.radii)
    methods = {recipe.name: next(iter(found[recipe.name].values()))[0].config.method for recipe in recipes}
    standard = next((name for name, method in methods.items() if method == "standard"), None)
    rows: list[Document] = []
    for recipe in recipes:
        name, cells = recipe.name, list(found[recipe.name].values())
        row: Document = {
            "recipe": name,
            "family": recipe.family,
            "method": methods[name],
            "cells": [cell.name for cell, _ in cells],
            "seconds_per_epoch": _seconds(cells),
            "masking": [{"cell": cell.name, **entry} for cell, outcome in cells for entry in outcome.facts["masking"]],
            "scores": main.scores(name),
            "differences": main.differences(name, grid.reference),
            "fronts": main.fronts(recipe, recipes, standard or grid.reference),
        }
        if draw is not None:
            differences = draw.differences(name, grid.reference)
            row["draw"] = {"n": draw.images(name), "scores": draw.scores(name), "differences": differences}
        rows.append(row)
    unit = next((row["seconds_per_epoch"] for row in rows if row["recipe"] == standard), None)
    for row in rows:
        seconds = row["seconds_per_epoch"]
        row["relative_cost"] = seconds / unit if seconds and unit else None
    adjust(row["differences"] for row in rows)
    adjust(row["draw"]["differences"] for row in rows if "draw" in row)
    adjust(front["differences"] for row in rows for front in row["fronts"].values())
    return {"n": max(main.images(recipe.name) for recipe in recipes), "rows": rows}


def _seconds(cells: Sequence[Finished]) -> float | None:
    """Median time of an epoch, of one model only."""
    known = [each for _, outcome in cells if (each := outcome.facts["seconds_per_epoch"]) is not None]
    return statistics.median(known) if known and len({cell.model for cell, _ in cells}) == 1 else None
