"""Datasets that are Python objects: any map-style one of images and labels, named by `py:` or given from a program."""

import io
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch.utils.data import IterableDataset

from dpaat.data.cache import look_at
from dpaat.data.csv_file import METADATA
from dpaat.data.files import ImageFile
from dpaat.data.frames import class_order, is_unknown, metadata, order_notes, split_name
from dpaat.data.images import channels_of, header_channels
from dpaat.data.registry import register_dataset
from dpaat.data.table import UNGROUPED, Encoded, ImageTable
from dpaat.errors import UserError, first_line, listed
from dpaat.own_code import PREFIX, call, resolve

FORMS = "a map-style dataset of (image, label), or a dict of those by split"
FLOATS = "floating-point images are read as 256 grey levels from 0 to 1, in which --window counts"
LOOKS = 32
"""Items that are looked at for their channels where labels are known without reading the images."""


@register_dataset("py", "py:PKG.MODULE:NAME", "a map-style dataset of your own, or a function that makes it")
def load(argument: str, spec: str) -> ImageTable:
    """Make the dataset that a name refers to, see `table_of`; raises UserError if it is none."""
    found = resolve(PREFIX + argument, "data")
    made = found if _is_dataset(found) else call(found, spec, "data", {})
    return table_of(made, name=argument.rpartition(":")[2].rpartition(".")[2], spec=spec)


def table_of(made: Any, *, name: str, spec: str) -> ImageTable:
    """Describe a dataset that is a Python object.

    Its items are `(image, label)`, perhaps with more behind, or dictionaries with "image" and "label". An image is a
    PIL one, a path, an array `(H, W)`, `(H, W, C)` or `(C, H, W)`, or a tensor `(C, H, W)`, of whole numbers or floats
    in [0, 1]; a label is a number or a name. A dict from "train", "val" and "test" to such datasets has splits.
    Attributes that are used where there are any, one value an item: `groups` (of patients or lesions), `ids`, `splits`,
    `age`, `sex`, `site`, `source`, and `targets` or `labels`, which spare reading all images for them; and `classes`,
    names in the order of the numbers. They are found through `Subset` and `ConcatDataset`. Raises UserError: no such
    dataset, or items that are not of this form.
    """
    parts: dict[str | None, Any] = {None: made}
    if isinstance(made, Mapping):
        parts = {split_name(str(key)): part for key, part in made.items()}
        if None in parts or len(parts) < len(made):
            raise UserError(f"{spec}: the splits {', '.join(map(str, made))} are not called train, val and test")
    for part in parts.values():
        if not _is_dataset(part):
            raise UserError(f"{spec}: is {type(part).__name__}; give {FORMS}")
    reader = _Items(spec, [(part, split, number) for split, part in parts.items() for number in range(len(part))])
    raw, columns = list[Any](), dict[str, list[Any]]()
    for part in parts.values():
        found = _column(part, len(part), "targets", "labels")
        raw += [None] * len(part) if found is None else found
        for wanted in ("ids", "groups", "splits", *METADATA):
            if (values := _column(part, len(part), wanted, strict=spec)) is not None:
                columns.setdefault(wanted, []).extend(values)
    for wanted, values in columns.items():
        if len(values) != len(raw):
            raise UserError(f"{spec}: only some of its splits have {wanted!r}")
    if not raw:
        raise UserError(f"{spec}: no images")
    channels = reader.channels = reader.look(raw)
    labels = [_label(value, reader.describe(row)) for row, value in enumerate(reader.labels)]
    names = [_class_names(part, spec) for part in parts.values()]
    classes, numbers = _classes(labels, np.repeat(np.arange(len(parts)), [*map(len, parts.values())]), names, spec)
    reader.known = [str(value) for value in labels]
    frame = pd.DataFrame({"id": list(map(str, columns.get("ids", reader.names))), "label": numbers})
    groups = pd.Series(list(map(str, columns["groups"]))) if "groups" in columns else frame["id"]
    alone = groups.map(is_unknown)
    frame["group"] = groups.mask(alone, frame["id"])
    if None not in parts or "splits" in columns:
        sides = [split for _, split, _ in reader.items] if None not in parts else list(map(str, columns["splits"]))
        frame["split"] = [split_name(str(side)) for side in sides]
        if frame["split"].isna().any():
            raise UserError(f"{spec}: split {sides[int(frame['split'].isna().argmax())]!r}; use train, val or test")
    given = pd.DataFrame({n: ["" if v is None else str(v) for v in columns[n]] for n in METADATA if n in columns})
    kept, problems = metadata(given, {n: n for n in METADATA})
    nameless = [f"{alone.sum()} of {len(raw)} images have no group and count as independent"] * bool(alone.any())
    notes = (*(nameless if "groups" in columns else [UNGROUPED]), *([FLOATS] if reader.floating else []))
    return ImageTable(
        name=name,
        spec=spec,
        frame=frame.assign(**kept),
        classes=classes,
        channels=channels,
        read=reader,
        describe=reader.describe,
        notes=(*(() if any(names) else order_notes(classes)), *notes),
        warnings=problems,
    )


def encoded(image: Any) -> Encoded:
    """Take an image as a dataset gives it; ValueError for what is none, or has values that are not known to be grey."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return ImageFile(Path(image)).read()
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        return np.array(image) if image.mode in ("L", "RGB") else _file(image)
    tensor = isinstance(image, torch.Tensor)
    pixels = image.detach().cpu().numpy() if tensor else np.asarray(image)
    if pixels.ndim == 3 and (tensor or (pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4))):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "buif" or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)):
        raise ValueError(f"an image is (H, W) or of 3 channels, not {tuple(pixels.shape)} of {pixels.dtype}")
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"floating-point values from {low:.4g} to {high:.4g}; give [0, 1], or whole numbers as they are, and "
                "leave normalization to --mean and --std"
            )
        grey: np.ndarray = np.rint(pixels * 255).astype(np.uint8)
        return grey
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.ndim == 3:
        raise ValueError(f"colour of {pixels.dtype}; give uint8, or floating-point values in [0, 1]")
    if pixels.dtype == np.uint16:
        return _file(Image.fromarray(np.ascontiguousarray(pixels)))
    if pixels.min() < -(2**31) or pixels.max() >= 2**31:
        raise ValueError("whole numbers beyond 32 bits")
    return _file(Image.fromarray(np.ascontiguousarray(pixels, dtype=np.int32)))


@dataclass(eq=False)
class _Items:
    """Reads the images of items, of one dataset or several, one at a time: not all that users write bears threads."""

    spec: str
    items: list[tuple[Any, str | None, int]]
    labels: list[Any] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    floating: bool = False
    channels: int = 3
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def names(self) -> list[str]:
        return [f"{split}-{number:06d}" if split else f"{number:06d}" for _, split, number in self.items]

    def describe(self, row: int) -> str:
        _, split, number = self.items[row]
        return f"item {number} of {f'{split} of ' if split else ''}{self.spec}"

    def __call__(self, row: int) -> Encoded:
        image, label = self._pair(row)
        if self.known and str(_label(label, self.describe(row))) != self.known[row]:
            raise ValueError(f"its label is {label!r}, but its targets say {self.known[row]!r}")
        found = encoded(image)
        if self.channels == 1 and self.known and _channels_of(found) == 3:
            raise ValueError("it is in colour, but those that were looked at are grey; give all of them in one kind")
        return found

    def look(self, labels: Sequence[Any]) -> int:
        """Complete the labels, look at some images, or at all if need be, and tell how many channels there are."""
        self.labels, channels = list(labels), 1
        some = set(np.linspace(0, len(labels) - 1, LOOKS, dtype=int).tolist())
        for row, label in enumerate(labels):
            if label is None or row in some:
                image, own = self._pair(row)
                self.labels[row] = own if label is None else label
                channels = max(channels, _channels(image))
                self.floating |= str(getattr(image, "dtype", "")).find("float") >= 0
        try:
            same = look_at(encoded(self._pair(0)[0])) == look_at(encoded(self._pair(0)[0]))
        except (ValueError, OSError):
            return channels  # it is told with its item when all are read
        if not same:
            remedy = "give the images as they are; --augment and --transform change them in training"
            raise UserError(f"{self.describe(0)}: is another image each time it is read; {remedy}")
        return channels

    def _pair(self, row: int) -> tuple[Any, Any]:
        dataset, _, number = self.items[row]
        try:
            with self.lock:
                item = dataset[number]
        except Exception as error:
            raise UserError(f"{self.describe(row)}: fails with {type(error).__name__}: {first_line(error)}") from None
        if isinstance(item, Mapping) and {"image", "label"} <= item.keys():
            return item["image"], item["label"]
        if isinstance(item, tuple | list) and len(item) >= 2:
            return item[0], item[1]
        said = f"a dict with {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise UserError(f'{self.describe(row)}: is {said}, not (image, label) or a dict with "image" and "label"')


def _is_dataset(made: Any) -> bool:
    if isinstance(made, type | IterableDataset | str | Mapping):
        return isinstance(made, Mapping) and bool(made) and all(map(_is_dataset, made.values()))
    return hasattr(made, "__getitem__") and hasattr(made, "__len__")


def _channels(image: Any) -> int:
    """Of an image as it is given: 1 if it is grey, else 3."""
    if isinstance(image, Image.Image):
        return channels_of(image)
    with suppress(ValueError, OSError):
        return _channels_of(encoded(image))
    return 1


def _channels_of(image: Encoded) -> int:
    return header_channels(image) if isinstance(image, bytes) else image.ndim if image.ndim == 3 else 1


def _file(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    return buffer.getvalue()


def _column(dataset: Any, count: int, *names: str, strict: str = "") -> list[Any] | None:
    """An attribute with a value for each item, through `Subset` and `ConcatDataset`; None without one."""
    for name in names:
        found = getattr(dataset, name, None)
        if (
            found is not None
            and not callable(found)
            and not isinstance(found, str | Mapping)
            and hasattr(found, "__len__")
        ):
            if len(found) == count:
                return list(found)
            if strict:
                raise UserError(f"{strict}: {len(found)} {name} for {count} items; give one for each, in their order")
    if (indices := getattr(dataset, "indices", None)) is not None and _is_dataset(getattr(dataset, "dataset", None)):
        whole = _column(dataset.dataset, len(dataset.dataset), *names, strict=strict)
        return None if whole is None else [whole[number] for number in indices]
    columns = [_column(part, len(part), *names, strict=strict) for part in getattr(dataset, "datasets", None) or ()]
    if not columns or any(column is None for column in columns):
        return None
    return [value for column in columns for value in column or ()]


def _class_names(dataset: Any, spec: str) -> list[str] | None:
    """Names in the order of the numbers; UserError where parts of one dataset have different ones."""
    if found := getattr(dataset, "classes", None):
        return list(map(str, found))
    if found := getattr((getattr(dataset, "features", None) or {}).get("label"), "names", None):  # of `datasets`
        return list(map(str, found))
    if isinstance(found := getattr(dataset, "class_to_idx", None), Mapping):
        return sorted(map(str, found), key=lambda name: found[name])
    inner = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())]
    lists = [names for each in inner if each is not None and (names := _class_names(each, spec))]
    for names in lists:
        if names != lists[0]:
            both = f"{listed(lists[0])} and {listed(names)}"
            raise UserError(f"{spec}: datasets that were put together number their classes differently, {both}")
    return lists[0] if lists else None


def _label(value: Any, place: str) -> int | str:
    """A label as a number or a name; UserError for anything else."""
    if isinstance(value, str):
        return value
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.size != 1:
        raise UserError(
            f"{place}: has a label of {array.size} values; give one class; several labels an image come as csv:"
        )
    one = array.reshape(-1)[0]
    if isinstance(one, str):
        return str(one)
    if array.dtype.kind not in "buif" or one != int(one) or one < 0:
        raise UserError(f"{place}: has the label {value!r}; give a class number from 0, or a name")
    return int(one)


def _classes(
    labels: Sequence[int | str], parts: np.ndarray, names: Sequence[list[str] | None], spec: str
) -> tuple[tuple[str, ...], list[int]]:
    """Class names in the order of their numbers, and the number of every label.

    `parts` is the part of each label, `(N,)`; each part may have `names` of its own, which number its labels.
    """
    lists = [each for each in names if each]
    if not lists:
        classes = class_order(map(str, labels))
        number = {name: k for k, name in enumerate(classes)}
        return classes, [number[str(label)] for label in labels]
    if len(lists) < len(names) and any(each != lists[0] for each in lists):
        raise UserError(f"{spec}: its splits name their classes differently, and one not at all; name them in all")
    place = {name: k for k, name in enumerate(dict.fromkeys(name for each in lists for name in each))}
    numbers = []
    for label, part in zip(labels, parts, strict=True):
        own = names[part] or lists[0]
        name = own[label] if isinstance(label, int) and label < len(own) else label
        if name not in own:
            raise UserError(f"{spec}: label {label!r} is none of its {len(own)} classes, {', '.join(own)}")
        numbers.append(place[str(name)])
    return tuple(place), numbers
