"""HAM10000: 10,015 dermatoscopic images of 7,470 lesions, in any of the forms in which it is published."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import FileReader, ImageFile, by_stem, existing, files_below, images_in_zip
from dpaat.data.frames import is_unknown, metadata, read_text_table, rows_of
from dpaat.data.registry import register_dataset
from dpaat.data.table import ImageTable
from dpaat.errors import UserError, listed, unknown

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
# akiec counts as malignant: actinic keratoses and Bowen's disease are carcinomas in situ to Tschandl et al. 2018, who
# add that some authors call them precursors, and that all agree that they may become invasive.
TASKS = {"melanoma": ("mel",), "malignant": ("akiec", "bcc", "mel")}
LICENCE = "CC BY-NC 4.0"
CITATION = "Tschandl, Rosendahl, Kittler: The HAM10000 dataset. Scientific Data 5 (2018), doi 10.7910/DVN/DBW86T"
METADATA = tuple(f"HAM10000_metadata{end}" for end in (".csv", ".tab", "", "_dataverse.csv"))
# Which folders and archives belong to the download; others whose names begin alike, such as resized copies or images
# without hair, are not read in their place.
IMAGES = re.compile(r"((ham10000_)?images|ham10000_images_part_[0-9]+)(\.zip)?", re.IGNORECASE)
MASKS = re.compile(r"ham10000_segmentations?(_lesion_tschandl)?(\.zip)?", re.IGNORECASE)
ALIKE = re.compile(r"((ham10000_)?images|ham10000_segmentation|isic20).*", re.IGNORECASE)


@register_dataset("ham10000", "ham10000:DIR", "HAM10000, as published or unpacked")
def load(argument: str, spec: str) -> ImageTable:
    """Read the metadata and find the images and masks; nothing is unpacked.

    Images lie in `HAM10000_images_part_1` and `_2`, in `images`, directly in the folder, or in the published zip
    archives. The group is the lesion. Raises UserError: no such folder, no metadata, a missing column, an unknown
    diagnosis or an absent image.
    """
    folder = existing(argument, spec, kind="folder", scheme="ham10000:DIR")
    path, frame = _metadata(folder)
    ids = frame["image_id"]
    if ids.duplicated().any():
        raise UserError(f"{path}: image_id {ids[ids.duplicated()].iloc[0]!r} is listed twice; remove one row")
    for wrong in sorted(set(frame["dx"]) - set(CLASSES)):
        first = ids[frame["dx"] == wrong].iloc[0]
        raise UserError(f"{path}: dx of {first}: {unknown('class', wrong, CLASSES)}")
    nameless = frame["lesion_id"].map(is_unknown)
    if nameless.any():
        raise UserError(f"{path}: no lesion_id for {ids[nameless].iloc[0]} ({rows_of(nameless)}); fill it in")
    entries = sorted(folder.iterdir())
    loose = [entry for entry in entries if entry.suffix.lower() in (".jpg", ".jpeg", ".png") and entry.name[0] != "."]
    images = by_stem([*map(ImageFile, loose), *_find(entries, IMAGES)])
    alike = [
        entry.name
        for entry in entries
        if ALIKE.fullmatch(entry.name) and not (IMAGES.fullmatch(entry.name) or MASKS.fullmatch(entry.name))
        if entry.is_dir() or entry.suffix.lower() == ".zip"
    ]
    notes = [f"not read, since the published folders are called otherwise: {listed(alike)}"] if alike else []
    if absent := [name for name in ids if name not in images]:
        raise UserError(
            f"{path}: {len(absent)} of {len(ids)} images listed are absent, the first is {absent[0]}.jpg; put the "
            f"folders or archives HAM10000_images_part_1 and _part_2 into {folder}" + "".join(f" ({n})" for n in notes)
        )
    if extra := len(images) - len(set(ids)):
        notes.append(f"{extra} images are not in {path.name} and not read")
    masks = by_stem(_find(entries, MASKS))
    reader = FileReader(tuple(images[name] for name in ids))
    kept, problems = metadata(frame, {"age": "age", "sex": "sex", "site": "localization", "source": "dataset"})
    columns = {"id": ids, "label": frame["dx"].map(CLASSES.index).astype(np.int64), "group": frame["lesion_id"]}
    return ImageTable(
        name="ham10000",
        spec=spec,
        frame=pd.DataFrame({**columns, **kept}).reset_index(drop=True),
        classes=CLASSES,
        channels=3,
        read=reader,
        describe=reader.describe,
        read_mask=FileReader(tuple(masks.get(f"{name}_segmentation") for name in ids)) if masks else None,
        near_duplicates=_near_duplicates(folder / "near_duplicates.csv", set(ids)),
        licence=LICENCE,
        citation=CITATION,
        tasks=TASKS,
        notes=tuple(notes),
        warnings=problems,
    )


def _metadata(folder: Path) -> tuple[Path, pd.DataFrame]:
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: no HAM10000_metadata.csv; it comes with the images in the published download")
    read = partial(read_text_table, required=("lesion_id", "image_id", "dx"))
    frame = read(found[0])
    if "dataset" not in frame and len(found) > 1:  # the site that took the image is in one form only
        other = read(found[-1])
        if "dataset" in other:
            source = other.drop_duplicates("image_id", keep="last").set_index("image_id")["dataset"]
            frame["dataset"] = frame["image_id"].map(source).fillna("")
    return found[0], frame


def _find(entries: list[Path], pattern: re.Pattern[str]) -> Iterator[ImageFile]:
    """Yield the images in the folders and zip archives whose name fits, folders first."""
    fitting = [entry for entry in entries if pattern.fullmatch(entry.name)]
    for folder in filter(Path.is_dir, fitting):
        yield from map(ImageFile, files_below(folder)[0])
    for archive in fitting:
        if archive.is_file() and archive.suffix.lower() == ".zip":
            yield from images_in_zip(archive)


def _near_duplicates(path: Path, ids: set[str]) -> tuple[tuple[str, str], ...]:
    """Read pairs of image file names whose lesions differ though the pictures hardly do."""
    if not path.is_file():
        return ()
    frame = read_text_table(path, required=("from_img", "to_img"))
    pairs = zip(*(frame[column].map(lambda name: Path(name).stem) for column in ("from_img", "to_img")), strict=True)
    return tuple((a, b) for a, b in pairs if a in ids and b in ids)
