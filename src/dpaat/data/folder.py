"""A folder with one sub-folder of images per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import FileReader, ImageFile, existing, images_below, peek_channels
from dpaat.data.table import UNGROUPED, ImageTable
from dpaat.errors import UserError, require_printable

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def load(argument: str, spec: str) -> ImageTable:
    """List `DIR/CLASS/**/image` or `DIR/{train,val,test}/CLASS/**/image`; every image is its own group.

    Args:
        argument: the folder.
        spec: the dataset as the user wrote it.

    Raises:
        UserError: no such folder, no class folders, or one without images.
    """
    root = existing(argument, spec, kind="folder", scheme="folder:DIR")
    tops = _sub_folders(root)
    names = {top.name.lower() for top in tops}
    has_splits = {"train", "test"} <= names <= set(SPLIT_FOLDERS)
    places = (
        [(SPLIT_FOLDERS[top.name.lower()], sub) for top in tops for sub in _sub_folders(top)]
        if has_splits
        else [("", top) for top in tops]
    )
    if not places:
        raise UserError(f"{spec}: {root} has no sub-folders; put the images of each class into a folder of its name")
    classes = tuple(sorted({place.name for _, place in places}))
    rows: list[tuple[str, int, str]] = []
    files: list[ImageFile] = []
    for split, place in places:
        found = list(images_below(place))
        if not found:
            raise UserError(f"{spec}: no images in {place}; add some or remove the folder")
        files += [ImageFile(file) for file in found]
        rows += [(file.relative_to(root).as_posix(), classes.index(place.name), split) for file in found]
    require_printable([name for name, _, _ in rows], spec)
    frame = pd.DataFrame(rows, columns=["id", "label", "split"]).astype({"label": np.int64})
    frame["group"] = frame["id"]
    reader = FileReader(tuple(files))
    return ImageTable(
        name=root.resolve().name,
        spec=spec,
        frame=frame if has_splits else frame.drop(columns="split"),
        classes=classes,
        channels=peek_channels(files),
        read=reader,
        describe=reader.describe,
        notes=(UNGROUPED,),
    )


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))
