"""Benchmark grid: runs described in YAML, checked before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from dpaat.benchmark.datasets import data_name, public_spec, replace_data
from dpaat.benchmark.fields import as_list, as_positive, as_texts, at, check_known, check_unique, make, read_yaml
from dpaat.benchmark.plans import Plans, read_plans
from dpaat.benchmark.recipes import Recipe, chosen_models, read_models, read_recipes
from dpaat.config import TrainConfig, complete
from dpaat.data.splits import parse_fold
from dpaat.errors import UserError, unknown
from dpaat.models import check_name as check_model
from dpaat.training.trainer import check_options

GRIDS = Path(__file__).parent / "grids"
"""Grids that come with the package."""
FIELDS = ("train", "recipes", "reference", "models", "data", "folds", "seeds", "evaluate", "workers", "threads")


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Grid:
    """Everything that a benchmark is to do."""

    name: str  # of the file, without its extension
    command: str  # that asks for it, without this machine's paths
    content: dict[str, Any]  # the file, with the datasets as they are called elsewhere than on this machine
    recipes: tuple[Recipe, ...]
    reference: str  # name of the recipe that the others are compared with
    cells: tuple[Cell, ...]  # recipes x models x datasets x folds x seeds, recipes varying fastest
    plans: Plans  # the evaluations of every cell
    workers: int  # cells side by side
    threads: int | None  # of every cell; None shares the cores out among the workers


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
        path: a YAML file, see `docs/benchmark.md`, or the name of one of `GRIDS`.
        data: specs that take the place of the file's, see `replace_data`.
        workers: cells side by side, in place of the file's.
        reference: recipe that the others are compared with, in place of the file's.
        models: those of the file's models to keep; default all.

    Raises:
        UserError: what is wrong, naming the file and the field.
    """
    path = find_grid(path)
    content = read_yaml(path)
    with at(str(path)):
        check_known("field", content, FIELDS)
        every = read_models(as_list(content, "models"))
        recipes = read_recipes(content, tuple(every))
        if "data" not in content and not data:
            raise UserError("data: the grid names no dataset; give one with --data")
        specs = replace_data(as_texts(content, "data"), data) if "data" in content else [*data]
        check_unique("data", [data_name(spec) for spec in specs])
        folds = _folds(content)
        compared = content.get("reference", recipes[0].name) if reference is None else reference
        if compared not in [recipe.name for recipe in recipes]:
            raise unknown("recipe as reference", str(compared), [recipe.name for recipe in recipes])
        plans = read_plans(content.get("evaluate", {}))
        if len(folds) > 1 and plans.main.split != "test":
            raise UserError(f"evaluate.split: {plans.main.split!r} of several folds share images; give one fold")
        kept = {name: every[name] for name in chosen_models(models, tuple(every))}
        cells = list(_cells(recipes, kept, specs, folds))
        check_unique("cells", [cell.name for cell in cells])
        return Grid(
            name=path.stem,
            command=_command(path, data, reference, models),
            content=content | {"data": [public_spec(spec) for spec in specs]},
            recipes=recipes,
            reference=compared,
            cells=tuple(cells),
            plans=plans,
            workers=as_positive("workers", content.get("workers", 1) if workers is None else workers),
            threads=None if content.get("threads") is None else as_positive("threads", content["threads"]),
        )


def find_grid(path: Path) -> Path:
    """Path of a grid that is named by its file, or by its name if it comes with the package.

    Raises:
        UserError: a name that none of them has.
    """
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    known = [file.stem for file in GRIDS.glob("*.yaml")]
    if str(path) not in known:
        raise unknown("grid", str(path), known)
    return GRIDS / f"{path}.yaml"


def _command(path: Path, data: Sequence[str], reference: str | None, models: Sequence[str]) -> str:
    if path.parent == GRIDS:
        path = Path(path.stem)
    shown = path.name if path.is_absolute() or ".." in path.parts else path.as_posix()
    options = [f"--data {public_spec(spec)}" for spec in data]
    if reference is not None:
        options.append(f"--reference {reference}")
    if models:
        options.append(f"--models {','.join(models)}")
    return " ".join(["dpaat", "benchmark", shown, *options])


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


def _folds(content: Mapping[str, Any]) -> list[str | None]:
    if content.get("folds") is None:
        return [None]
    folds = as_texts(content, "folds")
    if len({parse_fold(fold)[1] for fold in folds}) > 1:
        raise UserError(f"folds: {', '.join(folds)} are not of one division")
    return [*folds]
