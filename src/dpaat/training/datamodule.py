"""The splits of a dataset for Lightning's Trainer."""

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler

from dpaat.data import PreparedData
from dpaat.data.loading import Batch, KeyedBatchSampler, SplitDataset


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
