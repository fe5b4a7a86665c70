"""Summary of a benchmark: every recipe aggregated over folds and seeds, compared on the same images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from dpaat.benchmark.aggregate import Aggregate, Document, Replicate
from dpaat.benchmark.contrasts import front_contrast
from dpaat.benchmark.grid import Cell, Grid, Recipe
from dpaat.benchmark.outcomes import CellOutcome
from dpaat.evaluation.statistics import Contrast, adjust

ALL = "all models"
"""What takes a model's place in the table over all of them."""
Finished = tuple[Cell, CellOutcome]


def summarize(grid: Grid, finished: Sequence[Finished]) -> list[Document]:
    """Make a table for every dataset and model that has finished cells, and one over all models of a dataset.

    Every recipe is pooled over its own cells. Differences from the reference, and from the front of every family of
    recipes, are taken over the models, folds and seeds that both have; their p-values are adjusted by Holm's method
    over all comparisons of one metric in the table. Over several models, their differences count as those of
    trainings do, and every model as much as another.
    """
    tables: dict[tuple[str, str], dict[str, dict[Replicate, Finished]]] = {}
    models: dict[str, set[str]] = {}
    for cell, _ in finished:
        models.setdefault(cell.data, set()).add(cell.model)
    several = [data for data, found in models.items() if len(found) > 1]
    for name in (None, ALL):
        for cell, outcome in finished:
            if name is None or cell.data in several:
                rows = tables.setdefault((cell.data, name or cell.model), {})
                rows.setdefault(cell.recipe, {})[_replicate(cell)] = (cell, outcome)
    for data in several:
        tables[data, ALL] = _balance(tables[data, ALL])
    return [
        {"data": data, "model": model, "replicates": _replicates(grid, data, model), **_table(grid, rows)}
        for (data, model), rows in tables.items()
        if rows
    ]


def _balance(rows: Mapping[str, dict[Replicate, Finished]]) -> dict[str, dict[Replicate, Finished]]:
    """Of each recipe that several models have, the folds and seeds that all of those have."""
    balanced = {}
    for recipe, found in rows.items():
        models = {model for model, _, _ in found}
        common = {
            (model, fold, seed): finished
            for (model, fold, seed), finished in found.items()
            if all((other, fold, seed) in found for other in models)
        }
        if len(models) > 1 and common:
            balanced[recipe] = common
    return balanced


def _replicate(cell: Cell) -> Replicate:
    return cell.model, cell.fold or "", cell.seed


def _replicates(grid: Grid, data: str, model: str) -> int:
    """How many cells a recipe of a table can have."""
    return len({_replicate(cell) for cell in grid.cells if cell.data == data and model in (cell.model, ALL)})


def _table(grid: Grid, found: Mapping[str, Mapping[Replicate, Finished]]) -> Document:
    radii = grid.plans.main.radii
    recipes = [recipe for recipe in grid.recipes if recipe.name in found]
    main = Aggregate({name: {r: outcome.main for r, (_, outcome) in found[name].items()} for name in found}, radii)
    draw = None
    if grid.plans.draw is not None:
        drawn = {
            name: {r: outcome.draw for r, (_, outcome) in found[name].items() if outcome.draw is not None}
            for name in found
        }
        draw = Aggregate(drawn, grid.plans.draw.radii)
    methods = {recipe.name: next(iter(found[recipe.name].values()))[0].config.method for recipe in recipes}
    standard = next((name for name, method in methods.items() if method == "standard"), None)
    rows = []
    for recipe in recipes:
        cells = list(found[recipe.name].values())
        row: Document = {
            "recipe": recipe.name,
            "family": recipe.family,
            "method": methods[recipe.name],
            "cells": [cell.name for cell, _ in cells],
            "seconds_per_epoch": _seconds(cells),
            "masking": [{"cell": cell.name, **entry} for cell, outcome in cells for entry in outcome.facts["masking"]],
            "scores": main.scores(recipe.name),
            "differences": main.differences(recipe.name, grid.reference),
            "fronts": _fronts(main, recipe, recipes, standard or grid.reference),
        }
        if draw is not None:
            row["draw"] = {
                "n": draw.images(recipe.name),
                "scores": draw.scores(recipe.name),
                "differences": draw.differences(recipe.name, grid.reference),
            }
        rows.append(row)
    _compare_cost(rows, standard)
    adjust(row["differences"] for row in rows)
    adjust(row["draw"]["differences"] for row in rows if "draw" in row)
    adjust(front["differences"] for row in rows for front in row["fronts"].values())
    return {"n": max(main.images(recipe.name) for recipe in recipes), "rows": rows}


def _fronts(aggregate: Aggregate, recipe: Recipe, recipes: Sequence[Recipe], clean: str) -> dict[str, Document]:
    """A recipe of its own against the front of every family; `clean`, a recipe, is the end of each at radius 0.

    Members that have fewer of the recipe's runs than others are left out: they would confine the comparison to those.
    """
    if recipe.family is not None or recipe.name == clean:
        return {}
    families: dict[str, list[str]] = {}
    for other in recipes:
        if other.family is not None:
            families.setdefault(other.family, []).append(other.name)
    fronts = {}
    for family, members in families.items():
        ends = [clean] if clean in aggregate.outcomes and clean not in members else []
        runs = {member: len(aggregate.shared(recipe.name, *ends, member)) for member in members}
        compared = [*ends, *(member for member in members if runs[member] == max(runs.values()))]
        replicates = aggregate.shared(recipe.name, *compared)
        if not replicates:
            continue
        baselines = {member: aggregate.points(member, replicates) for member in compared}
        differences: dict[str, Contrast] = {}
        against = {}
        for name, point in aggregate.points(recipe.name, replicates).items():
            others = {member: points[name] for member, points in baselines.items()}
            differences[name], against[name] = front_contrast(point, others)
        fronts[family] = {"members": compared, "differences": differences, "against": against}
    return fronts


def _compare_cost(rows: Sequence[Document], standard: str | None) -> None:
    """Relate the time of an epoch to that of a recipe, if there is one."""
    unit = next((row["seconds_per_epoch"] for row in rows if row["recipe"] == standard), None)
    for row in rows:
        seconds = row["seconds_per_epoch"]
        row["relative_cost"] = seconds / unit if seconds and unit else None


def _seconds(cells: Sequence[Finished]) -> float | None:
    """Median time of an epoch, of one model only."""
    known = [outcome.facts["seconds_per_epoch"] for _, outcome in cells]
    known = [value for value in known if value is not None]
    return statistics.median(known) if known and len({cell.model for cell, _ in cells}) == 1 else None
