"""Ranges of numbers, stated where a field is declared: `ranged(0.5, "(0, 1]")`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)
_INTERVAL = re.compile(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")


def ranged(default: Number, interval: str) -> Number:
    """Declare a field of a dataclass with its default and its range, such as "[0, 1)" or "(0, inf)"."""
    field: Any = dataclasses.field(default=default, metadata={"range": interval})
    return field  # type: ignore[no-any-return]


def in_range(value: float, interval: str) -> bool:
    """Whether a number lies in an interval; NaN lies in none."""
    match = _INTERVAL.fullmatch(interval)
    assert match is not None, interval
    low, high = float(match[2]), float(match[3])
    return (value >= low if match[1] == "[" else value > low) and (value <= high if match[4] == "]" else value < high)


class Options:
    """Base of a method's options, a frozen dataclass whose `ranged` fields are checked when it is made.

    Raises:
        ValueError: names the field, its range and the value.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            interval, value = field.metadata.get("range"), getattr(self, field.name)
            if interval and not in_range(value, interval):
                raise ValueError(f"{field.name} must lie in {interval}, not {value}")
