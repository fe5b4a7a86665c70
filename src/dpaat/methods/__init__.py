"""Training methods: one objective a file, listed here."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

from dpaat.errors import UserError, unknown
from dpaat.methods.base import Method, Setting, Visit
from dpaat.methods.info import MethodInfo
from dpaat.methods.registry import METHODS


def find_method(name: str) -> MethodInfo:
    """Look a method up by name.

    Raises:
        UserError: no such method; names the nearest ones.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def complete_options(info: MethodInfo, given: dict[str, Any]) -> dict[str, Any]:
    """Fill a method's further options up with its defaults.

    Raises:
        UserError: an option that the method does not have, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(info.options)} if info.options else {}
    hints = get_type_hints(info.options) if info.options else {}
    values = {name: field.default for name, field in fields.items()}
    for name, value in given.items():
        if name not in fields:
            if not fields:
                raise UserError(f"method {info.name!r} takes no further options, so not {name!r}")
            raise unknown(f"option of method {info.name!r}", name, fields)
        values[name] = _convert(f"options.{name}", hints[name], value)
    return values


def build_method(info: MethodInfo, setting: Setting, options: dict[str, Any]) -> Method:
    """Make the method for a run.

    Raises:
        UserError: an option that the method does not have, or one out of its range.
    """
    completed = complete_options(info, options)
    arguments = (info.options(**completed),) if info.options else ()
    try:
        return info.build(setting, *arguments)
    except ValueError as error:
        raise UserError(f"method {info.name!r}: {error}") from None


def _convert(name: str, hint: Any, value: Any) -> Any:
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise unknown(f"value of {name}", str(value), choices)
        return value
    try:
        converted = hint(value)
        if hint is int and (isinstance(value, bool) or converted != float(value)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        kind = {int: "a whole number", float: "a number"}.get(hint, "a name")
        raise UserError(f"{name}: {value!r} is not {kind}") from None
    return converted


__all__ = [
    "METHODS",
    "Method",
    "MethodInfo",
    "Setting",
    "Visit",
    "build_method",
    "complete_options",
    "find_method",
]
