"""A grid of runs, read from YAML and checked before anything is computed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from dpaat.benchmark.datasets import data_name, public_spec, replace_data
from dpaat.benchmark.fields import (
    as_list,
    as_mapping,
    as_positive,
    as_texts,
    at,
    check_known,
    check_name,
    check_unique,
    make,
    read_yaml,
)
from dpaat.benchmark.plans import Plans, read_plans
from dpaat.config import TrainConfig, complete
from dpaat.data.splits import parse_fold
from dpaat.errors import UserError, unknown
from dpaat.models import check_name as check_model
from dpaat.radii import format_radius, parse_radii
from dpaat.training.trainer import check_options

FIELDS = ("train", "recipes", "reference", "models", "data", "folds", "seeds", "evaluate", "workers", "threads")
TRAIN_FIELDS = tuple(TrainConfig.__dataclass_fields__)
OWN_FIELDS = {"model": "models", "data": "data", "fold": "folds", "seed": "seeds", "splits": "folds"}
"""Fields of a training run that are axes of the grid, and the axis that sets them."""


@dataclass(frozen=True)
class Recipe:
    """A way to train, whatever the model, data, fold and seed.

    Attributes:
        name: as people read it.
        family: name of the sweep over radii that it belongs to, None for a recipe of its own.
        settings: fields of `TrainConfig`, those common to all recipes included.
        seeds: of its trainings.
        models: names of those that it trains.
    """

    name: str
    family: str | None
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One training run with its evaluations.

    Attributes:
        recipe: name of the recipe.
        model: name of the model.
        data: name of the dataset.
        fold: "k/K", or None.
        seed: of the training.
        config: the completed configuration.
    """

    recipe: str
    model: str
    data: str
    fold: str | None
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        """Such as "dpaat-resnet18-ham10000-f1-s0", also that of its run folder."""
        fold = [] if self.fold is None else [f"f{parse_fold(self.fold)[0]}"]
        return "-".join([self.recipe, self.model, self.data, *fold, f"s{self.seed}"])


@dataclass(frozen=True)
class Grid:
    """Everything that a benchmark is to do.

    Attributes:
        name: of the file, without its extension.
        content: the file, with the datasets as they are called elsewhere than on this machine.
        recipes: in the order wanted.
        reference: name of the recipe that the others are compared with.
        cells: recipes x models x datasets x folds x seeds, recipes varying fastest.
        plans: the evaluations of every cell.
        workers: cells side by side.
        threads: of every cell; None shares the cores out among the workers.
    """

    name: str
    content: dict[str, Any]
    recipes: tuple[Recipe, ...]
    reference: str
    cells: tuple[Cell, ...]
    plans: Plans
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
        path: a YAML file, see `docs/benchmark.md`.
        data: specs that take the place of the file's, see `replace_data`.
        workers: cells side by side, in place of the file's.
        reference: recipe that the others are compared with, in place of the file's.
        models: those of the file's models to keep; default all.

    Raises:
        UserError: what is wrong, naming the file and the field.
    """
    content = read_yaml(path)
    with at(str(path)):
        check_known("field", content, FIELDS)
        every = _models(as_list(content, "models"))
        recipes = _recipes(content, tuple(every))
        specs = replace_data(as_texts(content, "data"), data)
        check_unique("data", [data_name(spec) for spec in specs])
        folds = _folds(content)
        reference = content.get("reference", recipes[0].name) if reference is None else reference
        if reference not in [recipe.name for recipe in recipes]:
            raise unknown("recipe as reference", str(reference), [recipe.name for recipe in recipes])
        plans = read_plans(content.get("evaluate", {}))
        if len(folds) > 1 and plans.main.split != "test":
            raise UserError(f"evaluate.split: {plans.main.split!r} of several folds share images; give one fold")
        kept = {name: every[name] for name in _own_models({"models": [*models]} if models else {}, tuple(every))}
        cells = list(_cells(recipes, kept, specs, folds))
        check_unique("cells", [cell.name for cell in cells])
        return Grid(
            name=path.stem,
            content=content | {"data": [public_spec(spec) for spec in specs]},
            recipes=recipes,
            reference=reference,
            cells=tuple(cells),
            plans=plans,
            workers=as_positive("workers", content.get("workers", 1) if workers is None else workers),
            threads=None if content.get("threads") is None else as_positive("threads", content["threads"]),
        )


def _cells(
    recipes: Sequence[Recipe],
    models: Mapping[str, dict[str, Any]],
    specs: Sequence[str],
    folds: Sequence[str | None],
) -> Iterator[Cell]:
    configs = {}
    for (name, model), recipe in product(models.items(), recipes):
        if name not in recipe.models:
            continue
        with at(f"recipe {recipe.name}, model {name}"):
            config = complete(make(TrainConfig, recipe.settings | model))
            check_options(config.trainer)
            check_model(config.model)
        configs[name, recipe.name] = config
    seeds = dict.fromkeys(seed for recipe in recipes for seed in recipe.seeds)
    for spec, name, seed, fold, recipe in product(specs, models, seeds, folds, recipes):
        if seed not in recipe.seeds or name not in recipe.models:
            continue
        config = dataclasses.replace(configs[name, recipe.name], data=spec, fold=fold, seed=seed)
        yield Cell(recipe.name, name, data_name(spec), fold, seed, config)


def _recipes(content: Mapping[str, Any], models: tuple[str, ...]) -> tuple[Recipe, ...]:
    """Make the recipes; one that lists several radii becomes a family of one recipe each."""
    common = _train_fields(content.get("train", {}), "train", OWN_FIELDS)
    found = []
    with at("recipes"):
        entries = as_mapping(content.get("recipes"), "{standard: {method: standard}}")
    default = _seeds(content)
    for name, values in entries.items():
        check_name("recipes", name)
        with at(f"recipes.{name}"):
            fields = as_mapping(values, "{method: pgd, epochs: 30}")
            axes = _seeds(fields, default), _own_models(fields, models)
        own = {field: value for field, value in fields.items() if field not in ("seeds", "models")}
        settings = common | _train_fields(own, f"recipes.{name}", OWN_FIELDS)
        if not isinstance(settings.get("eps"), list):
            found.append(Recipe(name, None, settings, *axes))
            continue
        for eps in parse_radii(settings["eps"], f"recipes.{name}.eps"):
            radius = format_radius(eps)
            own = settings | {"eps": radius if "/" in radius else eps}
            found.append(Recipe(f"{name}-{radius.removesuffix('/255')}", name, own, *axes))
    if not found:
        raise UserError("recipes: name at least one")
    check_unique("recipes", [recipe.name for recipe in found])
    return tuple(found)


def _models(entries: Sequence[Any]) -> dict[str, dict[str, Any]]:
    own = {name: axis for name, axis in OWN_FIELDS.items() if name != "model"}
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        values = {"model": entry} if isinstance(entry, str) else entry
        if not isinstance(values, dict) or "model" not in values:
            raise UserError(f"models: {entry!r} is neither a name nor a mapping with a field 'model'")
        name = re.sub(r"[^\w.+-]+", "_", str(values.get("name", values["model"])))
        if name in found:
            raise UserError(f"models: {name} stands twice; give one of them another 'name'")
        found[name] = _train_fields({key: value for key, value in values.items() if key != "name"}, "models", own)
    return found


def _own_models(fields: Mapping[str, Any], models: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the grid's models that are named, all of them if none is."""
    chosen = as_texts(fields, "models") if "models" in fields else models
    for name in chosen:
        if name not in models:
            raise unknown("model of the grid", name, models)
    check_unique("models", chosen)
    return tuple(chosen)


def _folds(content: Mapping[str, Any]) -> list[str | None]:
    if content.get("folds") is None:
        return [None]
    folds = as_texts(content, "folds")
    if len({parse_fold(fold)[1] for fold in folds}) > 1:
        raise UserError(f"folds: {', '.join(folds)} are not of one division")
    return [*folds]


def _seeds(content: Mapping[str, Any], default: tuple[int, ...] = (0,)) -> tuple[int, ...]:
    seeds = as_list(content, "seeds") if "seeds" in content else default
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise UserError(f"seeds: {seed!r} must be a whole number between 0 and 2^32 - 1")
    check_unique("seeds", seeds)
    return tuple(seeds)


def _train_fields(values: Any, place: str, own: Mapping[str, str]) -> dict[str, Any]:
    """Check the names of a training's fields; `own` are those that belong to an axis of the grid, and the axis."""
    with at(place):
        fields = as_mapping(values, "{method: pgd, epochs: 30}")
    for name in fields:
        if name in own:
            raise UserError(f"{place}.{name}: is set by the grid's own {own[name]}")
    check_known(f"field of {place}", fields, [name for name in TRAIN_FIELDS if name not in own])
    return fields
