"""Plug-ins: modules outside the package that register methods, attacks, datasets and sections of the report."""

import os
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from dpaat.errors import UserError, first_line

VARIABLE = "DPAAT_PLUGIN"
"""Environment variable that tells further processes of a command what `--plugin` said."""


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
