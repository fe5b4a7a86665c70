"""What a run needs before its loop starts: data, batches, network and method, as the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch

from dpaat.config import TrainConfig
from dpaat.data import PreparedData, prepare
from dpaat.data.loading import DataModule
from dpaat.data.splits import refusals
from dpaat.errors import UserError
from dpaat.methods import Setting, build_method, find_method
from dpaat.methods.imbalance import learning_loss
from dpaat.models import Stem, build_model
from dpaat.radii import check_radius
from dpaat.training.module import TrainingModule


def prepare_data(
    config: TrainConfig,
    *,
    own_splits: Path | None = None,
    own_window: str | None = None,
    classes: Sequence[str] | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> PreparedData:
    """Load the data of a run by its configuration, or as `own_splits` and `own_window` say of one begun before.

    `classes` is the order that they had then.
    """
    given_splits = Path(config.splits) if config.splits else None
    return prepare(
        config.data,
        image_size=config.image_size,
        fit=config.fit,
        seed=config.seed,
        fold=None if own_splits else config.fold,
        splits=own_splits or given_splits,
        classes=classes,
        window=own_window or config.window,
        cache_dir=cache_dir,
        progress=progress,
    )


def check_splits(config: TrainConfig, data: PreparedData) -> None:
    """Check that there is something to learn from and to validate on.

    Raises:
        UserError: an empty split, or a class without an image to learn from.
    """
    if found := refusals(data.table, data.split):
        raise UserError(f"{config.data}: {found[0]}")


def make_datamodule(config: TrainConfig, data: PreparedData) -> DataModule:
    """Make the batches of a run."""
    return DataModule(
        data,
        batch_size=config.batch_size,
        seed=config.seed,
        balanced=config.imbalance == "sampler",
        workers=config.workers,
    )


def build(
    config: TrainConfig, data: PreparedData, *, from_checkpoint: bool, stem: Stem | None = None
) -> TrainingModule:
    """Build network, method and module of a run; weights come from a checkpoint later, or from where the run says.

    Args:
        config: the run.
        data: its data.
        from_checkpoint: whether the run goes on.
        stem: that it was begun with, where it goes on.
    """
    for name, radius in (("eps", config.radius), *(("val_eps", radius) for radius in config.val_radii)):
        check_radius(radius, config.norm, pixels=data.table.channels * config.image_size**2, name=name)
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
        stem=stem or config.stem,
        weights=Path(config.weights) if config.weights and not from_checkpoint else None,
        pretrained=config.pretrained and not from_checkpoint,
        weights_key=None if from_checkpoint else config.weights_key,
        mean=config.mean,
        std=config.std,
        input_range=config.input_range,
        classes=data.classes,
    )
    return TrainingModule(config, model, objective, data.classes, method.adversarial)
