"""Registry of datasets: each kind registers its loader where it is defined."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from dpaat.data.table import ImageTable
from dpaat.plugins import import_all

Loader = Callable[[str, str], ImageTable]


@dataclass(frozen=True)
class DatasetInfo:
    """A kind of dataset, `name` before the colon of a spec; `load(argument, spec)` takes what stands behind it."""

    name: str
    syntax: str  # the whole spec, as people write it
    description: str
    load: Loader


DATASETS: dict[str, DatasetInfo] = {}


def register_dataset(name: str, syntax: str, description: str) -> Callable[[Loader], Loader]:
    """Make a kind of dataset known by a name: a decorator of its loader."""

    def register(load: Loader) -> Loader:
        if name in DATASETS and DATASETS[name].load is not load:
            raise ValueError(f"a kind of dataset called {name!r} is registered already")
        DATASETS[name] = DatasetInfo(name, syntax, description, load)
        return load

    return register


@functools.cache
def import_loaders() -> None:
    """Import the modules of `dpaat.data`, so that their loaders register themselves, and those of plug-ins."""
    import_all("dpaat.data", "dpaat.datasets")
