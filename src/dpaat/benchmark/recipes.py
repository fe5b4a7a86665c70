"""The recipes and the models of a grid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpaat.benchmark.fields import as_list, as_mapping, as_texts, at, check_known, check_name, check_unique
from dpaat.config import TrainConfig
from dpaat.errors import UserError, unknown
from dpaat.radii import format_radius, parse_radii

TRAIN_FIELDS = tuple(TrainConfig.__dataclass_fields__)
OWN_FIELDS = {"model": "models", "data": "data", "fold": "folds", "seed": "seeds", "splits": "folds"}
"""Fields of a training run that are axes of the grid, and the axis that sets them."""


@dataclass(frozen=True)
class Recipe:
    """A way to train, whatever the model, data, fold and seed."""

    name: str
    family: str | None  # name of the sweep over radii that it belongs to, None for a recipe of its own
    settings: dict[str, Any]  # fields of `TrainConfig`, those common to all recipes included
    seeds: tuple[int, ...]
    models: tuple[str, ...]  # names of those that it trains


def read_recipes(content: Mapping[str, Any], models: tuple[str, ...]) -> tuple[Recipe, ...]:
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
            named = as_texts(fields, "models") if "models" in fields else ()
            axes = _seeds(fields, default), chosen_models(named, models)
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


def read_models(entries: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Give every model the fields of a training that it sets, by its name in the tables."""
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


def chosen_models(names: Sequence[str], models: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the grid's models that are named, all of them if none is."""
    for name in names:
        if name not in models:
            raise unknown("model of the grid", name, models)
    check_unique("models", names)
    return tuple(names) or models


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
