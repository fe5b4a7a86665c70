"""Images listed in a CSV file with their labels."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import FileReader, ImageFile, existing, is_file, located, peek_channels
from dpaat.data.frames import metadata, read_text_table, rows_of, unused_groups
from dpaat.data.names import class_order, is_missing, is_windows_path, order_notes, split_name, twins
from dpaat.data.registry import register_dataset
from dpaat.data.table import UNGROUPED, ImageTable
from dpaat.errors import UserError, listed

METADATA = ("age", "sex", "site", "source")
COLUMNS = ("path", "label", "group", "split", "mask", *METADATA)
# Columns that someone who splits by hand has, and that mean nothing here.
SPLIT_LIKE = ("splits", "set", "subset", "partition", "phase", "fold", "folds", "usage", "dataset_split", "data_split")


@register_dataset("csv", "csv:FILE.csv[,group=COLUMN]", "a table of paths and labels")
def load(argument: str, spec: str) -> ImageTable:
    """Read a CSV file with the columns `path` and `label`.

    Paths are relative to the file's own folder. Optional columns: `group` (images of one patient or lesion), `split`
    (train, val or test, or as `dpaat.data.names.SPLIT_NAMES` has it), `age`, `sex`, `site`, `source`, `mask` (an image
    that is not black inside the lesion; empty where there is none). Classes are the labels, in numerical order if all
    are numbers, else in alphabetical order.

    Args:
        argument: the CSV file; with `,group=COLUMN` another column than `group` tells what belongs together.
        spec: the dataset as the user wrote it.

    Raises:
        UserError: anything missing or wrong in the file, multi-label, or an absent image.
    """
    file, _, group = argument.rpartition(",group=") if ",group=" in argument else (argument, "", "group")
    path = existing(file, spec, kind="file", scheme="csv:FILE.csv[,group=COLUMN]")
    frame = _named(read_text_table(path))
    _refuse_one_hot(path, frame)
    needed = ("path", "label", *([group] if group != "group" else []))
    if missing := [column for column in needed if column not in frame]:
        raise UserError(
            f"{path}: no column {missing[0]!r} (columns found: {', '.join(frame.columns)}); add it or rename one"
        )
    for column in ("path", "label"):
        empty = frame[column].map(is_missing)
        if empty.any():
            raise UserError(
                f"{path}: {rows_of(frame, empty)}: {column} is empty or missing ({frame[column][empty].iloc[0]!r}); "
                "fill it in, or remove the row"
            )
    labels = set(frame["label"])
    several = frame["label"].map(
        lambda text: bool(re.search(r"[|;]|^\[.*\]$", text)) or ("," in text and {*re.split(", ?", text)} <= labels)
    )
    if several.any():
        raise UserError(
            f"{path}: {rows_of(frame, several)}: label {frame['label'][several].iloc[0]!r} looks like several labels; "
            "multi-label is out of scope, give one label per image"
        )
    files = _files(path, frame["path"])
    masks = _masks(path, frame)
    classes = class_order(frame["label"])
    alone = frame[group].map(is_missing) if group in frame else pd.Series(True, frame.index)
    kept, problems = metadata(frame, {name: name for name in METADATA})
    columns: dict[str, pd.Series] = {
        "id": frame["path"],
        "label": frame["label"].map(classes.index).astype(np.int64),
        "group": frame["path"].where(alone, frame[group]) if group in frame else frame["path"],
    }
    split = _split(path, frame)
    if split is not None:
        columns["split"] = split
    reader = FileReader(files)
    return ImageTable(
        name=path.stem,
        spec=spec,
        frame=pd.DataFrame({**columns, **kept}).reset_index(drop=True),
        classes=classes,
        channels=peek_channels(files),
        read=reader,
        describe=reader.describe,
        read_mask=None if masks is None else FileReader(masks),
        notes=(*order_notes(classes), *_notes(frame, group, alone)),
        warnings=(
            *problems,
            *_warnings(frame, group),
            *(unused_groups(frame, spec, most=len(classes)) if alone.all() else ()),
        ),
    )


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Read "Split" or "LABEL" as the column it is, where there is no other of that name."""
    lower = {name: str(name).lower() for name in frame}
    names = list(lower.values())
    return frame.rename(
        columns={k: v for k, v in lower.items() if v in COLUMNS and v not in frame and names.count(v) == 1}
    )


def _files(path: Path, names: pd.Series) -> tuple[ImageFile, ...]:
    """Find the images.

    Raises:
        UserError: absent, or one file in two rows.
    """
    files = [ImageFile(located(path.parent, name)) for name in names]
    absent = [file for file in files if not is_file(file.path)]
    if absent:
        advice = ""
        if any(map(is_windows_path, names)):
            advice = "; these are paths of Windows, write them relative to the table"
        raise UserError(f"{path}: {len(absent)} of {len(files)} images are absent, the first is {absent[0]}{advice}")
    first: dict[str, str] = {}
    for line, name, file in zip(names.index, names, files, strict=True):
        other = first.setdefault(os.path.normcase(os.path.normpath(file.path)), f"{name!r} (row {line})")
        if other != f"{name!r} (row {line})":
            raise UserError(f"{path}: image {name!r} is listed twice, in row {line} and as {other}; remove one row")
    return tuple(files)


def _notes(frame: pd.DataFrame, group: str, alone: pd.Series) -> list[str]:
    unused = [str(name) for name in frame if name not in (*COLUMNS, group)]
    found = [] if group in frame else [UNGROUPED]
    if group in frame and alone.any():
        found.append(
            f"{alone.sum()} of {len(frame)} images have no group and count as independent: {rows_of(frame, alone)}"
        )
    return found + ([f"columns that are not used: {listed(unused, 12)}"] if unused else [])


def _warnings(frame: pd.DataFrame, group: str) -> list[str]:
    found = []
    if group in frame and (pair := twins(frame[group])):
        found.append(f"groups {pair[0]!r} and {pair[1]!r} differ in spelling only, but are two groups")
    like = [
        str(name)
        for name in frame
        if (str(name).lower() in SPLIT_LIKE and not frame[name].str.fullmatch(r"\d*").all())  # numbers are of folds
        or (frame[name].map(split_name).notna().all() and frame[name].nunique() > 1)
    ]
    if like and "split" not in frame:
        found.append(f"column {like[0]!r} is not used; if it says train, val or test, call it 'split'")
    return found


def _refuse_one_hot(path: Path, frame: pd.DataFrame) -> None:
    binary = [name for name in frame if name != "label" and set(frame[name]) <= {"0", "1", "0.0", "1.0"}]
    if "label" not in frame and len(binary) > 1:
        raise UserError(
            f"{path}: {len(binary)} columns of 0 and 1 ({', '.join(map(str, binary[:3]))}, ...) instead of a column "
            "'label'; multi-label is out of scope, give the one class of each image in a column 'label'"
        )


def _masks(path: Path, frame: pd.DataFrame) -> tuple[ImageFile | None, ...] | None:
    if "mask" not in frame or (frame["mask"] == "").all():
        return None
    files = [None if is_missing(name) else ImageFile(located(path.parent, name)) for name in frame["mask"]]
    absent = [file for file in files if file is not None and not is_file(file.path)]
    if absent:
        raise UserError(f"{path}: {len(absent)} masks are absent, the first is {absent[0]}; leave the cell empty")
    return tuple(files)


def _split(path: Path, frame: pd.DataFrame) -> pd.Series | None:
    if "split" not in frame or (frame["split"] == "").all():
        return None
    split = frame["split"].map(split_name)
    wrong = split.isna()
    if wrong.any():
        raise UserError(
            f"{path}: {rows_of(frame, wrong)}: split {frame['split'][wrong].iloc[0]!r}; use train, val or test"
        )
    return split
