"""Setup of a training: data, batches, network and method from the configuration."""

from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler

from dpaat.config import TrainConfig
from dpaat.data import PreparedData, prepare
from dpaat.data.loading import Batch, KeyedBatchSampler, SplitDataset
from dpaat.data.seen import UNNAMED, recognized, same_split, split_before
from dpaat.data.splits import read_splits, refusals
from dpaat.data.values import FULL
from dpaat.errors import UserError
from dpaat.methods import METHODS, MethodContext, build_method, find_method
from dpaat.methods.imbalance import learning_loss
from dpaat.methods.teacher import SelfTeacher
from dpaat.models import build_model
from dpaat.radii import check_radius
from dpaat.runs import SPLITS, Run
from dpaat.training.module import TrainingModule
from dpaat.training.optimizer import check_head
from dpaat.weights import open_weights


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


def prepare_data(
    config: TrainConfig, *, run: Run | None = None, cache_dir: Path | None = None, progress: bool = True
) -> PreparedData:
    """Load the data of a training by its configuration, and as the folder of a `run` says that goes on."""
    info = {} if run is None else run.info
    load = partial(
        prepare,
        config.data,
        image_size=config.image_size,
        fit=config.fit,
        seed=config.seed,
        classes=info.get("classes"),
        window=(info.get("window") or FULL) if info else config.window,
        cache_dir=cache_dir,
        progress=progress,
    )
    if run is None or not (own_splits := run.path / SPLITS).is_file():
        return load(splits=Path(config.splits) if config.splits else None, fold=config.fold)
    try:
        return load(splits=own_splits, fold=None)
    except UserError:  # the images may have other names where they were moved to
        if (found := recognized(load(splits=None, fold=None), read_splits(own_splits))) is None:
            raise
        return found


def check_splits(config: TrainConfig, data: PreparedData) -> None:
    """Raise UserError for an empty split, a class without an image to learn from, or a method that is not for these."""
    fits = [name for name in METHODS if vars(find_method(name).build).get("multilabel")]
    if data.table.multilabel and find_method(config.method).name not in fits:
        raise UserError(
            f"method {config.method!r} is for one class per image; of several labels learn {', '.join(fits)}"
        )
    if found := refusals(data.table, data.split):
        raise UserError(f"{config.data}: {found[0]}")


def learned_before(config: TrainConfig, data: PreparedData) -> list[str]:
    """Say which images of the other splits the weights that a run begins with have learned from, as far as is known."""
    if not config.weights:
        return []
    source = open_weights(Path(config.weights))
    if source.folder is not None:
        before = split_before(data, read_splits(source.folder / SPLITS))
        count = int(((data.split != "train") & (before == "train") | (data.split == "test") & (before == "val")).sum())
    elif source.record.get("fingerprint") != data.fingerprint:
        return [f"{source.path}: {UNNAMED}"] if source.record else []
    else:
        same = same_split(source.record, data, seed=config.seed, fold=config.fold)
        known = "split_digest" in source.record or not config.splits
        count = 0 if same and known else len(data.split) - len(data.rows("train"))
    if not count:
        return []
    exact = "" if source.folder is not None else "up to "
    return [
        f"{source.path} has learned from {exact}{count:,} images of the val and test splits: scores on them are too "
        "high; take the seed, fold or --splits that those weights were trained with"
    ]


def make_datamodule(config: TrainConfig, data: PreparedData) -> DataModule:
    """Make the batches of a run."""
    balanced = config.imbalance == "sampler"
    return DataModule(data, batch_size=config.batch_size, seed=config.seed, balanced=balanced, workers=config.workers)


def build(config: TrainConfig, data: PreparedData, *, begun: Run | None = None) -> TrainingModule:
    """Build network, method and module of a run; weights come from where it says, or later from a checkpoint.

    `begun` is the run that goes on from its checkpoint.
    """
    for name, radius in (("eps", config.radius), *(("val_eps", radius) for radius in config.val_radii)):
        check_radius(radius, config.norm, pixels=data.table.channels * config.image_size**2, name=name)
    method = find_method(config.method)
    labels = torch.from_numpy(data.labels[data.rows("train")])
    L.seed_everything(config.seed, verbose=False)
    model = build_model(
        begun.network if begun else config.model,
        num_classes=len(data.classes),
        channels=data.table.channels,
        image_size=config.image_size,
        stem=begun.stem if begun else config.stem,
        weights=Path(config.weights) if config.weights and not begun else None,
        pretrained=config.pretrained and not begun,
        weights_key=None if begun else config.weights_key,
        mean=config.mean,
        std=config.std,
        input_range=config.input_range,
        classes=data.classes,
        options=begun.options if begun else None,
    )
    check_head(config, model, len(data.classes))
    context = MethodContext(
        labels=labels,
        num_classes=len(data.classes),
        epochs=config.epochs,
        learn_loss=learning_loss(config.imbalance, labels, len(data.classes)),
        eps=config.radius,
        steps=config.steps,
        norm=config.norm,
        clean_weight=float(config.clean_weight or 0.0),
        adv_start=float(config.adv_start or 0.0),
        teacher=SelfTeacher(model, config.self_teacher) if config.self_teacher else None,
        static_shapes=config.static_shapes,
    )
    objective = build_method(method, context, config.options)
    return TrainingModule(config, model, objective, data.classes, method.adversarial)
