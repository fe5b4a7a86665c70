"""Registry of datasets: each kind registers its loader where it is defined."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from dpaat.data.table import ImageTable
from dpaat.registry import Registry, import_all

Loader = Callable[[str, str], ImageTable]


@dataclass(frozen=True)
class DatasetInfo:
    """A kind of dataset, `name` before the colon of a spec; `load(argument, spec)` takes what follows it."""

    name: str
    load: Loader
    syntax: str  # the whole spec, as people write it
    description: str


DATASETS = Registry("dataset", DatasetInfo)
register_dataset, find_dataset = DATASETS.register, DATASETS.find


@functools.cache
def import_loaders() -> None:
    """Import the modules of `dpaat.data`, so that their loaders register themselves, and those of plug-ins."""
    import_all("dpaat.data", "dpaat.datasets")
