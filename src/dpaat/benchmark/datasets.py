"""Grid files, and datasets by the names that they have on every machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dpaat.errors import UserError, unknown
from dpaat.validation import load_yaml

GRIDS = Path(__file__).parent / "grids"
"""Grids that come with the package."""
PLACES = {"ham10000": "DIR", "folder": "DIR", "csv": "FILE.csv", "hf": "NAME_OR_DIR", "py": "PKG.MODULE:NAME"}
"""Kinds of datasets that are found by a path, and its placeholder."""


def data_name(spec: str) -> str:
    """Name a dataset without its place: "ham10000", "pneumoniamnist", "synthetic-200"."""
    kind, _, argument = spec.partition(":")
    if kind == "medmnist":
        return argument.partition(":")[0] or kind
    return kind if kind in PLACES or not argument else f"{kind}-{argument}"


def public_spec(spec: str) -> str:
    """Write a spec with a placeholder for the place, as it may be published: "ham10000:DIR"."""
    kind, _, argument = spec.partition(":")
    if kind in PLACES:
        return f"{kind}:{PLACES[kind]}"
    return f"{kind}:{argument.partition(':')[0]}" if kind == "medmnist" else spec


def replace_data(specs: Sequence[str], given: Sequence[str]) -> list[str]:
    """Put the specs of the command line in the place of the grid's: the only one, or those of the same name.

    Raises UserError where there is nothing of that name to replace.
    """
    if len(specs) == len(given) == 1:
        return [*given]
    found = [*specs]
    names = [data_name(spec) for spec in specs]
    for spec in given:
        if names.count(data_name(spec)) != 1:
            raise UserError(f"--data {spec}: replaces none of the grid's datasets, which are {', '.join(names)}")
        found[names.index(data_name(spec))] = spec
    return found


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
