"""Batches for training and validation: whole batches at once, in an order that a resumed run finds again."""

import hashlib
from collections.abc import Iterator, Sequence

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dpaat.data import PreparedData

Batch = tuple[Tensor, Tensor, Tensor]  # numbers within the split `(B,)`, uint8 images `(B, C, H, W)`, labels `(B,)`


def key(*parts: object) -> int:
    """Make a random seed of 63 bits from anything that can be printed, the same in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


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


class DataModule(L.LightningDataModule):
    """The splits of a dataset for Lightning's Trainer, which must reload the training loader at every epoch.

    Its part of a checkpoint is the position in the epoch: a run that is resumed in the middle goes on with the
    next batch. Arguments are as for `KeyedBatchSampler`; `workers` are loading processes.
    """

    def __init__(self, data: PreparedData, *, batch_size: int, seed: int, balanced: bool, workers: int) -> None:
        super().__init__()
        self.train, self.val = SplitDataset(data, "train"), SplitDataset(data, "val")
        self.batch_size, self.seed, self.balanced, self.workers = batch_size, seed, balanced, workers
        self._position = {"epoch": 0, "batches": 0}

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches are finished."""
        assert self.trainer is not None
        return {"epoch": self.trainer.current_epoch, "batches": self.trainer.fit_loop.batch_idx + 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take back what `state_dict` gave."""
        self._position = dict(state_dict)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of the current epoch."""
        trainer = self.trainer
        assert trainer is not None
        resumed = self._position["epoch"] == trainer.current_epoch
        sampler = KeyedBatchSampler(
            self.train.labels,
            self.batch_size,
            seed=self.seed,
            epoch=trainer.current_epoch,
            balanced=self.balanced,
            start=self._position["batches"] if resumed else 0,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of the validation split, in its own order."""
        sampler = torch.utils.data.BatchSampler(range(len(self.val)), 2 * self.batch_size, drop_last=False)
        return self._loader(self.val, sampler)

    def _loader(self, dataset: SplitDataset, sampler: Sampler[list[int]]) -> DataLoader[Batch]:
        pin = torch.cuda.is_available()
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=tuple, num_workers=self.workers, pin_memory=pin)
