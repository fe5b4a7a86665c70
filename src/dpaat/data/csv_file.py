"""Images listed in a CSV file with their labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import FileReader, ImageFile, existing, home_path, is_file, peek_channels
from dpaat.data.frames import metadata, read_text_table
from dpaat.data.table import SPLITS, ImageTable
from dpaat.errors import UserError

SPLIT_NAMES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


def load(argument: str, spec: str) -> ImageTable:
    """Read a CSV file with the columns `path` and `label`.

    Paths are relative to the file's own folder. Optional columns: `group` (images of one patient or lesion), `split`
    (train, val or test), `age`, `sex`, `site`, `source`, `mask` (an image that is not black inside the lesion; empty
    where there is none). Classes are the labels, in numerical order if all are whole numbers, else in alphabetical
    order.

    Args:
        argument: the CSV file.
        spec: the dataset as the user wrote it.

    Raises:
        UserError: anything missing or wrong in the file, multi-label, or an absent image.
    """
    path = existing(argument, spec, kind="file", scheme="csv:FILE.csv")
    frame = read_text_table(path)
    _refuse_one_hot(path, frame)
    frame = read_text_table(path, required=("path", "label"))
    for column in ("path", "label"):
        empty = frame.index[frame[column] == ""]
        if len(empty):
            raise UserError(f"{path}: row {empty[0] + 2}: {column} is empty; fill it in or remove the row")
    several = frame["label"][frame["label"].str.contains(r"[|;]")]
    if len(several):
        raise UserError(
            f"{path}: row {several.index[0] + 2}: label {several.iloc[0]!r} looks like several labels; multi-label is "
            "out of scope, give one label per image"
        )
    files = [ImageFile(path.parent / home_path(name)) for name in frame["path"]]
    absent = [file for file in files if not is_file(file.path)]
    if absent:
        raise UserError(f"{path}: {len(absent)} of {len(files)} images are absent, the first is {absent[0]}")
    masks = _masks(path, frame)
    classes = _classes(frame["label"])
    columns: dict[str, pd.Series] = {
        "id": frame["path"],
        "label": frame["label"].map(classes.index).astype(np.int64),
        "group": frame["group"].mask(frame["group"] == "", frame["path"]) if "group" in frame else frame["path"],
    }
    split = _split(path, frame)
    if split is not None:
        columns["split"] = split
    reader = FileReader(tuple(files))
    return ImageTable(
        name=path.stem,
        spec=spec,
        frame=pd.DataFrame({**columns, **metadata(frame, {name: name for name in ("age", "sex", "site", "source")})}),
        classes=classes,
        channels=peek_channels(files),
        read=reader,
        describe=reader.describe,
        read_mask=None if masks is None else FileReader(masks),
    )


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
    files = [ImageFile(path.parent / Path(name).expanduser()) if name else None for name in frame["mask"]]
    absent = [file for file in files if file is not None and not file.path.is_file()]
    if absent:
        raise UserError(f"{path}: {len(absent)} masks are absent, the first is {absent[0]}; leave the cell empty")
    return tuple(files)


def _classes(labels: pd.Series) -> tuple[str, ...]:
    names = sorted(set(labels))
    numeric = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    return tuple(sorted(names, key=int) if numeric else names)


def _split(path: Path, frame: pd.DataFrame) -> pd.Series | None:
    if "split" not in frame or (frame["split"] == "").all():
        return None
    split = frame["split"].str.lower().replace(SPLIT_NAMES)
    wrong = split.index[~split.isin(SPLITS)]
    if len(wrong):
        raise UserError(f"{path}: row {wrong[0] + 2}: split {frame['split'][wrong[0]]!r}; use train, val or test")
    if not (split == "test").any():
        raise UserError(f"{path}: no row of split 'test'; add some or remove the column 'split'")
    return split
