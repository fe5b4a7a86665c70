"""Benchmark grid: runs described in YAML, checked before anything is computed."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from dpaat.benchmark.datasets import data_name, of_different_names, public_spec, replace_data
from dpaat.benchmark.overrides import command_line, find_grid, override, read_yaml, train_fields, unique
from dpaat.benchmark.plans import Plans, read_plans
from dpaat.config import SEED, TrainConfig, complete
from dpaat.data.splits import parse_fold
from dpaat.errors import UserError, at, unknown
from dpaat.models import check_name as check_model
from dpaat.own_code import require_trust
from dpaat.radii import format_radius, parse_radii
from dpaat.training.trainer import check_options
from dpaat.validation import STRICT, Checked, fields_of, option

QUICK = Path("quick")
"""The grid whose evaluation a made one takes."""
METHODS_TRIED = ("standard", "pgd", "trades", "dpaat")
"""Methods of a made grid that names none."""
Listed = (
    BeforeValidator(lambda value: value if value is None or isinstance(value, list) else [value]),
    AfterValidator(lambda values, info: unique(info.field_name, values)),
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
    reference: str | None = option(
        None, "recipe that the others are compared with, a family by its first; by default the first"
    )
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
class Job:
    """One training with its evaluations."""

    recipe: str
    model: str
    data: str
    fold: str | None  # "k/K", or None
    seed: int
    config: TrainConfig  # completed
    plans: Plans  # the evaluations

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
    file: dict[str, Any]  # what to write to do all of this again on this machine
    recipes: tuple[Recipe, ...]
    reference: str
    cells: tuple[Job, ...]  # recipes x models x datasets x folds x seeds, recipes varying fastest
    plans: Plans  # the evaluations of every cell
    workers: int
    threads: int | None


def read_grid(
    path: Path | None,
    *,
    data: Sequence[str] = (),
    workers: int | None = None,
    threads: int | None = None,
    reference: str | None = None,
    models: Sequence[str] = (),
    methods: Sequence[str] = (),
    folds: str | None = None,
    seeds: Sequence[int] = (),
    masking: int | None = None,
    train: Mapping[str, Any] | None = None,
) -> Grid:
    """Read a grid, or make one, and check every field of every cell.

    Args:
        path: a YAML file, see `BenchmarkGrid`, or the name of one of `GRIDS`; None makes one of what follows.
        data: specs in place of the file's, see `replace_data`.
        workers: in place of the file's.
        threads: in place of the file's.
        reference: in place of the file's.
        models: those of the file's to keep, default all; without a file the networks, default resnet18.
        methods: in place of the file's recipes, one each, or "all"; without a file default `METHODS_TRIED`.
        folds: in place of the file's: all of K folds as "K", or some as "1/3,2/3".
        seeds: in place of the file's.
        masking: images for masking checks, in place of the file's; without a file by default there are none.
        train: fields of the training, in place of those of all recipes; several radii `eps` make families.

    Raises:
        UserError: what is wrong, naming the file and the field.
    """
    if path is None:
        own = {} if (norm := (train or {}).get("norm", "linf")) == "linf" else {"norm": norm, "eps": None}
        evaluation = read_yaml(find_grid(QUICK))["evaluate"] | {"masking": None} | own
        content = {"recipes": {}, "models": [*models] or ["resnet18"], "evaluate": evaluation}
    else:
        path = find_grid(path)
        content = read_yaml(path)
    with at("benchmark" if path is None else str(path)):
        if path is not None:
            BenchmarkGrid(**content)
        tried = methods or (METHODS_TRIED if path is None else ())
        override(content, methods=tried, folds=folds, seeds=seeds, masking=masking, train=train or {})
        given = {"workers": workers, "threads": threads, "reference": reference}
        grid = BenchmarkGrid(**content | {name: value for name, value in given.items() if value is not None})
        every = _models(grid.models)
        recipes = tuple(_recipes(grid, tuple(every)))
        if grid.data is None and not data:
            raise UserError("data: the grid names no dataset; give one with --data")
        specs = of_different_names(data if grid.data is None else replace_data(grid.data, data))
        names = unique("recipes", [recipe.name for recipe in recipes])
        named = grid.reference or names[0]
        compared = next((recipe.name for recipe in recipes if named in (recipe.name, recipe.family)), None)
        if compared is None:
            raise unknown("recipe as reference", named, names)
        with at("evaluate"):
            plans = read_plans(grid.evaluate)
        divided = grid.folds or []
        if len({parse_fold(fold)[1] for fold in divided}) > 1:
            raise UserError(f"folds: {', '.join(divided)} are not of one division")
        if len(divided) > 1 and plans.main.split != "test":
            raise UserError(f"evaluate.split: {plans.main.split!r} of several folds share images; give one fold")
        kept = {name: every[name] for name in _chosen(() if path is None else models, tuple(every))}
        cells = tuple(_cells(grid, recipes, kept, specs, plans))
        unique("cells", [cell.name for cell in cells])
        public = content | {"data": [public_spec(spec) for spec in specs]}
        entries = zip(every, grid.models, strict=True)
        file = content | {"data": specs, "models": [entry for name, entry in entries if name in kept]}
        file |= {"reference": compared, "workers": grid.workers, "threads": grid.threads}
        asked = {"methods": methods, "folds": folds, "seeds": seeds, "masking": masking}
        options = {"reference": reference, "models": models, **asked}
        command = command_line(path, data, options | dict(train or {}))
        name = "benchmark" if path is None else path.stem
        return Grid(name, command, public, file, recipes, compared, cells, plans, grid.workers, grid.threads)


def _recipes(grid: BenchmarkGrid, models: tuple[str, ...]) -> Iterator[Recipe]:
    """The recipes; one that lists several radii becomes a family of one recipe each."""
    common = train_fields(grid.train, "train")
    for name, fields in grid.recipes.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise UserError(f"recipes: {name!r} becomes part of a file name; use letters, digits, '-', '_', '.', '+'")
        with at(f"recipes.{name}"):
            own = {field: value for field, value in fields.items() if field not in fields_of(_Axes)}
            given = _Axes(**{field: value for field, value in fields.items() if field not in own})
            axes = tuple(given.seeds or grid.seeds), _chosen(given.models or (), models)
        settings = common | train_fields(own, f"recipes.{name}")
        if not isinstance(settings.get("eps"), list):
            yield Recipe(name, None, settings, *axes)
            continue
        norm = settings.get("norm", "linf")
        for eps in parse_radii(settings["eps"], f"recipes.{name}.eps", norm):
            radius = format_radius(eps) if norm == "linf" else f"{eps:g}"
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
            raise UserError(f"models: {name} is given twice; give one of them another 'name'")
        found[name] = {"model": model} | train_fields(values, "models")
    return found


def _chosen(names: Sequence[str], models: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the grid's models that are named, all of them if none is."""
    for name in names:
        if name not in models:
            raise unknown("model of the grid", name, models)
    unique("models", [*names])
    return tuple(names) or models


def _cells(
    grid: BenchmarkGrid, recipes: Sequence[Recipe], models: Mapping[str, Any], specs: Sequence[str], plans: Plans
) -> Iterator[Job]:
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
    for spec, name, seed, fold, recipe in product(specs, models, seeds, grid.folds or (None,), recipes):
        if seed in recipe.seeds and name in recipe.models:
            config = dataclasses.replace(configs[name, recipe.name], data=spec, fold=fold, seed=seed)
            yield Job(recipe.name, name, data_name(spec), fold, seed, config, plans)
