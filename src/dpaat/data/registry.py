"""Registry of datasets: each kind registers its loader where it is defined."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

from dpaat.data.table import ImageTable
from dpaat.plugins import load_entry_points
from dpaat.registry import Registry

Loader = Callable[[str, str], ImageTable]


@dataclass(frozen=True)
class DatasetInfo:
    """A kind of dataset that a spec can name.

    Attributes:
        name: what stands before the colon of a spec.
        load: called as `load(argument, spec)` with what stands behind the colon, and the whole spec.
        syntax: the whole spec, as people write it.
        description: one line.
    """

    name: str
    load: Loader
    syntax: str
    description: str


DATASETS = Registry("dataset", DatasetInfo)
register_dataset, find_dataset = DATASETS.register, DATASETS.find


@functools.cache
def import_loaders() -> None:
    """Import the modules of `dpaat.data`, so that their loaders register themselves, and those of plug-ins."""
    package = import_module("dpaat.data")
    for module in iter_modules(package.__path__):
        import_module(f"dpaat.data.{module.name}")
    load_entry_points("dpaat.datasets")
