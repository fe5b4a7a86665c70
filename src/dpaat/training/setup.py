"""What a run needs before its loop starts: data, batches, network and method, as the configuration says."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch

from dpaat.config import TrainConfig
from dpaat.data import PreparedData, prepare
from dpaat.data.loading import DataModule
from dpaat.data.seen import recognized
from dpaat.data.splits import read_splits
from dpaat.errors import UserError
from dpaat.methods import Setting, build_method, find_method
from dpaat.methods.imbalance import learning_loss
from dpaat.models import build_model
from dpaat.training.faults import listed
from dpaat.training.module import TrainingModule


def prepare_data(
    config: TrainConfig, *, own_splits: Path | None = None, cache_dir: Path | None = None, progress: bool = True
) -> PreparedData:
    """Load the data of a run, split by its configuration, or as `own_splits` says where it was begun before."""

    def load(splits: Path | None, fold: str | None) -> PreparedData:
        return prepare(
            config.data,
            image_size=config.image_size,
            fit=config.fit,
            seed=config.seed,
            fold=fold,
            splits=splits,
            cache_dir=cache_dir,
            progress=progress,
        )

    if own_splits is None:
        return load(Path(config.splits) if config.splits else None, config.fold)
    try:
        return load(own_splits, None)
    except UserError:  # the images may have other names where they were moved to
        if (found := recognized(load(None, None), read_splits(own_splits))) is None:
            raise
        return found


def check_splits(config: TrainConfig, data: PreparedData) -> None:
    """Check that there is something to learn from and to validate on.

    Raises:
        UserError: an empty split, or a class without an image to learn from.
    """
    for split in ("train", "val"):
        if not len(data.rows(split)):
            raise UserError(f"{config.data}: the {split} split is empty; give more images or another --splits")
    absent = [name for label, name in enumerate(data.classes) if label not in data.labels[data.rows("train")]]
    if absent:
        raise UserError(
            f"{config.data}: no image of class {listed(absent)} in the training split, so it cannot be learned; give "
            "more images, another --splits, or leave the class out"
        )


def make_datamodule(config: TrainConfig, data: PreparedData) -> DataModule:
    """Make the batches of a run."""
    return DataModule(
        data,
        batch_size=config.batch_size,
        seed=config.seed,
        balanced=config.imbalance == "sampler",
        workers=config.workers,
    )


def build(config: TrainConfig, data: PreparedData, *, from_checkpoint: bool) -> TrainingModule:
    """Build network, method and module of a run; weights come from a checkpoint later, or from where the run says."""
    method = find_method(config.method)
    labels = torch.from_numpy(data.labels[data.rows("train")])
    setting = Setting(
        labels=labels,
        num_classes=len(data.classes),
        epochs=config.epochs,
        learn_loss=learning_loss(config.imbalance, labels, len(data.classes)),
        eps=config.radius,
        steps=config.steps,
        norm=config.norm,
        clean_weight=float(config.clean_weight or 0.0),
    )
    objective = build_method(method, setting, config.options)
    L.seed_everything(config.seed, verbose=False)
    model = build_model(
        config.model,
        num_classes=len(data.classes),
        channels=data.table.channels,
        image_size=config.image_size,
        stem=config.stem,
        weights=Path(config.weights) if config.weights and not from_checkpoint else None,
        pretrained=config.pretrained and not from_checkpoint,
    )
    return TrainingModule(config, model, objective, data.classes, method.adversarial)
