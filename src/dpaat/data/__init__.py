"""Datasets by one spec: load, decode once into a cache, split by groups."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dpaat.data.cache import decode, decode_masks
from dpaat.data.splits import assign_splits, import_splits, parse_fold
from dpaat.data.table import SPLITS, ImageTable, validate
from dpaat.errors import UserError, unknown

Fit = Literal["crop", "squash"]

LOADERS = {
    "ham10000": "dpaat.data.ham10000",
    "medmnist": "dpaat.data.medmnist",
    "folder": "dpaat.data.folder",
    "csv": "dpaat.data.csv_file",
    "synthetic": "dpaat.data.synthetic",
}


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A dataset ready for training: decoded, split and fingerprinted.

    Attributes:
        table: where it came from.
        images: (N, C, H, W) uint8, a read-only memory map of the cache.
        split: (N,) of str, "train", "val" or "test".
        fingerprint: 16 hex digits over ids, class names, labels, groups and image contents; the same for
            every image size and order of rows.
        digests: content digest of every row, of the file as it is.
        pixels: digest of every decoded image, the same whatever it was read from, see `digest_pixels`.
        fit: how images were made square, "crop" or "squash".
    """

    table: ImageTable
    images: np.ndarray
    split: np.ndarray
    fingerprint: str
    digests: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()
    fit: Fit = "crop"

    @property
    def labels(self) -> np.ndarray:
        """Class numbers, (N,) int64."""
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
        """Decode lesion masks with the geometry of the images.

        Args:
            rows: the row numbers wanted; all rows if None.

        Returns:
            (len(rows), H, W) bool, True inside the lesion; all False for a row without a mask; None if
            the dataset has no masks at all.
        """
        wanted = np.arange(len(self.table)) if rows is None else np.asarray(rows)
        return decode_masks(self.table, wanted, image_size=self.images.shape[-1], fit=self.fit)


def load_table(spec: str) -> ImageTable:
    """Read what a dataset contains, without decoding its images.

    Args:
        spec: `ham10000:DIR`, `medmnist:NAME[:FILE.npz]`, `folder:DIR`, `csv:FILE.csv` or
            `synthetic[:N[,features=both|robust|fragile]]`.

    Raises:
        UserError: an unknown kind of dataset, or anything missing or wrong in it.
    """
    scheme, _, argument = spec.partition(":")
    if scheme not in LOADERS:
        raise unknown("dataset", scheme, LOADERS)
    table: ImageTable = importlib.import_module(LOADERS[scheme]).load(argument, spec)
    return validate(table)


def prepare(
    spec: str,
    *,
    image_size: int,
    fit: Fit = "crop",
    seed: int = 0,
    fold: str | None = None,
    splits: Path | None = None,
    training: bool = True,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> PreparedData:
    """Load, decode (or find in the cache) and split a dataset.

    Args:
        spec: the dataset, see `load_table`.
        image_size: side of the square images, in pixels.
        fit: "crop" cuts the central square out, "squash" ignores the aspect ratio.
        seed: seed of the split; the split depends on nothing else but the data and `fold`.
        fold: "k/K" takes fold k of K (counted from 1) as the test split, also where the dataset has
            splits of its own.
        splits: a file written by `export_splits`, used instead of a new split.
        training: False for a dataset that is only measured on: it needs no images to learn from, and is all "test"
            where it cannot be split.
        cache_dir: where decoded images are kept; default $DPAAT_CACHE, else ~/.cache/dpaat.
        progress: show a progress bar on stderr.

    Raises:
        UserError: bad input or an unreadable image.
    """
    if image_size < 1:
        raise UserError(f"image size {image_size}: must be at least 1 pixel")
    if fit not in ("crop", "squash"):
        raise unknown("fit", fit, ("crop", "squash"))
    if fold is not None and splits is not None:
        raise UserError("give either a fold or a file of splits, not both")
    if fold is not None:
        parse_fold(fold)  # before minutes of decoding
    table = load_table(spec)
    images, digests, pixels = decode(table, image_size=image_size, fit=fit, cache_dir=cache_dir, progress=progress)
    if splits is not None:
        split = import_splits(splits, table.ids)
    else:
        split = assign_splits(table, seed=seed, fold=fold, digests=digests, training=training)
    return PreparedData(
        table=table,
        images=images,
        split=split,
        fingerprint=fingerprint(table, digests),
        digests=tuple(digests),
        pixels=tuple(pixels),
        fit=fit,
    )


def fingerprint(table: ImageTable, digests: list[str]) -> str:
    """Identify a dataset: 16 hex digits over ids, classes, labels, groups and image contents."""
    rows = sorted(zip(table.ids.tolist(), table.labels.tolist(), table.frame["group"].tolist(), digests, strict=True))
    return hashlib.sha256(repr((table.classes, rows)).encode()).hexdigest()[:16]
