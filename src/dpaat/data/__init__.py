"""Datasets by one spec: load, decode once into a cache, split by groups."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dpaat.data.cache import decode, in_threads, of_mask, remembered, survey
from dpaat.data.images import decode_mask
from dpaat.data.registry import DATASETS, import_loaders
from dpaat.data.splits import assign_splits, import_splits, parse_fold, split_notes
from dpaat.data.table import SPLITS, ImageTable, in_order, validate
from dpaat.data.values import AUTO, FULL, parse_window
from dpaat.errors import UserError, unknown

Fit = Literal["crop", "squash"]
MANY = 2000  # images; the split of fewer takes no time


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A dataset of N images ready for training: decoded, split and fingerprinted."""

    table: ImageTable  # where it came from
    images: np.ndarray  # (N, C, H, W) uint8, a read-only memory map of the cache
    split: np.ndarray  # (N,) of str, "train", "val" or "test"
    fingerprint: str  # see `fingerprint`; the same for every image size and order of rows
    digests: tuple[str, ...] = ()  # of the content of every row, of the file as it is
    pixels: tuple[str, ...] = ()  # digest of every decoded image, the same whatever it was read from: `digest_pixels`
    fit: Fit = "crop"  # how images were made square
    window: str = FULL  # the values that became black and white, "LO,HI", or "full" for the range of each file's type
    kinds: tuple[str, ...] = ()  # of pixels in the files, such as "8-bit", "integer"; sorted
    stacks: tuple[str, ...] = ()  # ids of images whose files hold several frames, of which the first is taken

    @property
    def labels(self) -> np.ndarray:
        """Class numbers, (N,) int64; several labels an image (N, K), see `ImageTable.labels`."""
        return self.table.labels

    @property
    def ids(self) -> np.ndarray:
        """Image ids, (N,) of str."""
        return self.table.ids

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.table.classes

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending, int64."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return np.flatnonzero(self.split == split).astype(np.int64)

    def masks(self, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Lesion masks of some rows, default all, with the geometry of the images: (len(rows), H, W) bool.

        All False for a row without a mask; None if the dataset has no masks at all.
        """
        if self.table.read_mask is None:
            return None
        wanted = range(len(self.table)) if rows is None else np.asarray(rows).tolist()
        side = self.images.shape[-1]
        one = partial(of_mask, self.table, partial(decode_mask, size=side, fit=self.fit))
        masks = np.zeros((len(wanted), side, side), bool)
        found = in_threads(lambda place: one(wanted[place]), len(wanted), "decoding masks", progress=False)
        for position, mask in enumerate(found):
            if mask is not None:
                masks[position] = mask
        return masks


def load_table(spec: Any) -> ImageTable:
    """Read what a dataset contains, without decoding its images.

    `spec` is `ham10000:DIR`, `medmnist:NAME[:FILE.npz]`, `folder:DIR`, `csv:FILE.csv`,
    `synthetic[:N[,features=both|robust|fragile]]`, `hf:NAME_OR_DIR`, `py:PKG.MODULE:NAME`, or of a kind that a plug-in
    registers; or a dataset itself, see `dpaat.data.map_style.table_of`. Raises UserError for an unknown kind of
    dataset, or anything missing or wrong in it.
    """
    if not isinstance(spec, str):
        from dpaat.data.map_style import table_of

        name = type(spec).__name__
        return validate(table_of(spec, name=name, spec=name))
    scheme, colon, argument = spec.partition(":")
    import_loaders()
    if scheme not in DATASETS:
        drive = len(scheme) == 1  # of a path of Windows
        if drive or (not colon and (Path(spec).suffix or set(spec) & set("/\\"))):
            kind = "csv" if Path(spec).suffix else "folder"
            raise UserError(f"{spec!r} does not say what kind of dataset it is; write {kind}:{spec}")
        raise unknown("dataset", scheme, DATASETS)
    return validate(DATASETS[scheme].load(argument, spec))


def prepare(
    spec: Any,
    *,
    image_size: int,
    fit: Fit = "crop",
    seed: int = 0,
    fold: str | None = None,
    splits: Path | None = None,
    classes: Sequence[str] | None = None,
    window: str = AUTO,
    known: Iterable[str] = (),
    training: bool = True,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> PreparedData:
    """Load, decode (or find in the cache) and split a dataset; UserError for bad input or an unreadable image.

    `fit` "crop" cuts the central square out, "squash" ignores the aspect ratio. The split depends on the data, `seed`
    and `fold` alone: "k/K" takes fold k of K (from 1) as the test split, also where the dataset has splits of its own.
    `splits` is a file written by `export_splits`, in place of a new split. `classes` give the order, such as that of a
    run, where the dataset has the same. For `window`, and the kinds of pixels `known` to the model that this is done
    for, see `dpaat.data.values.resolve_window`; for `training` False, of a dataset that is only measured on, see
    `assign_splits`. Decoded images are kept in `cache_dir`, default $DPAAT_CACHE, else the system's folder for caches.
    """
    if image_size < 1:
        raise UserError(f"image size {image_size}: must be at least 1 pixel")
    if fit not in ("crop", "squash"):
        raise unknown("fit", fit, ("crop", "squash"))
    if fold is not None and splits is not None:
        raise UserError("give either a fold or a file of splits, not both")
    if fold is not None:
        parse_fold(fold)  # before minutes of decoding
    parse_window(window)
    table = load_table(spec)
    if classes is not None:
        table = in_order(table, classes)
    found = survey(table, window=window, known=known, cache_dir=cache_dir, progress=progress)
    images, pixels = decode(table, found, image_size=image_size, fit=fit, cache_dir=cache_dir, progress=progress)
    if splits is not None:
        split = import_splits(splits, table.ids)
    else:
        split = _assigned(table, found.digests, cache_dir, seed=seed, fold=fold, training=training)
        table = dataclasses.replace(table, notes=(*table.notes, *split_notes(table, split, fold=fold)))
    name, digests = fingerprint(table, found.digests, found.window), tuple(found.digests)
    kinds, stacks = tuple(sorted(set(found.kinds))), tuple(table.ids[np.array(found.frames) > 1].tolist())
    return PreparedData(table, images, split, name, digests, tuple(pixels), fit, found.window, kinds, stacks)


def _assigned(table: ImageTable, digests: Sequence[str], cache_dir: Path | None, **options: Any) -> np.ndarray:
    """`assign_splits`, which takes seconds for ten thousand images, looked up where it was done before."""

    def assign() -> dict[str, np.ndarray]:
        return {"split": assign_splits(table, digests=digests, **options)}

    if len(table) < MANY:
        return assign()["split"]
    columns = [table.frame[name].tolist() for name in ("id", "label", "group", "split") if name in table.frame]
    key = ("split", version("scikit-learn"), columns, table.near_duplicates, list(digests), sorted(options.items()))
    return remembered(key, assign, cache_dir)["split"]


def fingerprint(table: ImageTable, digests: Sequence[str], window: str = FULL) -> str:
    """Identify a dataset: 16 hex digits over ids, classes, labels, groups, image contents and a window of values."""
    group = table.frame["group"]
    if table.pseudonyms:  # the same on every machine
        group = table.frame["id"].groupby(group).transform("min")
    rows = sorted(zip(table.ids.tolist(), table.labels.tolist(), group.tolist(), digests, strict=True))
    parts = (table.classes, rows) if window == FULL else (table.classes, rows, window)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
