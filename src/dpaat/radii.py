"""Perturbation radii as people write them: 0.03, 8/255."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dpaat.errors import UserError


def parse_radius(value: str | float, name: str = "eps") -> float:
    """Read a radius in units of a [0, 1] image.

    Args:
        value: a number, or text such as "0.03" or "8/255".
        name: the option it came from, for the error.

    Raises:
        UserError: not a number, negative, infinite or NaN.
    """
    try:
        numerator, slash, denominator = str(value).partition("/")
        radius = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{name}: {value!r} is not a radius; write a number such as 0.03 or 8/255") from None
    if not math.isfinite(radius) or radius < 0:
        raise UserError(f"{name}: {value!r} must be a finite number, 0 or larger")
    return radius


def parse_radii(value: str | float | Iterable[str | float], name: str = "eps") -> list[float]:
    """Read a list of ascending radii: "2/255,4/255", or a sequence.

    Raises:
        UserError: as `parse_radius`; or an empty list, a radius that stands twice, or one out of order.
    """
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else list(value)
    radii = [parse_radius(part, name) for part in parts]
    if not radii:
        raise UserError(f"{name}: give at least one radius, such as 8/255")
    for before, after, text in zip(radii, radii[1:], parts[1:], strict=False):
        if after == before:
            raise UserError(f"{name}: {str(text).strip()} stands twice")
        if after < before:
            raise UserError(f"{name}: {str(text).strip()} is out of order; write radii from small to large")
    return radii


def format_radius(eps: float) -> str:
    """Write a radius the way the field does: "8/255" where it is a whole number of 255ths, else decimals."""
    grey_levels = eps * 255
    if eps and abs(grey_levels - round(grey_levels)) < 1e-4:
        return f"{round(grey_levels)}/255"
    return f"{eps:g}"
