"""Registries: what can be named on the command line registers itself where it is defined; plug-ins do so outside."""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from dpaat.errors import UserError, first_line, unknown

Entry = TypeVar("Entry")
Made = TypeVar("Made")
VARIABLE = "DPAAT_PLUGIN"
"""Environment variable that tells further processes of a command what `--plugin` said."""


class Registry(dict[str, Entry], Generic[Entry]):
    """Registry: entries by name.

    An `entry` is made of its name, what is registered, and the arguments of `register`; `kind` is for messages.
    """

    def __init__(self, kind: str, entry: Callable[..., Entry]) -> None:
        super().__init__()
        self.kind, self.entry = kind, entry

    def register(self, name: str, *values: Any, **fields: Any) -> Callable[[Made], Made]:
        """Decorator that makes a class or function known by a name; ValueError where another one is called so.

        One of the same module and name is the same one defined again, as in a notebook, and takes the old one's place.
        """

        def decorate(made: Made) -> Made:
            if name in self and not any(_same(value, made) for value in vars(self[name]).values()):
                raise ValueError(f"another {self.kind} called {name!r} is registered already")
            self[name] = self.entry(name, made, *values, **fields)
            return made

        return decorate

    def find(self, name: str) -> Entry:
        """Look an entry up; UserError for an unknown name, with the nearest ones."""
        if name not in self:
            raise unknown(self.kind, name, self)
        return self[name]


def _same(one: object, other: object) -> bool:
    names = [(getattr(each, "__module__", None), getattr(each, "__qualname__", None)) for each in (one, other)]
    return one is other or (names[0] == names[1] and None not in names[0])


def load_entry_points(group: str) -> None:
    """Import what installed packages offer in a group, such as `dpaat.methods`; UserError for what cannot be."""
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            raise UserError(f"plug-in {entry.name} ({entry.value}): cannot be imported ({first_line(error)})") from None


def import_all(package: str, group: str) -> None:
    """Import the modules of a package, so that what they define registers itself, and the plug-ins of a group."""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
    load_entry_points(group)


def load_plugins(names: str) -> None:
    """Import modules by name, comma-separated, for this process and those that it starts; UserError as above."""
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            import_module(name)
        except Exception as error:
            raise UserError(
                f"plugin: {name} cannot be imported ({first_line(error)}); its folder must be on PYTHONPATH"
            ) from None
    os.environ[VARIABLE] = names
