"""A folder with one sub-folder of images per class."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import FileReader, ImageFile, existing, files_below, is_image_file, is_junk, left_out, parse_spec
from dpaat.data.frames import SPLIT_NAMES, class_order, order_notes, split_name
from dpaat.data.patients import patient_columns
from dpaat.data.registry import register_dataset
from dpaat.data.scan import parse_frame
from dpaat.data.table import SPLITS, ImageTable
from dpaat.errors import UserError, listed, require_printable

# Folders that are meant for a split, or a fold, though not called so.
SPLIT_LIKE = re.compile(rf"(?:.*[^a-z])?({'|'.join(SPLIT_NAMES)}|fold)(?:set|data|images?)?(?:[^a-z].*)?")
MASKS = re.compile(r"(masks?|segmentations?|ground[ _-]?truths?|annotations?)")
ELSEWHERE = "move masks away, or name them in the column 'mask' of a table (csv:FILE.csv)"
MASK_STEM = re.compile(r"(.+?)[ _-](?:mask|segmentation|seg)(?:[ _-]?\d+)?", re.IGNORECASE)


@register_dataset("folder", "folder:DIR[,frame=FRAME]", "a folder per class, perhaps inside a folder per split")
def load(argument: str, spec: str) -> ImageTable:
    """List `DIR/CLASS/**/image` or `DIR/SPLIT/CLASS/**/image`; every image is its own group.

    Images of DICOM are in the group of their patient, with age and sex, see `dpaat.data.patients`. Of files of several
    frames or slices the one is read that `,frame=` says (first, middle, or a number from 1 on). Links are followed. A
    split is called train, val or test, or as `dpaat.data.frames.SPLIT_NAMES` has it. Raises UserError: no such folder,
    no class folders, one without images, or folders that could mean several things.
    """
    argument, given = parse_spec(argument, {"frame": None})
    frame_meant = parse_frame(given["frame"])
    root = existing(argument, spec, kind="folder", scheme="folder:DIR")
    tops = _sub_folders(root)
    splits = [top for top in tops if _is_split(top)]
    places = [place for top in tops for place in _sub_folders(top)] if splits else tops
    for fault in _faults_of_splits(root, tops, splits, places) if splits else _faults_of_classes(root, tops):
        raise UserError(f"{spec}: {fault}")
    classes = class_order(place.name for place in places)
    rows: list[tuple[str, int, str | None]] = []
    files: list[ImageFile] = []
    others: list[Path] = []
    for place in places:
        found, rest = files_below(place)
        if not found:
            why = f" ({listed(path.name for path in rest)} cannot be read)" if rest else ""
            raise UserError(f"{spec}: no images in {place}{why}; add some or remove the folder")
        _refuse_masks(found, place, spec)
        files += map(ImageFile, found)
        others += rest
        split = split_name(place.parent.name) if splits else None
        rows += [(file.relative_to(root).as_posix(), classes.index(place.name), split) for file in found]
    require_printable([name for name, _, _ in rows], spec)
    frame = pd.DataFrame(rows, columns=["id", "label", "split"]).astype({"label": np.int64})
    reader = FileReader(tuple(files), frame_meant)
    channels, whose = reader.peek()
    columns, notes, doubts = patient_columns(whose, frame["id"])
    frame = frame.assign(**columns)
    beside = [path for folder in {root, *(place.parent for place in places)} for path in _beside(folder)]
    # A link that leads nowhere may have been a class.
    loose = sorted(path for path in beside if not path.is_file() or is_image_file(path))
    texts = sorted(path.relative_to(root).as_posix() for path in beside if path not in loose)
    return ImageTable(
        name=root.resolve().name,
        spec=spec,
        frame=frame if splits else frame.drop(columns="split"),
        classes=classes,
        channels=channels,
        read=reader,
        describe=reader.describe,
        pseudonyms=any(whose),
        notes=(
            *notes,
            *reader.notes,
            *order_notes(classes),
            *((f"files beside the class folders are not read: {listed(texts)}",) if texts else ()),
        ),
        warnings=(
            *doubts,
            *left_out(others, root),
            *((f"left out, being in no class folder: {listed(p.relative_to(root) for p in loose)}",) if loose else ()),
            *_doubts(root, places),
        ),
    )


def _faults_of_splits(
    root: Path, tops: Sequence[Path], splits: Sequence[Path], places: Sequence[Path]
) -> Iterator[str]:
    """Why folders, of which some look like splits, cannot be read."""
    if classes := [top for top in tops if top not in splits]:
        inner = next((f"; or give folder:{top}" for top in classes if any(map(_is_split, _sub_folders(top)))), "")
        known, strange = (listed(top.name for top in some) for some in (splits, classes))
        alone = f"leave train, val and test alone in {root}{inner}"
        yield f"of its folders {known} look like splits and {strange} not; {alone}"
    for split in SPLITS:
        if len(same := [top.name for top in tops if split_name(top.name) == split]) > 1:
            yield f"the folders {' and '.join(same)} are the same split ({split}); put them into one folder"
    for top in tops:
        if not _sub_folders(top):
            yield f"{top} has no class folders; put its images into folders of their classes, or move it"
    yield from _splits_in(places)
    for place in filter(_is_split, places):
        yield f"{place} is a split in a split; move its class folders up into {place.parent}"


def _faults_of_classes(root: Path, tops: Sequence[Path]) -> Iterator[str]:
    """Why folders, of which none is a split, are no classes: what other datasets look like."""
    if not tops:
        yield f"{root} has no sub-folders; put the images of each class into a folder of its name"
        return
    names = (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", top.name).lower() for top in tops)
    words = [match and (split_name(match[1]) or match[1]) for match in map(SPLIT_LIKE.fullmatch, names)]
    if len({*words} - {None}) > 1 or "train" in words or words.count("fold") > 1:
        like = listed(top.name for top, word in zip(tops, words, strict=True) if word)
        table = "a table with a column 'split' (csv:FILE.csv)"
        yield f"{like} look like splits or folds; call them train, val and test, or write {table}"
    masks = [top.name for top in tops if MASKS.fullmatch(top.name.lower())]
    if masks and any(re.fullmatch("ima?ge?s?", top.name.lower()) for top in tops):
        yield f"{listed(masks)} is no class, but looks like masks of the images; {ELSEWHERE}"
    inner = tops[0]
    while len(deeper := _sub_folders(inner)) == 1 and not _beside(inner, images=True):
        inner = deeper[0]
    if len(tops) == 1 and deeper and not _beside(inner, images=True):
        what = "splits" if any(map(_is_split, deeper)) else "the classes"
        yield f"only one folder, {tops[0].name}, and its folders look like {what}; give folder:{inner}"
    yield from _splits_in(tops)
    for top in tops:
        if len(again := {each.name for each in tops} & {sub.name for sub in _sub_folders(top)}) > 1:
            same = f"folders called as the classes beside it ({listed(sorted(again))})"
            yield f"{top.name} holds {same}; move one of the two copies away"


def _splits_in(classes: Sequence[Path]) -> Iterator[str]:
    for found in (sub for place in classes for sub in _sub_folders(place) if _is_split(sub)):
        name = found.parent.name
        yield f"{name}/{found.name} looks like a split below a class; put the splits at the top ({found.name}/{name})"


def _is_split(folder: Path) -> bool:
    return split_name(folder.name) is not None


def _refuse_masks(images: Sequence[Path], place: Path, spec: str) -> None:
    """Refuse masks that would be read as images of a class."""
    names = {(path.parent, path.stem) for path in images}
    for path in images:
        match = MASK_STEM.fullmatch(path.stem)
        folders = [part.lower() for part in path.relative_to(place).parts[:-1]]
        if (match and (path.parent, match[1]) in names) or any(map(MASKS.fullmatch, folders)):
            raise UserError(f"{spec}: {path} looks like a mask, which would be read as an image; {ELSEWHERE}")


def _doubts(root: Path, places: Sequence[Path]) -> Iterator[str]:
    """What makes it doubtful that the class folders are classes, or the same ones in every split."""
    of_split = {
        split: {place.name for place in places if place.parent == split} for split in (p.parent for p in places)
    }
    every = {place.name for place in places}
    for split, names in of_split.items():
        if names != every:
            lacking = listed(sorted(every - names))
            yield f"class folders differ between splits: {split_name(split.name)} has no {lacking}"
    inner = [{sub.name for sub in _sub_folders(place)} for place in places]
    few = set().union(*inner)
    if all(inner) and len(few) > 1 and (len(few) < len(places) or (len(places) > 1 and all(few == x for x in inner))):
        held = listed(place.relative_to(root).as_posix() for place in places)
        yield f"{held} hold the same folders ({listed(sorted(few))}): are those the classes?"


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not is_junk(path.name) and path.name[:2] != "__"
    )


def _beside(folder: Path, *, images: bool = False) -> list[Path]:
    """What lies in a folder beside the class folders."""
    classes = _sub_folders(folder)
    found = [path for path in folder.iterdir() if not is_junk(path.name) and path not in classes]
    return [path for path in found if is_image_file(path)] if images else found
