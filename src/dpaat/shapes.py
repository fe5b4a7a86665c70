"""What YAML and JSON from elsewhere must look like before anything in them is used."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import yaml

from dpaat.errors import UserError

MAX_YAML_VALUES = 100_000
"""A hand-written file is far below; aliases of aliases unfold a few lines to billions."""


def load_yaml(text: str) -> Any:
    """Read YAML without running code in it.

    Raises:
        yaml.YAMLError: not YAML, nested too deeply, or unfolding to more than `MAX_YAML_VALUES` values.
    """
    check_yaml(text)
    try:
        return yaml.safe_load(text)
    except ValueError as error:  # such as a date that does not exist
        raise yaml.YAMLError(str(error)) from None


def check_yaml(text: str) -> None:
    """Refuse YAML that is small on disk and huge or endless in memory; errors as `load_yaml`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _unfolded(node, {})
    except RecursionError:
        raise yaml.YAMLError("nested too deeply, or within itself") from None


def _unfolded(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Number of values below a node, what stands behind an alias counted every time."""
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
        if known[id(node)] > MAX_YAML_VALUES:
            raise yaml.YAMLError(f"more than {MAX_YAML_VALUES:,} values")
    return known[id(node)]


def load_json(text: str) -> Any:
    """Read JSON; NaN and infinity, which are not JSON, are refused.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_filled(made: object) -> None:
    """Refuse None in a field of a dataclass that does not allow it; parsers of YAML let null through everywhere.

    Raises:
        UserError: names the field.
    """
    for name, hint in get_type_hints(type(made)).items():
        if getattr(made, name) is None and type(None) not in get_args(hint):
            raise UserError(f"{name}: needs a value, not null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


@dataclass(frozen=True)
class Maybe:
    """A value that may be null.

    Attributes:
        shape: otherwise.
        absent: whether the field may be missing, too.
    """

    shape: Any
    absent: bool = False


def misfit(value: Any, shape: Any, place: str = "") -> str | None:
    """Find the first place where a value read from JSON is not of a shape.

    Args:
        value: what was read.
        shape: a type or a union of types; `[shape]` for a list; `{str: shape}` for an object with any names;
            `{"name": shape, ...}` for an object with these fields, and maybe others; or a `Maybe`. Integers
            have at most 64 bits.
        place: where the value stands.

    Returns:
        The place, such as "results[2].n"; None if everything fits.
    """
    if isinstance(shape, Maybe):
        return None if value is None else misfit(value, shape.shape, place)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return place
        found = (misfit(item, shape[0], f"{place}[{number}]") for number, item in enumerate(value))
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            return place
        if str in shape:
            found = (misfit(item, shape[str], f"{place}.{name}".lstrip(".")) for name, item in value.items())
        else:
            there = {
                name: inner
                for name, inner in shape.items()
                if name in value or not (isinstance(inner, Maybe) and inner.absent)
            }
            missing = next((name for name in there if name not in value), None)
            if missing is not None:
                return f"{place}.{missing}".lstrip(".")
            found = (misfit(value[name], inner, f"{place}.{name}".lstrip(".")) for name, inner in there.items())
    else:
        fits = isinstance(value, shape) and (not isinstance(value, bool) or shape is bool)
        return None if fits and not (isinstance(value, int) and abs(value) >= 2**63) else place
    return next((where for where in found if where is not None), None)
