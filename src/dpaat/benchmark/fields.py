"""Fields of a YAML file, checked one by one, with errors that name the place."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

from dpaat.errors import UserError, unknown
from dpaat.shapes import load_yaml

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@contextmanager
def at(place: str) -> Iterator[None]:
    """Name the place in whatever error of the user's comes up."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that maps names to values; raises UserError where it is not readable as such."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a grid; it needs the fields recipes, models and data")
    return content


def make(kind: Callable[..., T], values: Mapping[str, Any]) -> T:
    """Make a dataclass from values, converted to the types of its fields; raises UserError for a wrong one."""
    try:
        return kind(**vars(_parser(kind).parse_object(dict(values))))
    except (ArgumentError, TypeError) as error:
        raise UserError(" ".join(str(error).split())) from None


def check_known(kind: str, names: Iterable[object], known: Iterable[str]) -> None:
    """Refuse names that are not known; `kind` says what they are."""
    known = list(known)
    for name in names:
        if name not in known:
            raise unknown(kind, str(name), known)


def check_unique(kind: str, names: Sequence[object]) -> None:
    """Refuse names that stand twice."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{kind}: {twice[0]} stands twice")


def check_name(kind: str, name: object) -> None:
    """Refuse a name that is not fit for a file."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{kind}: {name!r} becomes part of a file name; use letters, digits, '-', '_', '.' and '+'")


def as_mapping(value: Any, hint: str) -> dict[str, Any]:
    """Take a mapping, else tell how it should look."""
    if not isinstance(value, dict):
        raise UserError(f"must map names to values, such as {hint}")
    return value


def as_list(content: Mapping[str, Any], name: str) -> list[Any]:
    """Take a list of at least one, which may stand without brackets."""
    value = content.get(name)
    if value is None or value in ([], {}):
        raise UserError(f"{name}: name at least one")
    return value if isinstance(value, list) else [value]


def as_texts(content: Mapping[str, Any], name: str) -> list[str]:
    """Take a list of different texts."""
    values = as_list(content, name)
    for value in values:
        if not isinstance(value, str):
            raise UserError(f"{name}: {value!r} must be text")
    check_unique(name, values)
    return values


def as_positive(name: str, value: Any) -> int:
    """Take a whole number, at least 1."""
    if type(value) is not int or value < 1:
        raise UserError(f"{name}: {value!r} must be a whole number, at least 1")
    return value


@cache
def _parser(kind: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    return parser
