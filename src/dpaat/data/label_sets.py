"""Multi-label data: how labels are read, written as text, counted, and divided over splits.

Labels are `(N, K)`, int8: 1 yes, 0 no, -1 unknown. An unknown label is neither learned from nor scored.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data import frames
from dpaat.errors import UserError, unknown

UNCERTAIN = {"ignore": -1, "zeros": 0, "ones": 1}
"""What becomes of a label that is -1 in the data, as CheXpert writes doubt."""
CELLS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": 0}
NONE = "no finding"
BETWEEN, NOTHING = "|", "no label"


def from_columns(path: Path, frame: pd.DataFrame, names: Sequence[str], uncertain: str) -> tuple[np.ndarray, list[str]]:
    """Read a column of 1, 0 and -1 for each label, and say what was made of empty cells and of -1."""
    if uncertain not in UNCERTAIN:
        raise unknown("value of uncertain", uncertain, UNCERTAIN)
    for name in names:
        frames.refuse_rows(path, frame[name], ~frame[name].isin([*CELLS]), f"{name} is {{}}; write 1, 0 or -1 (unsure)")
    labels = frame[list(names)].apply(lambda column: column.map(CELLS)).to_numpy(dtype=np.int8, copy=True)
    empty, unsure = int((frame[list(names)] == "").to_numpy().sum()), int((labels < 0).sum())
    labels[labels < 0] = UNCERTAIN[uncertain]
    become = {"ignore": "are ignored", "zeros": "count as 0", "ones": "count as 1"}[uncertain]
    said = [f"{empty:,} empty cells of labels count as 0"] * (empty > 0)
    return labels, [*said, *[f"{unsure:,} uncertain labels (-1) {become}"] * (unsure > 0)]


def from_lists(path: Path, cells: pd.Series) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Read names with | or ; between them: the labels there are, whether each image has them, and what "none" was.

    Names that say that there is nothing, as `frames.MISSING`, are none. UserError for a column of 0 and 1.
    """
    lists = [[part.strip() for part in re.split("[|;]", text)] for text in cells]
    lists = [[name for name in names if not (frames.is_missing(name) or name.casefold() == NONE)] for names in lists]
    classes = frames.class_order(name for names in lists for name in names)
    if classes and {*classes} <= {"0", "1"}:
        raise UserError(f"{path}: column {cells.name!r} holds 0 and 1, which are two classes; call it label")
    number = {name: k for k, name in enumerate(classes)}
    labels = np.zeros((len(lists), len(classes)), dtype=np.int8)
    for row, names in enumerate(lists):
        labels[row, [number[name] for name in names]] = 1
    none = sum(not names for names in lists)
    return classes, labels, [f"{none:,} images have none of the labels (empty, missing, or 'No Finding')"] * (none > 0)


def as_text(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Labels as text, such as "mass|nodule|edema=?" where the last one is unknown; "no label" for none."""
    rows = ((classes[k] + ("=?" if row[k] < 0 else "") for k in np.flatnonzero(row).tolist()) for row in labels)
    return [BETWEEN.join(row) or NOTHING for row in rows]


def from_text(texts: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    """Read what `as_text` wrote, `(N, K)`; ValueError for a name that is none of the classes."""
    value = {name: (k, 1) for k, name in enumerate(classes)} | {f"{n}=?": (k, -1) for k, n in enumerate(classes)}
    rows = [[value.get(part, (-1, 0)) for part in text.split(BETWEEN) if part != NOTHING] for text in texts]
    labels = np.zeros((len(rows), len(classes)), dtype=np.int8)
    for row, cells in enumerate(rows):
        for k, answer in cells:
            if k < 0:
                raise ValueError(f"row {row} holds an unknown label")
            labels[row, k] = answer
    return labels


def numbers(names: Iterable[str], classes: Sequence[str], *, several: bool) -> np.ndarray:
    """Classes `(N,)`, or of `several` labels an image `(N, K)`, by name; ValueError for one that is unknown."""
    return from_text(names, classes) if several else np.array([*map(list(classes).index, names)], dtype=np.int64)


def members(labels: np.ndarray, k: int) -> np.ndarray:
    """The images of a class or label, `(N,)` bool; `labels` are `(N,)` or `(N, K)`."""
    return np.asarray(labels == k if labels.ndim == 1 else labels[:, k] == 1)


def count(labels: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Images of each class, or with each label, by name."""
    found = np.bincount(labels, minlength=len(classes)) if labels.ndim == 1 else (labels == 1).sum(axis=0)
    return dict(zip(classes, found.tolist(), strict=True))


def fold_of(labels: np.ndarray, groups: np.ndarray, folds: int, k: int, seed: int) -> np.ndarray:
    """Which of the rows `(n,)` are in fold k, from 1: folds alike in every label, and no group in two.

    Greedy: groups with the rarest labels come first, each into the fold that lacks most of its rarest label, and among
    equals most images. K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the stratification of multi-label data", ECML 2011,
    here for groups and with the rarity of labels counted once.
    """
    _, member = np.unique(groups, return_inverse=True)
    has = np.column_stack([labels == 1, np.ones(len(labels))])
    holds = np.zeros((member.max() + 1, has.shape[1]))
    np.add.at(holds, member, has)  # of each group: images with each label, and images
    total = holds.sum(axis=0)
    rarest = np.where(holds > 0, total, np.inf).argmin(axis=1)
    shuffled = np.random.RandomState(seed).permutation(len(holds))
    wanted, fold = np.tile(total / folds, (folds, 1)), np.empty(len(holds), dtype=np.int64)
    for group in shuffled[np.argsort(total[rarest[shuffled]], kind="stable")]:
        fold[group] = np.lexsort((wanted[:, -1], wanted[:, rarest[group]]))[-1]
        wanted[fold[group]] -= holds[group]
    return np.asarray(fold[member] == k - 1)
