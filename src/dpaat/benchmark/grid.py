"""Benchmark grid: runs described in YAML, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from dpaat.benchmark.datasets import GRIDS, data_name, find_grid, public_spec, read_yaml, replace_data
from dpaat.benchmark.plans import Plans, read_plans
from dpaat.config import SEED, TrainConfig, complete
from dpaat.data.splits import parse_fold
from dpaat.errors import UserError, at, unknown
from dpaat.models import check_name as check_model
from dpaat.own_code import require_trust
from dpaat.radii import format_radius, parse_radii
from dpaat.training.trainer import check_options
from dpaat.validation import STRICT, Checked, fields_of, option

AXES = {"model": "models", "data": "data", "fold": "folds", "seed": "seeds", "splits": "folds"}
"""Fields of a training run that are axes of the grid, and the axis that sets them."""


def _unique(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} stands twice")
    return values


Listed = (
    BeforeValidator(lambda value: value if value is None or isinstance(value, list) else [value]),
    AfterValidator(_unique),
    Field(min_length=1),
)
Texts = Annotated[list[str], *Listed]
Seeds = Annotated[list[Annotated[int, Field(strict=True, **SEED)]], *Listed]


@dataclass(config=STRICT)
class BenchmarkGrid(Checked):
    """The fields of a grid file."""

    recipes: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = option(..., "ways to train, by name")
    models: Annotated[list[str | dict[str, Any]], *Listed] = option(..., "networks, or mappings with a field model")
    data: Texts | None = option(None, "datasets, as for `dpaat train --data`")
    folds: Texts | None = option(None, "folds k/K of one division; by default one split")
    seeds: Seeds = option(lambda: [0], "seeds of every recipe that has none of its own")
    train: dict[str, Any] = option(dict, "fields of the training that all recipes share")
    reference: str | None = option(None, "recipe that the others are compared with; by default the first")
    evaluate: dict[str, Any] = option(dict, "fields of the evaluation")
    workers: int = option(1, "cells side by side", ge=1)
    threads: int | None = option(None, "of every cell; by default the cores are shared out", ge=1)


@dataclass(config=STRICT)
class _Axes(Checked):
    """What a recipe may narrow down."""

    seeds: Seeds | None = None
    models: Texts | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A way to train, whatever the model, data, fold and seed."""

    name: str
    family: str | None  # name of the sweep over radii that it belongs to, None for a recipe of its own
    settings: dict[str, Any]  # fields of `TrainConfig`, those common to all recipes included
    seeds: tuple[int, ...]
    models: tuple[str, ...]  # names of those that it trains


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training with its evaluations."""

    recipe: str
    model: str
    data: str
    fold: str | None  # "k/K", or None
    seed: int
    config: TrainConfig  # completed

    @property
    def name(self) -> str:
        """Such as "dpaat-resnet18-ham10000-f1-s0", also that of its run folder."""
        fold = [] if self.fold is None else [f"f{parse_fold(self.fold)[0]}"]
        return "-".join([self.recipe, self.model, self.data, *fold, f"s{self.seed}"])


@dataclasses.dataclass(frozen=True)
class Grid:
    """Everything that a benchmark is to do; fields as in `BenchmarkGrid` but for those with a comment."""

    name: str  # of the file, without its extension
    command: str  # that asks for it, without this machine's paths
    content: dict[str, Any]  # the file, with the datasets as they are called elsewhere than on this machine
    recipes: tuple[Recipe, ...]
    reference: str
    cells: tuple[Cell, ...]  # recipes x models x datasets x folds x seeds, recipes varying fastest
    plans: Plans  # the evaluations of every cell
    workers: int
    threads: int | None


def read_grid(
    path: Path,
    *,
    data: Sequence[str] = (),
    workers: int | None = None,
    reference: str | None = None,
    models: Sequence[str] = (),
) -> Grid:
    """Read a grid and check every field of every cell.

    Args:
        path: a YAML file, see `BenchmarkGrid`, or the name of one of `GRIDS`.
        data: specs in place of the file's, see `replace_data`.
        workers: in place of the file's.
        reference: in place of the file's.
        models: those of the file's to keep; default all.

    Raises:
        UserError: what is wrong, naming the file and the field.
    """
    path = find_grid(path)
    content = read_yaml(path)
    with at(str(path)):
        given = {"workers": workers, "reference": reference}
        grid = BenchmarkGrid(**content | {name: value for name, value in given.items() if value is not None})
        every = _models(grid.models)
        recipes = tuple(_recipes(grid, tuple(every)))
        if grid.data is None and not data:
            raise UserError("data: the grid names no dataset; give one with --data")
        specs = [*data] if grid.data is None else replace_data(grid.data, data)
        _check_unique("data", [data_name(spec) for spec in specs])
        names = [recipe.name for recipe in recipes]
        _check_unique("recipes", names)
        compared = grid.reference or names[0]
        if compared not in names:
            raise unknown("recipe as reference", compared, names)
        with at("evaluate"):
            plans = read_plans(grid.evaluate)
        folds = grid.folds or []
        if len({parse_fold(fold)[1] for fold in folds}) > 1:
            raise UserError(f"folds: {', '.join(folds)} are not of one division")
        if len(folds) > 1 and plans.main.split != "test":
            raise UserError(f"evaluate.split: {plans.main.split!r} of several folds share images; give one fold")
        kept = {name: every[name] for name in _chosen(models, tuple(every))}
        cells = tuple(_cells(recipes, kept, specs, folds or [None]))
        _check_unique("cells", [cell.name for cell in cells])
        public = content | {"data": [public_spec(spec) for spec in specs]}
        command = _command(path, data, reference, models)
        return Grid(path.stem, command, public, recipes, compared, cells, plans, grid.workers, grid.threads)


def _command(path: Path, data: Sequence[str], reference: str | None, models: Sequence[str]) -> str:
    if path.parent == GRIDS:
        path = Path(path.stem)
    shown = path.name if path.is_absolute() or ".." in path.parts else path.as_posix()
    options = [f"--data {public_spec(spec)}" for spec in data]
    options += [f"--reference {reference}"] * (reference is not None) + [f"--models {','.join(models)}"] * bool(models)
    return " ".join(["dpaat", "benchmark", shown, *options])


def _recipes(grid: BenchmarkGrid, models: tuple[str, ...]) -> Iterator[Recipe]:
    """The recipes; one that lists several radii becomes a family of one recipe each."""
    common = _train_fields(grid.train, "train")
    for name, fields in grid.recipes.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise UserError(f"recipes: {name!r} becomes part of a file name; use letters, digits, '-', '_', '.', '+'")
        with at(f"recipes.{name}"):
            own = {field: value for field, value in fields.items() if field not in fields_of(_Axes)}
            given = _Axes(**{field: value for field, value in fields.items() if field not in own})
            axes = tuple(given.seeds or grid.seeds), _chosen(given.models or (), models)
        settings = common | _train_fields(own, f"recipes.{name}")
        if not isinstance(settings.get("eps"), list):
            yield Recipe(name, None, settings, *axes)
            continue
        for eps in parse_radii(settings["eps"], f"recipes.{name}.eps"):
            radius = format_radius(eps)
            own = settings | {"eps": radius if "/" in radius else eps}
            yield Recipe(f"{name}-{radius.removesuffix('/255')}", name, own, *axes)


def _models(entries: Sequence[str | dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give every model the fields of a training that it sets, by its name in the tables."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        values = {"model": entry} if isinstance(entry, str) else dict(entry)
        if "model" not in values:
            raise UserError(f"models: {entry!r} is neither a name nor a mapping with a field 'model'")
        model = values.pop("model")
        name = re.sub(r"[^\w.+-]+", "_", str(values.pop("name", model)))
        if name in found:
            raise UserError(f"models: {name} stands twice; give one of them another 'name'")
        found[name] = {"model": model} | _train_fields(values, "models")
    return found


def _chosen(names: Sequence[str], models: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the grid's models that are named, all of them if none is."""
    for name in names:
        if name not in models:
            raise unknown("model of the grid", name, models)
    _check_unique("models", names)
    return tuple(names) or models


def _train_fields(fields: dict[str, Any], place: str) -> dict[str, Any]:
    known = [name for name in fields_of(TrainConfig) if name not in AXES]
    for name in fields:
        if name in AXES:
            raise UserError(f"{place}.{name}: is set by the grid's own {AXES[name]}")
        if name not in known:
            raise unknown(f"field of {place}", str(name), known)
    return fields


def _cells(
    recipes: Sequence[Recipe], models: Mapping[str, Any], specs: Sequence[str], folds: Sequence[str | None]
) -> Iterator[Cell]:
    configs = {}
    for (name, model), recipe in product(models.items(), recipes):
        if name not in recipe.models:
            continue
        with at(f"recipe {recipe.name}, model {name}"):
            config = complete(TrainConfig(**recipe.settings | model))
            check_options(config.trainer)
            check_model(config.model)
            require_trust((config.model, config.transform), None, "the grid")
        configs[name, recipe.name] = config
    seeds = dict.fromkeys(seed for recipe in recipes for seed in recipe.seeds)
    require_trust(specs, None, "the grid")
    for spec, name, seed, fold, recipe in product(specs, models, seeds, folds, recipes):
        if seed in recipe.seeds and name in recipe.models:
            config = dataclasses.replace(configs[name, recipe.name], data=spec, fold=fold, seed=seed)
            yield Cell(recipe.name, name, data_name(spec), fold, seed, config)


def _check_unique(kind: str, names: Sequence[object]) -> None:
    with at(kind):
        try:
            _unique(list(names))
        except ValueError as error:
            raise UserError(str(error)) from None
