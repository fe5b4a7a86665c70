"""Mean, standard deviation and range of the values that a network was trained on: stated, stored, or timm's."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpaat.errors import UserError

Numbers = str | float | Sequence[float] | None
UNIT = (0.0, 1.0)
_HINT = "; did you mean --input-range 0-255?"


@dataclass(frozen=True)
class Stated:
    """Stated range and normalization of a network's input; None where nothing is said.

    Mean and std, of 1 or C values, are in the unit of the range, which goes from the least to the largest of a pixel.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    range: tuple[float, float] | None


def parse_normalization(mean: Numbers, std: Numbers, input_range: str | None) -> Stated:
    """Read the options mean, std and input_range; UserError where they cannot be meant so."""
    means, deviations = _numbers(mean, "mean"), _numbers(std, "std")
    bounds = None if input_range is None else _range(input_range)
    if (means is None) != (deviations is None):
        raise UserError("mean and std belong together: give both; 0 and 1 for values that are not normalized")
    if deviations is not None and min(deviations) <= 0:
        raise UserError(f"std: {std} must be above 0")
    if means is not None and deviations is not None:
        low, high = bounds or UNIT
        _check_mean(means, (low, high), "mean")
        if max(deviations) > high - low:
            raise UserError(f"std: {std} is more than the input range {low:g}-{high:g}" + _HINT * (bounds is None))
        if high - low > 2 and max(deviations) < 1 and max(means) <= 1:
            raise UserError(
                f"mean: {mean} and std {std} look like those of values in 0-1, but count in the input range "
                f"{low:g}-{high:g}; give them in its unit"
            )
    return Stated(means, deviations, bounds)


def normalization(
    stated: Stated,
    stored: Sequence[tuple[Tensor, Tensor]],
    default: tuple[Sequence[float], Sequence[float]],
    *,
    channels: int,
    unit: bool,
    place: str = "",
) -> tuple[Tensor, Tensor, str]:
    """Decide on mean and std; what the file says wins and must agree with what is stated.

    `stored` are the different pairs of mean and std in the file, each of 1 or C values, which count in [0, 1] where
    `unit` says so, whatever is stated. Returns mean and std `(C,)` for images in [0, 1], and where they come from;
    UserError for numbers of a wrong count, out of the range, or that contradict one another.
    """
    bounds = stated.range or UNIT
    said = None
    if stated.mean is not None and stated.std is not None:
        for name, values in (("mean", stated.mean), ("std", stated.std)):
            if len(values) not in (1, channels):
                raise UserError(f"{name}: {len(values)} values for {channels} channels; give 1 or {channels}")
        said = _in_unit(torch.tensor(stated.mean), torch.tensor(stated.std), bounds)
    elif bounds != UNIT:
        said = _in_unit(torch.zeros(1), torch.ones(1), bounds)  # values in that range enter as they are
    if stored:
        if len(stored) > 1 and said is None:
            pairs = "; ".join(f"{mean.tolist()} / {std.tolist()}" for mean, std in stored)
            raise UserError(f"{place}: holds several pairs of mean and std ({pairs}); say which with --mean and --std")
        scale = UNIT if unit else bounds
        for mean, _ in () if unit else stored:
            _check_mean(mean.tolist(), scale, f"{place}: mean")
        found = [_in_unit(mean, std, scale) for mean, std in stored]
        states = stated.mean is not None or (unit and said is not None)
        agreeing = [pair for pair in found if not states or (said is not None and _close(pair, said))]
        if not agreeing:
            means, deviations = (part.tolist() for part in found[0])
            raise UserError(
                f"{place}: was trained with mean {means} and std {deviations} of values in 0-1, as the file says; "
                "leave --mean, --std and --input-range out"
            )
        chosen, source = agreeing[0], "of the file"
    elif said is not None:
        chosen, source = said, "as given" if stated.mean is not None else "none"
    else:
        chosen, source = (torch.tensor(tuple(default[0])), torch.tensor(tuple(default[1]))), "of timm"
    return _per_channel(chosen[0], channels), _per_channel(chosen[1], channels), source


def _in_unit(mean: Tensor, std: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    if bounds == UNIT:
        return mean, std  # to the last bit
    low, high = bounds
    return (mean.double() - low).div(high - low).float(), std.double().div(high - low).float()


def _close(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(bool((a - b).abs().max() < 1e-3) for a, b in zip(one, other, strict=True))


def _per_channel(values: Tensor, channels: int) -> Tensor:
    values = values.float()
    return values if len(values) == channels else values.mean().repeat(channels)


def _numbers(given: Numbers, name: str) -> tuple[float, ...] | None:
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int | float) else list(given)
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {given!r} is not a list of numbers such as 0.485,0.456,0.406") from None
    if not numbers or not all(map(math.isfinite, numbers)):
        raise UserError(f"{name}: {given} must be finite numbers")
    return numbers


def _range(text: str) -> tuple[float, float]:
    # A minus may begin either number; the one between them follows a digit or a point.
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)"
    match = re.fullmatch(rf"\s*({number})\s*[-,:]\s*({number})\s*", str(text))
    if match is None or not float(match[1]) < float(match[2]):
        raise UserError(f"input_range: {text!r} is not a range such as 0-255, 0-1 or -1-1")
    return float(match[1]), float(match[2])


def _check_mean(mean: Sequence[float], bounds: tuple[float, float], name: str) -> None:
    low, high = bounds
    if not all(low <= value <= high for value in mean):
        hint = _HINT if bounds == UNIT and max(mean) > 1 else ""
        raise UserError(
            f"{name} {', '.join(f'{v:g}' for v in mean)} lies outside of the input range {low:g}-{high:g}{hint}"
        )
