"""What is probably wrong with a dataset, in lines: for `dpaat data check`, training, evaluation and report alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from dpaat.data import PreparedData
from dpaat.data.images import EIGHT
from dpaat.data.splits import leaks
from dpaat.data.table import ImageTable
from dpaat.data.values import FULL, fitting_window
from dpaat.errors import listed

FLAT, DARK, DIM, FAINT = 2, 16, 64, 32
"""Grey levels of 255: the range of an image without content, the maximum of one that is near black, the maximum of a
set that uses less than a quarter of the range, and the range of the images in a set without contrast."""


def warnings_of(data: PreparedData, *, trained: bool = True) -> list[str]:
    """All that is suspicious in a dataset which is decoded; in its split, too, if a model is trained on one side."""
    split = dict(zip(data.ids.tolist(), data.split.tolist(), strict=True))
    brightest, ranges = zip(*(levels(image) for image in data.images), strict=True)
    return [
        *data.table.warnings,
        *leak_lines(leaks(data.table, data.split, data.digests) if trained else [], split),
        *contrary_lines(identical(data.table, data.digests)[1]),
        *brightness_lines(
            data.ids, np.array(brightest), np.array(ranges), plain=data.window == FULL and data.kinds == (EIGHT,)
        ),
        *stack_lines(data.stacks),
    ]


def levels(image: np.ndarray) -> tuple[int, int]:
    """Largest value of an image (C, H, W), uint8, and its range in the channel where that is widest."""
    flat = image.reshape(len(image), -1)
    return int(flat.max()), int((flat.max(axis=1).astype(int) - flat.min(axis=1)).max())


def leak_lines(found: Iterable[tuple[str, str, str]], split: dict[str, str]) -> list[str]:
    """Sum up what `leaks` found, a line for each reason."""
    found = list(found)
    lines = []
    for reason, count in Counter(reason for _, _, reason in found).items():
        pairs = [(a, b) for a, b, why in found if why == reason]
        a, b = next((pair for pair in pairs if {split[name] for name in pair} == {"train", "test"}), pairs[0])
        lines.append(
            f"{reason} on two sides of the split: {count} case(s), such as {a} ({split[a]}) and {b} ({split[b]}); "
            "scores on them are too high"
        )
    return lines


def identical(table: ImageTable, digests: Iterable[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Ids of images of the same content, in sets of two and more; and those sets whose images differ in class."""
    together: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for digest, name, label in zip(digests, table.ids.tolist(), table.labels.tolist(), strict=True):
        together[digest].append((name, label))
    sets = [rows for rows in together.values() if len(rows) > 1]
    contrary = [rows for rows in sets if len({label for _, label in rows}) > 1]
    return [[name for name, _ in rows] for rows in sets], [[name for name, _ in rows] for rows in contrary]


def contrary_lines(contrary: list[list[str]]) -> list[str]:
    """Report what `identical` found last."""
    return [f"identical images of different classes: {len(contrary)}: {' = '.join(contrary[0])}"] if contrary else []


def brightness_lines(ids: np.ndarray, brightest: np.ndarray, ranges: np.ndarray, *, plain: bool) -> list[str]:
    """Report images without content, and a set that is dark or pale as a whole.

    Args:
        ids: of the images.
        brightest: the first number of `levels` of each.
        ranges: the second one.
        plain: whether the grey levels are the values in the files.
    """
    low, top = int((brightest - ranges).min()), int(brightest.max())
    if ranges.max() > 0 and (top < DIM or ranges.max() < FAINT):
        what = "is dark" if top < DIM else "has little contrast"
        option = fitting_window(low, top, whole=True) if plain else "another --window, such as percentile:0.5,99.5"
        return [
            f"the whole set {what}: values lie in {low} to {top} of 255; if the files use no more of their range, give "
            f"{option}"
        ]
    constant = ranges <= FLAT
    dark = (brightest <= DARK) & ~constant
    return [
        f"{what} images: {mask.sum()} of {len(ids)}: {listed(ids[mask].tolist())}"
        for what, mask in (("constant", constant), ("near-black", dark))
        if mask.any()
    ]


def stack_lines(names: Iterable[str]) -> list[str]:
    """Report files of which only the first frame is read."""
    names = list(names)
    return [f"files of several frames, of which only the first is read: {len(names)}: {listed(names)}"] if names else []
