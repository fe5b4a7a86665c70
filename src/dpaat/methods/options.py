"""Options of training methods, declared as attributes of their class: `beta: float = option(6.0, "[0, inf)")`."""

import re
from dataclasses import dataclass
from typing import Any, TypeVar

from dpaat.errors import UserError, unknown

Value = TypeVar("Value", int, float, str)
_INTERVAL = re.compile(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")


@dataclass(frozen=True)
class Option:
    """Default of an option, and what it may be: an interval of numbers, or names separated by "|"; "" is anything.

    With `radius` 1 it is a radius in the run's norm, in pixel units, and with -1 something per unit of the radius;
    the default is then that in Linf.
    """

    default: Any
    allowed: str = ""
    radius: int = 0

    def convert(self, name: str, value: Any) -> Any:
        """A value of a configuration in the type of the default; UserError where it has none, or is no such name."""
        kind = type(self.default)
        if kind is str and self.allowed:
            if value not in (names := self.allowed.split(" | ")):
                raise unknown(f"value of {name}", str(value), names)
            return value
        try:
            converted = kind(value)
            if kind is int and (isinstance(value, bool) or converted != float(value)):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            text = {int: "a whole number", float: "a number"}.get(kind, "a name")
            raise UserError(f"{name}: {value!r} is not {text}") from None
        return converted

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a number outside of the interval; NaN lies in none."""
        if match := _INTERVAL.fullmatch(self.allowed):
            low, high = float(match[2]), float(match[3])
            above = value >= low if match[1] == "[" else value > low
            below = value <= high if match[4] == "]" else value < high
            if not (above and below):
                raise ValueError(f"{name} must lie in {self.allowed}, not {value}")


def option(default: Value, allowed: str = "", *, radius: int = 0) -> Value:
    """Declare an option of a method; see `Option`."""
    declared: Any = Option(default, allowed, radius)
    return declared  # type: ignore[no-any-return]
