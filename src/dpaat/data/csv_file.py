"""Images listed in a CSV file with their labels."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data import frames, label_sets
from dpaat.data.files import FileReader, ImageFile, existing, is_file, located, parse_spec
from dpaat.data.patients import patient_columns
from dpaat.data.registry import register_dataset
from dpaat.data.scan import parse_frame
from dpaat.data.table import ImageTable
from dpaat.errors import UserError, listed

OPTIONS = {"group": "group", "labels": None, "uncertain": None, "frame": None}
METADATA = ("age", "sex", "site", "source")
COLUMNS = ("path", "label", "group", "split", "mask", *METADATA)
# Columns that someone who splits by hand has, and that mean nothing here.
SPLIT_LIKE = ("splits", "set", "subset", "partition", "phase", "fold", "folds", "usage", "dataset_split", "data_split")


@register_dataset(
    "csv",
    "csv:FILE.csv[,group=COLUMN][,labels=A+B+...][,uncertain=ignore|zeros|ones][,frame=FRAME]",
    "a table of paths and labels",
)
def load(argument: str, spec: str) -> ImageTable:
    """Read a CSV file with the columns `path` and `label`.

    Paths are relative to the file's own folder. Optional columns: `group` (images of one patient or lesion; with
    `,group=COLUMN` another one), `split` (train, val or test, or as `dpaat.data.frames.SPLIT_NAMES` has it), `age`,
    `sex`, `site`, `source`, `mask` (an image that is not black inside the lesion; empty where there is none). Classes
    are the labels, in numerical order if all are numbers, else in alphabetical order.

    Where an image has several labels, `,labels=A+B+C` names a column of 1, 0 and -1 (uncertain; see
    `dpaat.data.label_sets.UNCERTAIN`) for each; `,labels=COLUMN` one column of names with | or ; between them. Raises
    UserError for anything missing or wrong in the file, or an absent image.
    """
    argument, given = parse_spec(argument, OPTIONS)
    frame_meant = parse_frame(given["frame"])
    group, several = given["group"], [name.strip() for name in (given["labels"] or "").split("+") if name.strip()]
    if given["labels"] is not None and not several:
        raise UserError(f"{spec}: labels= names no column; write labels=COLUMN or labels=A+B")
    if twice := [name for name in several if several.count(name) > 1]:
        raise UserError(f"{spec}: labels= names {twice[0]!r} twice; name each column once")
    if given["uncertain"] and len(several) < 2:
        raise UserError(f"{spec}: uncertain= is for columns of 1, 0 and -1; name them, as labels=A+B, or leave it out")
    path = existing(argument, spec, kind="file", scheme="csv:FILE.csv[,group=COLUMN]")
    frame = _named(frames.read_text_table(path))
    if not several:
        _refuse_several_labels(path, frame)
    named = ("path", *(several or ["label"]))
    frames.require_columns(path, frame, (*named, *([group] if group != "group" else [])))
    for column in ("path", "label")[: 2 - bool(several)]:
        cells = frame[column]
        empty = f"{column} is empty or missing ({{}}); fill it in, or remove the row"
        frames.refuse_rows(path, cells, cells.map(frames.is_missing), empty)
    if several:
        if len(several) == 1:
            classes, answers, said_of = label_sets.from_lists(path, frame[several[0]])
        else:
            classes = tuple(several)
            answers, said_of = label_sets.from_columns(path, frame, several, given["uncertain"] or "ignore")
        labels = pd.Series([*map(tuple, answers.tolist())], index=frame.index)
    else:
        _refuse_lists(path, frame["label"])
        classes = frames.class_order(frame["label"])
        labels, said_of = frame["label"].map(classes.index).astype(np.int64), [*frames.order_notes(classes)]
    reader = FileReader(_files(path, frame["path"]), frame_meant)
    masks = _masks(path, frame, frame_meant)
    kept, problems = frames.metadata(frame, {name: name for name in METADATA})
    channels, whose = reader.peek()
    by_header = group not in frame
    columns, notes, doubts = patient_columns(whose, frame["path"], grouped=not by_header)
    columns = {"id": frame["path"], "label": labels, **columns}
    alone = columns["group"] == frame["path"] if by_header else frame[group].map(frames.is_unknown)
    if not by_header:
        columns["group"] = frame["path"].where(alone, frame[group])
        said = f"{alone.sum()} of {len(frame)} images have no group and count as independent: {frames.rows_of(alone)}"
        notes = (*((said,) if alone.any() else ()), *notes)
    if "split" in frame and (frame["split"] != "").any():
        columns["split"] = frame["split"].map(frames.split_name)
        frames.refuse_rows(path, frame["split"], columns["split"].isna(), "split {}; use train, val or test")
    others = frame.drop(columns=[name for name in several if name != group])
    if unused := [str(name) for name in others if name not in (*COLUMNS, group)]:
        notes = (*notes, f"columns that are not used: {listed(unused, 12)}")
    return ImageTable(
        name=path.stem,
        spec=spec,
        frame=pd.DataFrame({**columns, **kept}).reset_index(drop=True),
        classes=classes,
        channels=channels,
        read=reader,
        describe=reader.describe,
        pseudonyms=by_header and any(whose),
        read_mask=masks,
        multilabel=bool(several),
        notes=(*said_of, *notes, *reader.notes),
        warnings=(*problems, *doubts, *_doubts(others, group, spec, most=len(classes) if alone.all() else len(frame))),
    )


def _refuse_lists(path: Path, cells: pd.Series) -> None:
    labels = set(cells)
    several = cells.map(
        lambda text: bool(re.search(r"[|;]|^\[.*\]$", text)) or ("," in text and {*re.split(", ?", text)} <= labels)
    )
    advice = "label {} looks like several labels; give csv:FILE,labels=label to read names with | or ; between them"
    frames.refuse_rows(path, cells, several, advice)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Read "Split" or "LABEL" as the column it is, where there is no other of that name."""
    lower = {name: str(name).lower() for name in frame}
    names = list(lower.values())
    return frame.rename(
        columns={k: v for k, v in lower.items() if v in COLUMNS and v not in frame and names.count(v) == 1}
    )


def _refuse_several_labels(path: Path, frame: pd.DataFrame) -> None:
    binary = [
        name
        for name in frame
        if name != "label" and {*frame[name]} <= {*label_sets.CELLS} and {*frame[name]} & {"0", "1", "0.0", "1.0"}
    ]
    if "label" not in frame and len(binary) > 1:
        raise UserError(
            f"{path}: {len(binary)} columns of 0 and 1 ({', '.join(map(str, binary[:3]))}, ...) instead of a column "
            f"'label'; give csv:FILE,labels={'+'.join(map(str, binary))} for several labels an image"
        )


def _files(path: Path, names: pd.Series) -> tuple[ImageFile, ...]:
    """Find the images; UserError if one is absent, or a file is in two rows."""
    files = tuple(ImageFile(located(path.parent, name)) for name in names)
    if absent := [file for file in files if not is_file(file.path)]:
        windows = any(map(frames.is_windows_path, names))
        advice = "; these are paths of Windows, write them relative to the table" if windows else ""
        raise UserError(f"{path}: {len(absent)} of {len(files)} images are absent, the first is {absent[0]}{advice}")
    first: dict[str, str] = {}
    for line, name, file in zip(names.index, names, files, strict=True):
        this = f"{name!r} (row {line})"
        if (other := first.setdefault(os.path.normcase(os.path.normpath(file.path)), this)) != this:
            raise UserError(f"{path}: image {name!r} is listed twice, in row {line} and as {other}; remove one row")
    return files


def frame_of(spec: str) -> str:
    """The frame or slice of files of several that the name of a dataset says is meant; "" where it says none."""
    return parse_spec(spec, OPTIONS)[1]["frame"] or ""


def _masks(path: Path, frame: pd.DataFrame, frame_meant: str) -> FileReader | None:
    if "mask" not in frame or (frame["mask"] == "").all():
        return None
    files = tuple(None if frames.is_missing(name) else ImageFile(located(path.parent, name)) for name in frame["mask"])
    if absent := [file for file in files if file is not None and not is_file(file.path)]:
        raise UserError(f"{path}: {len(absent)} masks are absent, the first is {absent[0]}; leave the cell empty")
    return FileReader(files, frame_meant, stacks=True)


def _doubts(frame: pd.DataFrame, group: str, spec: str, *, most: int) -> Iterator[str]:
    """What is probably wrong; of columns that seem to group the images, the coarsest of more than `most` values."""
    if group in frame and (pair := frames.twins(frame[group])):
        yield f"groups {pair[0]!r} and {pair[1]!r} differ in spelling only, but are two groups"
    like = [
        str(name)
        for name in frame
        if (str(name).lower() in SPLIT_LIKE and not frame[name].str.fullmatch(r"\d*").all())  # numbers are of folds
        or (frame[name].map(frames.split_name).notna().all() and frame[name].nunique() > 1)
    ]
    if like and "split" not in frame:
        yield f"column {like[0]!r} is not used; if it says train, val or test, call it 'split'"
    counts = {name: frame[name].nunique() for name in frame if frames.names_a_group(str(name))}
    for name in sorted(counts, key=counts.__getitem__):
        if most < counts[name] < len(frame):
            yield (
                f"column {name!r} looks like what makes images alike ({counts[name]} values for {len(frame)} images), "
                f"but none is called group: give {spec},group={name}, or {spec},group=path if all images are "
                "independent"
            )
            return
