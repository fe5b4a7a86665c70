"""A folder with one sub-folder of images per class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import (
    FileReader,
    ImageFile,
    existing,
    files_below,
    is_image_name,
    is_junk,
    left_out,
    peek_channels,
)
from dpaat.data.names import SPLIT_NAMES, class_order, order_notes, split_name
from dpaat.data.registry import register_dataset
from dpaat.data.table import SPLITS, UNGROUPED, ImageTable
from dpaat.errors import UserError, listed, require_printable

# Folders that are meant for a split, or a fold, though not called so.
SPLIT_LIKE = re.compile(
    rf"(?:.*[^a-z])?({'|'.join(SPLIT_NAMES)}|fold)(?:set|data|images?)?(?:[^a-z].*)?",
)
MASKS = re.compile(r"(masks?|segmentations?|ground[ _-]?truths?|annotations?)")
ELSEWHERE = "move masks away, or name them in the column 'mask' of a table (csv:FILE.csv)"
MASK_STEM = re.compile(r"(.+?)[ _-](?:mask|segmentation|seg)(?:[ _-]?\d+)?", re.IGNORECASE)


@register_dataset("folder", "folder:DIR", "a folder per class, perhaps inside a folder per split")
def load(argument: str, spec: str) -> ImageTable:
    """List `DIR/CLASS/**/image` or `DIR/SPLIT/CLASS/**/image`; every image is its own group.

    Links are followed. A split is called train, val or test, or as `dpaat.data.names.SPLIT_NAMES` has it.

    Args:
        argument: the folder.
        spec: the dataset as the user wrote it.

    Raises:
        UserError: no such folder, no class folders, one without images, or folders that could mean several things.
    """
    root = existing(argument, spec, kind="folder", scheme="folder:DIR")
    places = _places(root, spec)
    classes = class_order(place.name for _, place in places)
    rows: list[tuple[str, int, str]] = []
    files: list[ImageFile] = []
    others: list[Path] = []
    for split, place in places:
        found, rest = files_below(place)
        if not found:
            why = f" ({listed(path.name for path in rest)} cannot be read)" if rest else ""
            raise UserError(f"{spec}: no images in {place}{why}; add some or remove the folder")
        _refuse_masks(found, place, spec)
        files += [ImageFile(file) for file in found]
        others += rest
        rows += [(file.relative_to(root).as_posix(), classes.index(place.name), split) for file in found]
    require_printable([name for name, _, _ in rows], spec)
    frame = pd.DataFrame(rows, columns=["id", "label", "split"]).astype({"label": np.int64})
    frame["group"] = frame["id"]
    beside = [path for folder in {root, *(place.parent for _, place in places)} for path in _beside(folder)]
    # A link that leads nowhere may have been a class.
    loose = sorted(path for path in beside if not path.is_file() or is_image_name(path.name))
    texts = sorted(path.relative_to(root).as_posix() for path in beside if path not in loose)
    reader = FileReader(tuple(files))
    return ImageTable(
        name=root.resolve().name,
        spec=spec,
        frame=frame if places[0][0] else frame.drop(columns="split"),
        classes=classes,
        channels=peek_channels(files),
        read=reader,
        describe=reader.describe,
        notes=(
            UNGROUPED,
            *order_notes(classes),
            *((f"files beside the class folders are not read: {listed(texts)}",) if texts else ()),
        ),
        warnings=(
            *left_out(others, root),
            *((f"left out, being in no class folder: {listed(p.relative_to(root) for p in loose)}",) if loose else ()),
            *_unlike(root, places),
        ),
    )


def _places(root: Path, spec: str) -> list[tuple[str, Path]]:
    """Find the class folders, each with its split, or "" where there are no splits.

    Raises:
        UserError: no class folders, or folders that could mean several things.
    """
    tops = _sub_folders(root)
    if not tops:
        raise UserError(f"{spec}: {root} has no sub-folders; put the images of each class into a folder of its name")
    split_of = {top: split_name(top.name) for top in tops}
    splits = {top: split for top, split in split_of.items() if split}
    if not splits:
        _refuse_other_layouts(tops, spec)
        return [("", top) for top in tops]
    classes = [top for top in tops if top not in splits]
    if classes:
        inner = next((f"; or give folder:{top}" for top in classes if any(map(_is_split, _sub_folders(top)))), "")
        known, strange = listed(top.name for top in splits), listed(top.name for top in classes)
        raise UserError(
            f"{spec}: of its folders {known} look like splits and {strange} not; leave train, val and test alone in "
            f"{root}{inner}"
        )
    for split in SPLITS:
        if len(same := [top.name for top in tops if splits[top] == split]) > 1:
            raise UserError(
                f"{spec}: the folders {' and '.join(same)} are the same split ({split}); put them into one folder"
            )
    places = [(splits[top], place) for top in tops for place in _sub_folders(top)]
    for top in tops:
        if not _sub_folders(top):
            raise UserError(
                f"{spec}: {top} has no class folders; put its images into folders of their classes, or move it"
            )
    _refuse_splits_in([place for _, place in places], spec)
    if doubled := next((place for _, place in places if _is_split(place)), None):
        raise UserError(f"{spec}: {doubled} is a split in a split; move its class folders up into {doubled.parent}")
    return places


def _refuse_other_layouts(tops: Sequence[Path], spec: str) -> None:
    """Refuse what other datasets look like, whose folders at the top are no classes."""
    words = [_split_like(top.name) for top in tops]
    like = [top.name for top, word in zip(tops, words, strict=True) if word]
    if len({*words} - {None}) > 1 or "train" in words or words.count("fold") > 1:
        raise UserError(
            f"{spec}: {listed(like)} look like splits or folds; call them train, val and test, or write a table with a "
            "column 'split' (csv:FILE.csv)"
        )
    masks = [top.name for top in tops if MASKS.fullmatch(top.name.lower())]
    if masks and any(re.fullmatch("ima?ge?s?", top.name.lower()) for top in tops):
        raise UserError(f"{spec}: {listed(masks)} is no class, but looks like masks of the images; {ELSEWHERE}")
    inner = tops[0]
    while len(deeper := _sub_folders(inner)) == 1 and not _beside(inner, images=True):
        inner = deeper[0]
    if len(tops) == 1 and deeper and not _beside(inner, images=True):
        what = "splits" if any(map(_is_split, deeper)) else "the classes"
        raise UserError(
            f"{spec}: only one folder, {tops[0].name}, and its folders look like {what}; give folder:{inner}"
        )
    _refuse_splits_in(tops, spec)
    names = {top.name for top in tops}
    for top in tops:
        if len(again := names & {sub.name for sub in _sub_folders(top)}) > 1:
            raise UserError(
                f"{spec}: {top.name} holds folders called as the classes beside it ({listed(sorted(again))}); move one "
                "of the two copies away"
            )


def _split_like(name: str) -> str | None:
    match = SPLIT_LIKE.fullmatch(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return (split_name(match[1]) or match[1]) if match else None


def _is_split(folder: Path) -> bool:
    return split_name(folder.name) is not None


def _refuse_splits_in(classes: Sequence[Path], spec: str) -> None:
    for place in classes:
        if found := next(filter(_is_split, _sub_folders(place)), None):
            raise UserError(
                f"{spec}: {place.name}/{found.name} looks like a split below a class; put the splits at the top "
                f"({found.name}/{place.name})"
            )


def _refuse_masks(images: Sequence[Path], place: Path, spec: str) -> None:
    """Refuse masks that would be read as images of a class."""
    names = {(path.parent, path.stem) for path in images}
    for path in images:
        match = MASK_STEM.fullmatch(path.stem)
        folders = [part.lower() for part in path.relative_to(place).parts[:-1]]
        if (match and (path.parent, match[1]) in names) or any(map(MASKS.fullmatch, folders)):
            raise UserError(f"{spec}: {path} looks like a mask, which would be read as an image; {ELSEWHERE}")


def _unlike(root: Path, places: Sequence[tuple[str, Path]]) -> list[str]:
    """What makes it doubtful that the class folders are classes, or the same ones in every split."""
    of_split: dict[str, set[str]] = {}
    for split, place in places:
        of_split.setdefault(split, set()).add(place.name)
    every = set().union(*of_split.values())
    found = [
        f"class folders differ between splits: {split} has no {listed(sorted(every - names))}"
        for split, names in of_split.items()
        if names != every
    ]
    inner = [{sub.name for sub in _sub_folders(place)} for _, place in places]
    few = set().union(*inner)
    if all(inner) and len(few) > 1 and (len(few) < len(places) or (len(places) > 1 and all(few == x for x in inner))):
        names = listed(place.relative_to(root).as_posix() for _, place in places)
        found.append(f"{names} hold the same folders ({listed(sorted(few))}): are those the classes?")
    return found


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not is_junk(path.name) and path.name[:2] != "__"
    )


def _beside(folder: Path, *, images: bool = False) -> list[Path]:
    """What lies in a folder beside the class folders."""
    found = [path for path in folder.iterdir() if not is_junk(path.name) and path not in _sub_folders(folder)]
    return [path for path in found if is_image_name(path.name)] if images else found
