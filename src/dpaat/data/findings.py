"""Data warnings, a line each: for `dpaat data check`, training, evaluation and report."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from dpaat.data import PreparedData
from dpaat.data.scan import EIGHT
from dpaat.data.splits import leaks
from dpaat.data.table import ImageTable
from dpaat.data.values import FULL, fitting_window
from dpaat.errors import listed

FLAT, DARK, DIM, FAINT = 2, 16, 64, 32
"""Grey levels of 255: the range of an image without content, the maximum of one that is near black, the maximum of a
set that uses less than a quarter of the range, and the range of the images in a set without contrast."""


def warnings_of(data: PreparedData, *, trained: bool = True) -> list[str]:
    """All that is suspicious in a dataset which is decoded; in its split, too, if a model is trained on one side.

    Images are identical if they are so as the network sees them, whatever files they come from.
    """
    found = leaks(data.table, data.split, data.pixels) if trained else []
    plain = data.window == FULL and data.kinds == (EIGHT,)
    return [
        *data.table.warnings,
        *leak_lines(found, dict(zip(data.ids.tolist(), data.split.tolist(), strict=True))),
        *contrary_lines(identical(data.table, data.pixels)[1]),
        *brightness_lines(data.ids, list(map(levels, data.images)), plain=plain),
        *stack_lines(data.stacks),
    ]


def levels(image: np.ndarray) -> tuple[int, int]:
    """Largest value of an image (C, H, W), uint8, and its range in the channel where that is widest."""
    flat = image.reshape(len(image), -1)
    return int(flat.max()), int((flat.max(axis=1).astype(int) - flat.min(axis=1)).max())


def leak_lines(found: Iterable[tuple[str, str, str]], side: dict[str, str]) -> list[str]:
    """Sum up what `leaks` found, a line for each reason; the example is one of training and test if there is one."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for a, b, reason in found:
        pairs[reason].append((a, b))
    lines = []
    for reason, cases in pairs.items():
        a, b = next((pair for pair in cases if {side[name] for name in pair} == {"train", "test"}), cases[0])
        lines.append(
            f"{reason} on two sides of the split: {len(cases)} case(s), such as {a} ({side[a]}) and {b} ({side[b]}); "
            "scores on them are too high"
        )
    return lines


def identical(table: ImageTable, digests: Iterable[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Ids of images of the same content, in sets of two and more; and those sets whose images differ in class."""
    frame = table.frame[["id", "label"]].assign(digest=list(digests))
    again = frame[frame["digest"].duplicated(keep=False)]
    sets = [rows for _, rows in again.groupby("digest", sort=False)]
    contrary = [rows for rows in sets if rows["label"].nunique() > 1]
    return [rows["id"].tolist() for rows in sets], [rows["id"].tolist() for rows in contrary]


def contrary_lines(contrary: list[list[str]]) -> list[str]:
    """Report what `identical` found last."""
    return [f"identical images of different classes: {len(contrary)}: {' = '.join(contrary[0])}"] if contrary else []


def brightness_lines(ids: np.ndarray, found: Sequence[tuple[int, int]], *, plain: bool) -> list[str]:
    """Report images without content, and a set that is dark or pale as a whole, by the `levels` of each.

    `plain` tells whether the grey levels are the values in the files.
    """
    brightest, ranges = np.array(found).T
    low, top = int((brightest - ranges).min()), int(brightest.max())
    if ranges.max() > 0 and (top < DIM or ranges.max() < FAINT):
        what = "is dark" if top < DIM else "has little contrast"
        option = fitting_window(low, top, whole=True) if plain else "another --window, such as percentile:0.5,99.5"
        said = f"values lie in {low} to {top} of 255; if the files use no more of their range, give {option}"
        return [f"the whole set {what}: {said}"]
    constant = ranges <= FLAT
    return [
        f"{what} images: {mask.sum()} of {len(ids)}: {listed(ids[mask].tolist())}"
        for what, mask in (("constant", constant), ("near-black", (brightest <= DARK) & ~constant))
        if mask.any()
    ]


def stack_lines(names: Sequence[str]) -> list[str]:
    """Report files of which only the first frame is read."""
    return [f"files of several frames, of which only the first is read: {len(names)}: {listed(names)}"] if names else []
