"""Rows of the images that are evaluated: some of a memory map, and a stratified draw of them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RowView:
    """Some rows of a memory map, read when indexed; grey images are shown as RGB where a model needs three channels."""

    images: np.ndarray  # `(M, C, H, W)`, uint8
    rows: np.ndarray  # `(N,)` row numbers
    channels: int  # channels wanted, C or 3

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        images = np.asarray(self.images[self.rows[positions]])
        return np.repeat(images, self.channels // images.shape[1], axis=1)


def stratified_draw(labels: np.ndarray, n: int, *, seed: int, at_least: int = 1) -> np.ndarray:
    """Draw n positions, each class of `labels` `(N,)` in proportion to its size, but at least so many while it allows.

    Returns ascending positions, int64; all of them if N is not larger than n.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)
    take = np.floor(exact).astype(np.int64)
    floor = np.minimum(at_least, counts)
    if n < floor.sum():
        floor = np.minimum(1, counts) if n >= len(classes) else np.zeros_like(counts)
    take = np.maximum(take, floor)
    while take.sum() != n:
        step = 1 if take.sum() < n else -1
        allowed = take < counts if step > 0 else take > floor
        take[np.argmax(np.where(allowed, step * (exact - take), -np.inf))] += step
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == k))[:count] for k, count in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
