"""Intensity windowing: which values of the pixels become black and white, for a set of images as a whole."""

import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dpaat.data.images import OWN, WHITE_16, Reading
from dpaat.data.scan import BARE, COLOUR_16, DICOM, EIGHT, FLOAT, Window
from dpaat.errors import UserError

AUTO, FULL = "auto", "full"
QUANTILES = 1001
Quantiles = Callable[[np.ndarray, int], np.ndarray]  # row numbers (N,) and a count to quantiles of values, (N, count)


def parse_window(text: str) -> tuple[str, Window]:
    """Read `auto`, `full`, `own`, `bits:N`, `LO,HI` or `percentile:LO,HI`; UserError for anything else.

    Returns "auto", "full", "own", "range" or "percentile", and the two numbers of the latter ones; `bits:N` is the
    range from 0.
    """
    kind, _, rest = text.strip().rpartition(":")
    if not kind and rest in (AUTO, FULL, OWN):
        return rest, (0.0, 0.0)
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    if kind == "bits" and len(numbers) == 1 and numbers[0] in range(1, 33):
        return "range", (0.0, 2.0 ** numbers[0] - 1)
    least, most = (0, 100) if kind == "percentile" else (-sys.float_info.max, sys.float_info.max)
    if kind in ("", "percentile") and len(numbers) == 2 and least <= numbers[0] < numbers[1] <= most:
        return kind or "range", (numbers[0], numbers[1])
    raise UserError(
        f"window {text!r}: write auto, full, own, bits:N (N from 1 to 32), LO,HI with LO below HI, or percentile:LO,HI "
        "(from 0 to 100)"
    )


def window_range(resolved: str) -> Reading:
    """The two values of a window that `resolve_window` returned; None for "full", and "own" as it is."""
    return None if resolved == FULL else OWN if resolved == OWN else parse_window(resolved)[1]


def resolve_window(
    asked: str, kinds: Sequence[str], quantiles: Quantiles, *, spec: str, known: Iterable[str] = ()
) -> str:
    """Decide on the window of a set: "full", "own" (that of each DICOM file), or "LO,HI".

    Percentiles are those of all images of the set, each counted alike. With `auto`, images of more than 8 bits take
    the whole range of their type, unless they use a small part of it: in half of them, 99 % of the pixels stay within a
    quarter of it above the smallest value of all. DICOM files that name a window take it with `auto`, where the model
    was not trained on such files otherwise.

    `kinds` are those of each image (`pixel_kind`), `known` those that a model was trained on: its window fits these,
    and the whole range needs no check; `quantiles` are asked for only if need be. Raises UserError: floating-point or
    signed values, or a small part of the range, under `auto`; images of several kinds, or of another kind than `known`,
    under one range of values.
    """
    mode, numbers = parse_window(asked)
    found = np.asarray(kinds)
    different, known = ({DICOM if kind == BARE else kind for kind in some} for some in (kinds, known))
    strange = sorted(different - known)
    if mode == AUTO and DICOM in kinds and DICOM in strange:
        mode = OWN
    if mode in (AUTO, FULL):
        for kind in sorted({*kinds}) if mode == AUTO else ():
            if kind != EIGHT and (DICOM if kind == BARE else kind) in strange:
                _check_range(kind, quantiles(np.flatnonzero(found == kind), 101), spec)
        return FULL
    if known and strange:
        raise UserError(
            f"{spec}: {strange[0]} pixels, but the model was trained on {' and '.join(sorted(known))} ones in the "
            f"window {asked}; save the images in the same form, or say with --window how they are to be read"
        )
    if mode == OWN:
        if lacking := [kind for kind in kinds if kind not in (DICOM, EIGHT)]:
            raise UserError(
                f"{spec}: {len(lacking)} of {len(kinds)} images name no window of their own (pixels: {lacking[0]}); "
                "give --window LO,HI in the values of the pixels, or percentile:LO,HI"
            )
        return OWN
    if COLOUR_16 in kinds:
        raise UserError(f"{spec}: no window can be set for colour images of 16 bits; save them as 8-bit")
    if len(different) > 1:
        counts = ", ".join(f"{(found == kind).sum()} of {kind} pixels" for kind in sorted({*kinds}))
        raise UserError(f"{spec}: one window cannot fit images of several kinds ({counts}); save them in one form")
    if EIGHT in kinds and mode == "range" and numbers[1] > 255:
        raise UserError(f"{spec}: 8-bit pixels reach 255, so --window {asked} would leave them dark; give another one")
    if mode == "percentile":
        low, high = np.percentile(quantiles(np.arange(len(kinds)), QUANTILES), numbers).tolist()
        if not low < high:
            raise UserError(f"{spec}: both percentiles of --window {asked} are {low:.10g}; take them further apart")
        numbers = (low, high)
    return ",".join(f"{number:.9g}" for number in numbers)


def fitting_window(low: float, high: float, *, whole: bool) -> str:
    """The option for values in a range, which are whole numbers or not."""
    if whole and 0 <= low <= high / 2:
        return f"--window bits:{max(1, int(high).bit_length())}"
    for first, last in ((0, 1), (-1, 1), (0, 255), (0, 4095), (0, WHITE_16)):
        if first <= low and high <= last and not whole:
            return f"--window={first},{last}"
    return f"--window={low:.10g},{high:.10g} or --window percentile:0.5,99.5"


def _check_range(kind: str, values: np.ndarray, spec: str) -> None:
    low, high, usual = values[:, 0].min(), values[:, -1].max(), float(np.median(values[:, -2]))
    white = 255 if kind == COLOUR_16 else WHITE_16
    positive = kind != FLOAT and low >= 0 and high <= white
    if positive and usual - low >= white / 4:
        return
    lie, dark = f"values lie in {low:.10g} to {high:.10g}", ", or --window full if they are meant to be so dark"
    if kind == COLOUR_16:
        said = f"their upper 8 bits lie in 0 to {high:.10g} of 255; save them as 8-bit colour that uses the whole range"
    elif positive and usual < white / 4 <= high:  # a few bright spots
        said = f"{lie}, but 99 % of half of the images below {usual:.10g}: give --window percentile:0.5,99.5{dark}"
    else:
        option = fitting_window(float(low), float(high), whole=kind != FLOAT)
        said = f"{lie}: give {option}{dark if positive else ''}"
    raise UserError(f"{spec}: {len(values)} images of {kind} pixels: {said}")
