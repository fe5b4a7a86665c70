"""Batches for training and validation: whole batches at once, in an order that a resumed run finds again."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dpaat.data import PreparedData

Batch = tuple[Tensor, Tensor, Tensor]  # numbers within the split `(B,)`, uint8 images `(B, C, H, W)`, labels `(B,)`


def key(*parts: object) -> int:
    """Make a random seed of 63 bits from anything that can be printed, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


class SplitDataset(Dataset[Batch]):
    """One split of a dataset; it hands out whole batches of uint8 images."""

    def __init__(self, data: PreparedData, split: str) -> None:
        self.rows = data.rows(split)
        self.images = data.images
        self.labels = torch.from_numpy(data.labels[self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Read a batch; see `Batch`."""
        index = torch.as_tensor(np.asarray(positions))
        images = torch.from_numpy(np.ascontiguousarray(self.images[self.rows[index.numpy()]]))
        return index, images, self.labels[index]


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """Cut an epoch of `count` images into batches of nearly equal size, none larger than asked for.

    So no image is dropped, and no batch is left too small for BatchNorm; where batches are to hold 2, one holds an odd
    third.
    """
    batches = max(1, min(-(-count // batch_size), count // 2))
    least, larger = divmod(count, batches)
    return [least + (number < larger) for number in range(batches)]


class KeyedBatchSampler(Sampler[list[int]]):
    """Batches of one epoch in an order that depends on (seed, epoch) alone.

    `labels` are the classes of every sample `(N,)`; if `balanced`, N samples are drawn with replacement, every class
    with the same chance. `batch_size` and `sizes` count images over all processes. `start` batches are finished; they
    still count in the length. With several processes each takes its share of every batch: of W the one numbered r takes
    r, r + W, r + 2 W, ...
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        balanced: bool = False,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        generator = torch.Generator().manual_seed(key(seed, epoch))
        if balanced:
            chance = 1 / torch.bincount(labels)[labels].double()
            order = torch.multinomial(chance, len(labels), replacement=True, generator=generator)
        else:
            order = torch.randperm(len(labels), generator=generator)
        self.start = start
        self.sizes = batch_sizes(len(labels), batch_size)
        # Tensors that share the order's memory: as lists of Python's integers they would take five times as much.
        self.batches = [part[rank::world_size] for part in order.split(self.sizes)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (part.tolist() for part in self.batches[self.start :])
