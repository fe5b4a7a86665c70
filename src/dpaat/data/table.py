"""Table of encoded images: the one form in which every dataset reaches the rest of the package."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from dpaat.data.frames import twins
from dpaat.data.label_sets import BETWEEN, NOTHING, as_text, members
from dpaat.errors import UserError, require_printable

SPLITS = ("train", "val", "test")
MIN_CLASSES, MAX_CLASSES = 2, 100
UNGROUPED = "no group column: every image counts as independent"
Encoded = bytes | np.ndarray  # an image file's bytes, or uint8 pixels (H, W) or (H, W, C)


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Images that are still encoded, with their labels and what is known about them.

    Columns of `frame`, whose index is a RangeIndex: `id` (unique str), `label` (int, an index of `classes`; where an
    image has several, a tuple of 1, 0 and -1, unknown, for each of `classes`), `group` (str; images of one group never
    be in two splits); where known also `split` ("train", "val" or "test"), `age` (float, years), `sex`, `site`,
    `source` (str).
    """

    name: str  # the kind of dataset, such as "ham10000"
    spec: str  # the dataset as the user wrote it
    frame: pd.DataFrame  # one row per image
    classes: tuple[str, ...]  # in the order of the labels
    channels: int  # 1 for grey images, 3 for RGB
    read: Callable[[int], Encoded]  # by row number; called from several threads at once
    describe: Callable[[int], str]  # row number to the name a message should show
    read_mask: Callable[[int], Encoded] | None = None  # the lesion mask, nonzero inside; KeyError for a row without one
    near_duplicates: tuple[tuple[str, str], ...] = ()  # ids that must stay in one split
    licence: str = ""  # terms of use of the data
    citation: str = ""  # what to cite
    pseudonyms: bool = False  # groups are called by keyed hashes, which differ between machines
    synthetic: bool = False  # generated images, which every output has to say
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # a clinic's yes-no questions to the classes of yes
    notes: tuple[str, ...] = ()  # what a reader of results has to know about the dataset, a line each
    warnings: tuple[str, ...] = ()  # what is probably wrong, a line each; problems to `dpaat data check`
    multilabel: bool = False  # whether an image has several labels, which `classes` then are, or none

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def ids(self) -> np.ndarray:
        """Image ids, (N,) of str."""
        return self.frame["id"].to_numpy(dtype=str)

    @property
    def labels(self) -> np.ndarray:
        """Class numbers, (N,) int64; or answers to each label, (N, K) int8: 1, 0, or -1 for unknown."""
        if self.multilabel:
            return np.array(self.frame["label"].tolist(), dtype=np.int8).reshape(len(self), len(self.classes))
        return self.frame["label"].to_numpy(dtype=np.int64)

    @property
    def label_names(self) -> list[str]:
        """The class of each image, or its labels as `dpaat.data.label_sets.as_text` writes them."""
        labels = self.labels
        return as_text(labels, self.classes) if self.multilabel else np.array(self.classes)[labels].tolist()


def tasks_of(table: ImageTable) -> dict[str, tuple[str, ...]]:
    """Binary questions to ask of a dataset: its own; with none and two classes, whether it is the second; else none."""
    if table.tasks or len(table.classes) != 2 or table.multilabel:
        return table.tasks
    return {table.classes[1]: (table.classes[1],)}


def in_order(table: ImageTable, classes: Sequence[str]) -> ImageTable:
    """Number the classes as given, where they are the table's own in another order; else return the table unchanged."""
    if tuple(classes) == table.classes or sorted(classes) != sorted(table.classes):
        return table
    if table.multilabel:
        columns = table.labels[:, [table.classes.index(name) for name in classes]]
        return replace(
            table, classes=tuple(classes), frame=table.frame.assign(label=pd.Series([*map(tuple, columns.tolist())]))
        )
    number = np.array([list(classes).index(name) for name in table.classes], dtype=np.int64)
    return replace(table, classes=tuple(classes), frame=table.frame.assign(label=number[table.labels]))


def validate(table: ImageTable) -> ImageTable:
    """Return the table unchanged; UserError if it cannot be learned from.

    That is with no images, fewer than 2 or more than 100 classes, two classes whose names differ in spelling only, an
    id given twice, or a name that cannot be shown.
    """
    if not len(table):
        raise UserError(f"{table.spec}: no images")
    if not MIN_CLASSES <= len(table.classes) <= MAX_CLASSES:
        raise UserError(
            f"{table.spec}: {len(table.classes)} class(es); between {MIN_CLASSES} and {MAX_CLASSES} are supported"
        )
    if pair := twins(table.classes):
        show = ascii if len({unicodedata.normalize("NFC", name) for name in pair}) == 1 else repr
        with_it = [members(table.labels, table.classes.index(name)) for name in pair]
        examples = [next(iter(table.ids[rows]), "-") for rows in with_it]
        places = [f"{show(name)} (such as {image})" for name, image in zip(pair, examples, strict=True)]
        raise UserError(f"{table.spec}: classes {' and '.join(places)} differ in spelling only; give them one name")
    if table.multilabel and (
        odd := [name for name in table.classes if BETWEEN in name or name.endswith("=?") or name == NOTHING]
    ):
        raise UserError(f"{table.spec}: label {odd[0]!r} contains the separator of labels; give it another name")
    repeated = table.frame["id"].duplicated()
    if repeated.any():
        first = table.frame["id"][repeated].iloc[0]
        raise UserError(f"{table.spec}: image {first!r} is listed twice ({repeated.sum()} such rows); remove them")
    texts = [name for name in ("id", "group", "sex", "site", "source") if name in table.frame]
    for names in (table.classes, [table.name], *(table.frame[text].tolist() for text in texts)):
        require_printable(names, table.spec)
    return table
