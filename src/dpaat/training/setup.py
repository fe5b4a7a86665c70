"""Setup of a training: data, batches, network and method from the configuration."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lightning as L
import torch

from dpaat.config import TrainConfig
from dpaat.data import PreparedData, prepare
from dpaat.data.seen import recognized, split_before
from dpaat.data.splits import read_splits, refusals
from dpaat.errors import UserError
from dpaat.methods import METHODS, MethodContext, base, build_method, find_method
from dpaat.methods.dpaat import MIN_RAMP
from dpaat.methods.imbalance import learning_loss
from dpaat.methods.registry import MethodInfo
from dpaat.methods.teacher import SelfTeacher
from dpaat.models import build_model
from dpaat.radii import check_radius
from dpaat.runs import SPLITS, Run
from dpaat.training.datamodule import DataModule
from dpaat.training.module import TrainingModule
from dpaat.training.tuning import check_head
from dpaat.weights import open_weights


def prepare_data(
    config: TrainConfig,
    *,
    own_splits: Path | None = None,
    own_window: str | None = None,
    classes: Sequence[str] | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> PreparedData:
    """Load the data of a run by its configuration, or as splits, window and classes say of one begun before."""
    load = partial(
        prepare,
        config.data,
        image_size=config.image_size,
        fit=config.fit,
        seed=config.seed,
        classes=classes,
        window=own_window or config.window,
        cache_dir=cache_dir,
        progress=progress,
    )
    if own_splits is None:
        return load(splits=Path(config.splits) if config.splits else None, fold=config.fold)
    try:
        return load(splits=own_splits, fold=None)
    except UserError:  # the images may have other names where they were moved to
        if (found := recognized(load(splits=None, fold=None), read_splits(own_splits))) is None:
            raise
        return found


def check_splits(config: TrainConfig, data: PreparedData) -> None:
    """Raise UserError for an empty split, a class without an image to learn from, or a method that is not for these."""
    check_labels(config.method, several=data.table.multilabel)
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
    else:
        same = source.record.get("fingerprint") == data.fingerprint
        other = source.record.get("split") != {"seed": config.seed, "fold": config.fold}
        count = len(data.split) - len(data.rows("train")) if same and (other or config.splits) else 0
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
        teacher=SelfTeacher(model, config.self_teacher, several=data.table.multilabel) if config.self_teacher else None,
        static_shapes=config.static_shapes,
    )
    objective = build_method(method, context, config.options)
    return TrainingModule(config, model, objective, data.classes, method.adversarial)


def check_labels(name: str, *, several: bool) -> None:
    """Raise UserError for several labels an image and a method that knows classes only."""
    fits = [each for each in METHODS if vars(find_method(each).build).get("multilabel")]
    if several and find_method(name).name not in fits:
        raise UserError(f"method {name!r} is for one class per image; of several labels learn {', '.join(fits)}")


def first_attack(config: TrainConfig, method: MethodInfo) -> int:
    """The first epoch, from 0, in which training images are attacked, by a completed configuration and its method."""
    first = base.first_attack(float(config.adv_start or 0.0), config.epochs)
    if method.build.clean_first:
        option, least = method.build.clean_first
        first = max(first, least, math.ceil(float(config.options[option]) * config.epochs))
    return first


def attacked_visits(config: TrainConfig, method: MethodInfo) -> float:
    """How often a run attacks a training image, in the mean."""
    epochs = max(0, config.epochs - first_attack(config, method))
    return epochs * method.attacked(config.clean_weight or 0.0, config.options)


def adaptation(config: TrainConfig, method: MethodInfo) -> tuple[str, bool] | None:
    """How often a method that moves radii attacks an image in this run, and whether that is too seldom to move a size.

    None for other methods. With the rule "step" a size moves by one increment at an attack, after the first one.
    """
    if not method.moves_radius:
        return None
    visits, needed = attacked_visits(config, method), 1.0
    often = f"{_counted(visits, 'time')} in {_counted(config.epochs, 'epoch')}"
    line = f"each training image will be attacked about {often}"
    if config.options.get("rule") == "step":
        increments = max(0.0, visits - 1)  # the first one is tracked only
        needed += 1
        share = min(1.0, increments / max(MIN_RAMP, config.options["ramp"] * visits))
        line += f", which can move its size by {share:.0%} of eps"
    if visits >= needed:
        return line, False
    if not method.attacked(config.clean_weight or 0.0, config.options):
        return f"{line}: too seldom to move a size; give a smaller --clean-weight", True
    enough = config
    while attacked_visits(enough, method) < needed:
        enough = dataclasses.replace(enough, epochs=enough.epochs + 1)
    return f"{line}: too seldom to move a size, {enough.epochs} epochs would do", True


def _counted(number: float, noun: str) -> str:
    text = f"{number:.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
    return f"{text} {noun}" + ("" if text == "1" else "s")
