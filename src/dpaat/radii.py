"""Perturbation radii as people write them: 0.03, 8/255."""

import math
from collections.abc import Iterable

from dpaat.errors import BadValueError, UserError

DEFAULT_RADII = {"linf": (1 / 255, 2 / 255, 4 / 255, 8 / 255), "l2": (0.25, 0.5, 1.0, 2.0)}
"""Radii to measure at."""
L2_PER_LINF = DEFAULT_RADII["l2"][0] / DEFAULT_RADII["linf"][0]
"""What a default radius in Linf is multiplied by in L2: n/255 is n/4 there."""


def check_radius(
    value: float, norm: str, *, pixels: int | None = None, name: str = "eps", text: str = "", most: float = 1.0
) -> None:
    """Refuse a radius beyond the range of an image in [0, 1]: it is a slip, mostly of the unit.

    `pixels` are the values of an image, C * H * W; None leaves L2 without an upper end, which is sqrt(pixels), the
    diameter of the box, else. `most` is the upper end in parts of the image's range. `name` and `text` tell the error
    where the radius came from, and how it was written. Raises BadValueError: an unknown norm, or a radius that is
    negative, NaN, infinite, or too large.
    """
    if norm not in ("linf", "l2"):
        raise BadValueError(f"norm must be linf or l2, not {norm!r}")
    text = text or f"{value:g}"
    if not math.isfinite(value) or value < 0:
        raise BadValueError(f"{name}: {text} must be a finite number, 0 or larger")
    largest = most if norm == "linf" else math.inf if pixels is None else most * math.sqrt(pixels)
    if value > largest * (1 + 1e-6):  # float32 rounds
        meant = f"; did you mean {text}/255?" if "/" not in text and value / 255 <= largest else ""
        distance = f"the largest {norm} distance of two images in [0, 1]"
        raise BadValueError(f"{name}: {text} is more than {largest:.4g}, {distance}{meant}")


def parse_radius(value: str | float, name: str = "eps", norm: str = "linf", *, pixels: int | None = None) -> float:
    """Read a radius in units of a [0, 1] image from a number or text such as "0.03" or "8/255"; see `check_radius`.

    Raises UserError: not a number, or one that `check_radius` refuses.
    """
    try:
        numerator, slash, denominator = str(value).partition("/")
        radius = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{name}: {value!r} is not a radius; write a number such as 0.03 or 8/255") from None
    check_radius(radius, norm, pixels=pixels, name=name, text=value.strip() if isinstance(value, str) else "")
    return radius


def parse_radii(
    value: str | float | Iterable[str | float], name: str = "eps", norm: str = "linf", *, pixels: int | None = None
) -> list[float]:
    """Read a list of ascending radii: "2/255,4/255", or a sequence.

    Raises UserError: as `parse_radius`; or an empty list, a radius that is given twice, or one out of order.
    """
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else list(value)
    radii = [parse_radius(part, name, norm, pixels=pixels) for part in parts]
    if not radii:
        raise UserError(f"{name}: give at least one radius, such as 8/255")
    for before, after, text in zip(radii, radii[1:], parts[1:], strict=False):
        if after <= before:
            fault = "is given twice" if after == before else "is out of order; write radii from small to large"
            raise UserError(f"{name}: {str(text).strip()} {fault}")
    return radii


def default_radius(eps: float, norm: str) -> str:
    """Text of a default radius, given in Linf, in the run's norm: "4/255", or "1" in L2."""
    return f"{round(eps * 255)}/255" if norm == "linf" else f"{eps * L2_PER_LINF:g}"


def format_radius(eps: float) -> str:
    """Write a radius the way the field does: "8/255" where it is a whole number of 255ths, else decimals.

    Whole fifths, such as 0.2 and 1, are decimals: they are 255ths by chance, mostly in L2.
    """
    return f"{eps:g}" if abs(5 * eps - round(5 * eps)) < 1e-6 else radius_name(eps)


def radius_name(eps: float) -> str:
    """Write a radius as the names of metrics in `metrics.csv` have it, which resumed runs must keep: 1 is "255/255"."""
    grey_levels = eps * 255
    whole = eps and abs(grey_levels - round(grey_levels)) < 1e-4
    return f"{round(grey_levels)}/255" if whole else f"{eps:g}"
