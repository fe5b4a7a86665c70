"""Datasets by the names that they have on every machine."""

from collections.abc import Sequence
from itertools import combinations

from dpaat.errors import UserError

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


def of_different_names(specs: Sequence[str]) -> list[str]:
    """Specs as they are; UserError for two of one name, by which a benchmark tells its datasets apart."""
    for one, other in combinations(specs, 2):
        if one == other:
            raise UserError(f"data: {one} is given twice")
        if data_name(one) == data_name(other):
            raise UserError(
                f"data: {one} and {other} are two datasets of one kind, which cannot be in one benchmark; run it once "
                "for each, with an --out of its own"
            )
    return [*specs]


def replace_data(specs: Sequence[str], given: Sequence[str]) -> list[str]:
    """Put the specs of the command line in the place of the grid's: the only one, or those of the same name.

    Raises UserError where there is nothing of that name to replace, or two are given for it.
    """
    if len(specs) == len(given) == 1:
        return [*given]
    found, given = [*specs], of_different_names(given)
    names = [data_name(spec) for spec in specs]
    for spec in given:
        if names.count(data_name(spec)) != 1:
            raise UserError(f"--data {spec}: replaces none of the grid's datasets, which are {', '.join(names)}")
        found[names.index(data_name(spec))] = spec
    return found
