"""Registries: what can be named on the command line registers itself, by a decorator, where it is defined."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dpaat.errors import unknown

Entry = TypeVar("Entry")
Made = TypeVar("Made")


class Registry(dict[str, Entry], Generic[Entry]):
    """Registry: entries by name.

    An `entry` is made of its name, what is registered, and the arguments of `register`; `kind` is for messages.
    """

    def __init__(self, kind: str, entry: Callable[..., Entry]) -> None:
        super().__init__()
        self.kind, self.entry = kind, entry

    def register(self, name: str, *values: Any, **fields: Any) -> Callable[[Made], Made]:
        """Decorator that makes a class or function known by a name; ValueError where another one is called so."""

        def decorate(made: Made) -> Made:
            if name in self and all(value is not made for value in vars(self[name]).values()):
                raise ValueError(f"another {self.kind} called {name!r} is registered already")
            self[name] = self.entry(name, made, *values, **fields)
            return made

        return decorate

    def find(self, name: str) -> Entry:
        """Look an entry up; UserError for an unknown name, with the nearest ones."""
        if name not in self:
            raise unknown(self.kind, name, self)
        return self[name]
