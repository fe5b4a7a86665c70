"""HAM10000: 10,015 dermatoscopic images of 7,470 lesions, in any of the forms in which it is published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import FileReader, ImageFile, by_stem, existing, images_below, images_in_zip
from dpaat.data.frames import metadata, read_text_table
from dpaat.data.table import ImageTable
from dpaat.errors import UserError, unknown

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
# akiec counts as malignant: actinic keratoses and Bowen's disease are carcinomas in situ to Tschandl et al. 2018, who
# add that some authors call them precursors, and that all agree that they may become invasive.
TASKS = {"melanoma": ("mel",), "malignant": ("akiec", "bcc", "mel")}
LICENCE = "CC BY-NC 4.0"
CITATION = "Tschandl, Rosendahl, Kittler: The HAM10000 dataset. Scientific Data 5 (2018), doi 10.7910/DVN/DBW86T"

METADATA_NAMES = (
    "HAM10000_metadata.csv",
    "HAM10000_metadata.tab",
    "HAM10000_metadata",
    "HAM10000_metadata_dataverse.csv",
)
# Which folders and archives belong to the download: anything else there, such as resized copies, is not looked at.
IMAGES = re.compile(r"(ham10000_)?images", re.IGNORECASE)
MASKS = re.compile(r"ham10000_segmentation", re.IGNORECASE)


def load(argument: str, spec: str) -> ImageTable:
    """Read the metadata and find the images and masks; nothing is unpacked.

    Images lie in `HAM10000_images_part_1` and `_2`, in `images`, directly in the folder, or in the published zip
    archives. The group is the lesion.

    Args:
        argument: the folder.
        spec: the dataset as the user wrote it.

    Raises:
        UserError: no such folder, no metadata, a missing column, an unknown diagnosis or an absent image.
    """
    folder = existing(argument, spec, kind="folder", scheme="ham10000:DIR")
    path, frame = _metadata(folder)
    ids = frame["image_id"]
    if ids.duplicated().any():
        raise UserError(f"{path}: image_id {ids[ids.duplicated()].iloc[0]!r} is listed twice; remove one row")
    for wrong in sorted(set(frame["dx"]) - set(CLASSES)):
        first = ids[frame["dx"] == wrong].iloc[0]
        raise UserError(f"{path}: dx of {first}: {unknown('class', wrong, CLASSES)}")
    if (frame["lesion_id"] == "").any():
        raise UserError(f"{path}: no lesion_id for {ids[frame['lesion_id'] == ''].iloc[0]}; fill it in")

    images = by_stem([ImageFile(file) for file in sorted(folder.iterdir()) if _is_loose_image(file)])
    images = by_stem([*images.values(), *_find(folder, IMAGES)])
    absent = [name for name in ids if name not in images]
    if absent:
        raise UserError(
            f"{path}: {len(absent)} of {len(ids)} images listed are absent, the first is {absent[0]}.jpg; put the "
            f"folders or archives HAM10000_images_part_1 and _part_2 into {folder}"
        )
    masks = by_stem(_find(folder, MASKS))
    reader = FileReader(tuple(images[name] for name in ids))
    mask_reader = FileReader(tuple(masks.get(f"{name}_segmentation") for name in ids))
    names = {"age": "age", "sex": "sex", "site": "localization", "source": "dataset"}
    columns = {
        "id": ids,
        "label": frame["dx"].map(CLASSES.index).astype(np.int64),
        "group": frame["lesion_id"],
    }
    return ImageTable(
        name="ham10000",
        spec=spec,
        frame=pd.DataFrame({**columns, **metadata(frame, names)}),
        classes=CLASSES,
        channels=3,
        read=reader,
        describe=reader.describe,
        read_mask=mask_reader if masks else None,
        near_duplicates=_near_duplicates(folder / "near_duplicates.csv", set(ids)),
        licence=LICENCE,
        citation=CITATION,
        tasks=TASKS,
    )


def _metadata(folder: Path) -> tuple[Path, pd.DataFrame]:
    found = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: no HAM10000_metadata.csv; it comes with the images in the published download")
    path = found[0]
    frame = _read(path)
    if "dataset" not in frame and len(found) > 1:  # the site that took the image is in one form only
        other = _read(found[-1])
        if "dataset" in other:
            source = dict(zip(other["image_id"], other["dataset"], strict=True))
            frame["dataset"] = frame["image_id"].map(lambda name: source.get(name, ""))
    return path, frame


def _read(path: Path) -> pd.DataFrame:
    return read_text_table(path, required=("lesion_id", "image_id", "dx"))


def _is_loose_image(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg", ".png") and not path.name.startswith(".")


def _find(folder: Path, pattern: re.Pattern[str]) -> Iterator[ImageFile]:
    """Yield the images in the sub-folders and zip archives whose name fits, folders first."""
    entries = [entry for entry in sorted(folder.iterdir()) if pattern.match(entry.name)]
    for entry in entries:
        if entry.is_dir():
            yield from (ImageFile(file) for file in images_below(entry))
    for entry in entries:
        if entry.is_file() and entry.suffix.lower() == ".zip":
            yield from images_in_zip(entry)


def _near_duplicates(path: Path, ids: set[str]) -> tuple[tuple[str, str], ...]:
    """Read pairs of image file names whose lesions differ though the pictures hardly do."""
    if not path.is_file():
        return ()
    frame = read_text_table(path, required=("from_img", "to_img"))
    pairs = zip(frame["from_img"].map(lambda n: Path(n).stem), frame["to_img"].map(lambda n: Path(n).stem), strict=True)
    return tuple((a, b) for a, b in pairs if a in ids and b in ids)
