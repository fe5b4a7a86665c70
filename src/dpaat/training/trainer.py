"""Lightning's Trainer, set up to leave a run folder."""

import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console

from dpaat.config import TrainConfig
from dpaat.data import PreparedData
from dpaat.data.loading import batch_sizes
from dpaat.errors import UserError, unknown
from dpaat.runs import BEST, LAST
from dpaat.training.callbacks import EpochBar, EpochLog, StopAfter
from dpaat.training.checkpointing import AtomicCheckpointIO, BestCheckpoint, Keeper
from dpaat.training.faults import overfitted

_NAMES = """
barebones callbacks check_val_every_n_epoch enable_checkpointing fast_dev_run inference_mode limit_val_batches logger
max_epochs max_steps max_time min_epochs min_steps num_sanity_val_steps overfit_batches plugins
reload_dataloaders_every_n_epochs use_distributed_sampler val_check_interval
"""
LOGGERS, SEEDS = ("lightning.pytorch", "lightning.fabric"), ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
OWN_OPTIONS = frozenset(_NAMES.split())
"""Trainer options that are not the user's: every epoch ends with one validation, one checkpoint and one row."""


def make_trainer(
    config: TrainConfig,
    out: Path,
    data: PreparedData,
    *,
    stop_after: int | None,
    console: Console | None,
    loggers: Sequence[Logger] = (),
    further: Sequence[L.Callback] = (),
) -> L.Trainer:
    """Make the Trainer of a run, with everything that writes into the run folder; UserError where Lightning refuses.

    `further` callbacks come after our own, whose best checkpoint is the run's.
    """
    train_rows = data.rows("train")
    class_names = np.array(data.table.label_names)[train_rows]
    chances = 2 if data.table.multilabel else len(data.classes)
    watch = partial(overfitted, out, config, chances)
    callbacks: list[L.Callback] = [
        EpochLog(out, data.ids[train_rows], class_names, console, watch),
        BestCheckpoint(
            out / Path(BEST).parent,
            filename=Path(BEST).stem,
            monitor="val/score",
            mode="max",
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        Keeper(out / LAST, config.save_every),
    ]
    show_bar = console is not None and console.is_terminal
    callbacks += [EpochBar(refresh_rate=1, leave=False)] * show_bar
    callbacks += [] if stop_after is None else [StopAfter(stop_after)]
    callbacks += further
    chosen = {name: getattr(config, name) for name in ("precision", "accelerator", "devices", "num_nodes", "strategy")}
    options: dict[str, Any] = chosen | {
        "max_epochs": config.epochs,
        "default_root_dir": out,
        "logger": list(loggers),
        "callbacks": callbacks,
        "plugins": [AtomicCheckpointIO()],
        "enable_progress_bar": show_bar,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "reload_dataloaders_every_n_epochs": 1,
        "use_distributed_sampler": False,
        "inference_mode": False,
    }
    try:
        with quiet():
            trainer = L.Trainer(**options | config.trainer)
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        chosen = {name: value for name, value in chosen.items() if value != getattr(TrainConfig, name)}
        chosen |= {f"trainer.{name}": value for name, value in config.trainer.items()}
        listed = ", ".join(f"{name} {value}" for name, value in chosen.items())
        raise UserError(f"Lightning refuses {listed or 'these options'}: {str(error).splitlines()[0]}") from None
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise UserError(f"strategy: {config.strategy} starts its processes in a way that loses the run; use ddp")
    cores = os.cpu_count() or 1
    if (
        isinstance(launcher, _SubprocessScriptLauncher)
        and not launcher.cluster_environment.creates_processes_externally
        and isinstance(trainer.accelerator, CPUAccelerator)
        and trainer.num_devices > cores
    ):
        raise UserError(f"devices: {trainer.num_devices} processes are more than the {cores} cores of this machine")
    smallest = min(batch_sizes(len(train_rows), config.batch_size))
    processes = trainer.num_devices * trainer.num_nodes
    if processes > 1 and smallest < 2 * processes:
        raise UserError(
            f"batch_size: a batch of {smallest} images leaves less than 2 to one of {processes} processes; "
            "take a larger --batch-size or fewer processes"
        )
    return trainer


def check_options(options: dict[str, Any]) -> None:
    """Raise UserError for what is no Trainer option, or one that would break what a run folder promises."""
    known = inspect.signature(L.Trainer).parameters
    own = OWN_OPTIONS | {name for name in known if hasattr(TrainConfig, name)}
    for name in options:
        if name not in known:
            raise unknown("Trainer option", name, set(known) - own)
        if name in own:
            raise UserError(f"trainer.{name}: is set by dpaat itself; see `dpaat train --help`")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advertisements and hints about loader workers off the terminal."""
    with warnings.catch_warnings():
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        yield


@contextmanager
def isolated() -> Iterator[None]:
    """Give the caller back random generators, Lightning's seed variables and the levels of its loggers as they were."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    seeds = {name: os.environ.get(name) for name in SEEDS}
    with isolate_rng(include_cuda=torch.cuda.is_initialized()):  # to ask CUDA would start it on every device
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            for name, seed in seeds.items():
                os.environ.pop(name, None)
                if seed is not None:
                    os.environ[name] = seed
