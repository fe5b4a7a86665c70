"""Grid files, and what the command line changes in them."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dpaat.benchmark.datasets import public_spec
from dpaat.config import TrainConfig
from dpaat.errors import UserError, unknown
from dpaat.methods import METHODS, find_method
from dpaat.validation import fields_of, load_yaml

GRIDS = Path(__file__).parent / "grids"
"""Grids that come with the package."""
AXES = {"model": "models", "data": "data", "fold": "folds", "seed": "seeds", "splits": "folds"}
"""Fields of a training run that are axes of the grid, and the axis that sets them."""


def find_grid(path: Path) -> Path:
    """Path of a grid that is named by its file, or by its name if it comes with the package; UserError for no grid."""
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    known = [file.stem for file in GRIDS.glob("*.yaml")]
    if str(path) not in known:
        raise unknown("grid", str(path), known)
    return GRIDS / f"{path}.yaml"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that maps names to values; raises UserError where it is not readable as such."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: not a grid; it needs the fields recipes, models and data")
    return content


def unique(kind: str, values: list[Any]) -> list[Any]:
    """The values of a kind as they are; UserError for one that is given twice."""
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{kind}: {value} is given twice")
    return values


def train_fields(fields: dict[str, Any], place: str) -> dict[str, Any]:
    """Fields of a training that a grid may set, as they are; UserError for others."""
    known = [name for name in fields_of(TrainConfig) if name not in AXES]
    for name in fields:
        if name in AXES:
            raise UserError(f"{place}.{name}: is set by the grid's own {AXES[name]}")
        if name not in known:
            raise unknown(f"field of {place}", str(name), known)
    return fields


def override(
    content: dict[str, Any],
    *,
    methods: Sequence[str],
    folds: str | None,
    seeds: Sequence[int],
    masking: int | None,
    train: Mapping[str, Any],
) -> None:
    """Put what the command line says in the place of what a grid file says; what is wrong in there is found later."""
    if methods:
        names = [*METHODS] if "all" in methods else [find_method(name).name for name in methods]
        unique("methods", names)
        content["recipes"] = {name: {"method": name} for name in names}
        if content.get("reference") not in names:
            content["reference"] = "standard" if "standard" in names else names[0]
    if folds:
        many = int(folds) if folds.strip().isdigit() else 0
        content["folds"] = [f"{k}/{many}" for k in range(1, many + 1)] or [part.strip() for part in folds.split(",")]
    if seeds:
        content["seeds"] = [*seeds]
    if masking:
        content["evaluate"] = {**(content.get("evaluate") or {}), "masking": masking}
    fields = train_fields(dict(train), "train")
    if not fields:
        return
    common = {**(content.get("train") or {}), **fields}
    eps = common.pop("eps", None) if "eps" in fields else None
    options = fields.get("options")
    if options and (before := (content.get("train") or {}).get("options")):
        common["options"] = {**before, **options}
    content["train"] = common
    places = [each for each in (*content["recipes"].values(), *content["models"]) if isinstance(each, dict)]
    for own in places:
        for name in fields:
            before = own.pop(name, None)
            if name == "options" and before:  # those that are not typed may be what makes the recipe
                own[name] = {**before, **fields[name]}
    radii = [part.strip() for part in str(eps).split(",")]
    for recipe in content["recipes"].values() if eps is not None else ():
        if find_method(recipe.get("method", common.get("method", TrainConfig.method))).adversarial:
            recipe["eps"] = radii if len(radii) > 1 else eps


def command_line(path: Path | None, data: Sequence[str], given: Mapping[str, Any]) -> str:
    """The command line, without paths of this machine."""
    words = ["dpaat", "benchmark"]
    if path is not None:
        whole = path.is_absolute() or ".." in path.parts
        words.append(path.stem if path.parent == GRIDS else path.name if whole else path.as_posix())
    words += [f"--data {public_spec(spec)}" for spec in data]
    for name, value in given.items():
        parts = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        for key, each in parts.items():
            if each not in (None, (), []):
                text = ",".join(map(str, each)) if isinstance(each, list | tuple) else str(each)
                text = Path(text).name if name == "weights" else text
                words.append(f"--{key.replace('_', '-')} {shlex.quote(text)}")
    return " ".join(words)
