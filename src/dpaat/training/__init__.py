"""Train a classifier into a run folder; the loop itself is Lightning's."""

import dataclasses
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from rich.console import Console

from dpaat.config import PLACE, TrainConfig, complete
from dpaat.consistency import check_end, check_start
from dpaat.data import PreparedData
from dpaat.data.splits import read_splits
from dpaat.errors import WORKER_LOST, Interrupted, UserError, out_of_memory
from dpaat.models import check_name, describe_weights
from dpaat.own_code import FIELDS, require_trust
from dpaat.precision import bfloat16_pays, emulation
from dpaat.runs import BEST, CONFIG, INFO, LAST, PREVIOUS, SPLITS, Run, moved, read_config
from dpaat.storage import read_json, writing
from dpaat.training.checkpointing import Stopped, newest_whole, own_signals
from dpaat.training.faults import TrainingError, adaptation
from dpaat.training.folder import RunFolder, headline, stopped, too_little_memory, went_wrong
from dpaat.training.loggers import make_loggers, started
from dpaat.training.module import TrainingModule
from dpaat.training.setup import build, check_splits, make_datamodule, prepare_data
from dpaat.training.trainer import check_options, make_trainer, quiet
from dpaat.training.tuning import describe_tuning


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    data: str | None = None,
    stop_after: int | None = None,
    callbacks: Sequence[L.Callback] = (),
    cache_dir: Path | None = None,
    command: str = "",
    console: Console | None = None,
) -> Path:
    """Train a classifier and leave a run folder.

    Args:
        config: what to train on what.
        out: the run folder to make.
        resume: continue the run in `out` with its own configuration; `config` gives the devices.
        data: where the data of the run to go on with are now, if they were moved.
        stop_after: end this call after so many epochs; the run can then be resumed.
        callbacks: Lightning callbacks of your own, called after those that write the run folder. What they do to the
            model they do to the run; their state is in its checkpoints and must be plain data and tensors.
        cache_dir: where decoded images are kept.
        command: the command line, noted in the run folder.
        console: where to print; None for silence.

    Returns:
        The run folder.

    Raises:
        UserError: bad input, an `out` that already holds something or that another training works in, or training that
            went wrong.
        Interrupted: a signal came, and the run is saved.
    """
    folder = RunFolder(Path(out), console)
    out, say = folder.path, folder.say
    with ExitStack() as held:
        resuming = resume and any((out / name).is_file() for name in (LAST, PREVIOUS, BEST))
        begun = resuming or (resume and (out / CONFIG).is_file())
        folder.info = read_json(out / INFO) if resuming else {}
        if folder.info.get("status") == "finished":
            say(f"{out}: already finished, nothing to resume")
            return out
        if folder.first and begun:
            held.enter_context(folder.alone())
            folder.info = read_json(out / INFO) if resuming else {}
        elif folder.first:
            folder.require_empty()
        if begun:
            config = _begun(folder, config, data)
        config, run = complete(config), Run(out, config, folder.info)
        check_options(config.trainer)
        check_name(run.network)
        if stop_after is not None and stop_after < 1:
            raise UserError(f"stop_after: {stop_after} must be at least 1 epoch")

        with moved(out) if resuming and data is None else nullcontext():
            shown = folder.console is not None
            prepared = prepare_data(config, run=run if resume else None, cache_dir=cache_dir, progress=shown)
        check_splits(config, prepared)
        if resuming:
            _check_same_data(run, prepared)
        if config.precision == "auto":
            config = _measured(config, prepared, folder)
        ids = folder.info.get("loggers") or {}
        loggers = make_loggers(config, out, ids, folder.lose)
        trainer = make_trainer(
            config, out, prepared, stop_after=stop_after, console=folder.console, loggers=loggers, further=callbacks
        )
        module = build(config, prepared, begun=run if resuming else None)
        damaged = partial(say, kind="warning")
        checkpoint = newest_whole(out, module, folder.info, damaged) if resuming else None
        if folder.first and not begun:
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
            held.enter_context(folder.alone())
            folder.require_empty()
        if checkpoint is None:
            folder.begin(config, prepared, module.model.facts, command)
        elif folder.first:
            folder.go_on(config, data)
        module.record = Run(out, config, folder.info).record
        say(headline(config, prepared, module))
        for kind, lines in (("note", prepared.table.notes), ("warning", folder.info.get("data_warnings", []))):
            for line in lines:
                say(line, kind)
        if not resuming and (weights := describe_weights(module.model.facts)):
            say(f"{weights}; {describe_tuning(config)}")
        if slow := emulation(config.precision, trainer.strategy.root_device):
            say(slow, "warning")
        line, too_seldom = adaptation(config) or ("", False)
        if line:
            (folder.lose if too_seldom else say)(line)

        if folder.first and loggers:
            try:
                found = held.enter_context(started(loggers, config, ids))
            except UserError as error:
                folder.pause(status="failed", error=str(error))
                raise
            folder.note(loggers=ids | found, status="running")
        seconds = time.perf_counter()
        _fit(trainer, module, prepared, checkpoint, folder)
        if trainer.is_global_zero:
            folder.finish(trainer, module)
            if answer := folder.info["one_answer"]:
                say(f"on validation, the kept model {answer}", "warning")
            say(folder.closing(config, time.perf_counter() - seconds))
    return out


def _begun(folder: RunFolder, config: TrainConfig, data: str | None) -> TrainConfig:
    """The configuration that a run was begun with, at the place of another one; its data may have been moved."""
    path = folder.path / CONFIG
    before = read_config(path)
    named = [value for name in FIELDS if (value := getattr(before, name)) and (name != "data" or data is None)]
    require_trust(named, folder.info.get("code"), path)
    check_start(folder.path, before, folder.info)
    check_end(folder.path, folder.info)
    place = {name: getattr(config, name) for name in PLACE}
    return dataclasses.replace(before, **place, data=before.data if data is None else data)


def _measured(config: TrainConfig, data: PreparedData, folder: RunFolder) -> TrainConfig:
    """The configuration with the faster precision in place of "auto"."""
    if not folder.first or config.num_nodes > 1 or str(config.devices) not in ("auto", "1"):
        raise UserError("precision: auto measures in one process; with several give 32-true or bf16-mixed")
    cpu = config.accelerator == "cpu" or not torch.cuda.is_available()
    rows = data.rows("train")[: config.batch_size]
    module = build(dataclasses.replace(config, compile=False), data).to("cpu" if cpu else "cuda")
    x = torch.from_numpy(np.array(data.images[rows])).to(module.device).float() / 255
    half, line = bfloat16_pays(module.model.train(), x, torch.from_numpy(data.labels[rows]).to(module.device))
    folder.say(line)
    return dataclasses.replace(config, precision="bf16-mixed" if half else "32-true")


def _check_same_data(run: Run, data: PreparedData) -> None:
    spec, own_splits = run.config.data, run.path / SPLITS
    if data.fingerprint != run.info.get("fingerprint"):
        raise UserError(
            f"{spec}: not the images that {run.path} was begun with, in the same classes and groups, or the data have "
            "changed since; train anew into another --out"
        )
    if own_splits.is_file() and read_splits(own_splits)["id"].tolist() != data.ids.tolist():
        raise UserError(
            f"{spec}: its images come in another order than {run.path} was begun with, which {SPLITS} holds; put them "
            "back into that order"
        )


def _fit(
    trainer: L.Trainer, module: TrainingModule, data: PreparedData, checkpoint: Path | None, folder: RunFolder
) -> None:
    """Run the loop; whatever ends it early is noted in the run folder and told in one line."""
    datamodule, out = make_datamodule(module.config, data), folder.path
    go_on = f"dpaat train --out {shlex.quote(str(out))} --resume"
    exhausted = worker_lost = False
    try:
        with quiet(), own_signals():
            trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        if trainer.is_global_zero:
            folder.pause(status="stopped")
        raise Interrupted(stopped(stop, out), 128 + stop.signum) from None
    except TrainingError as fault:
        text = went_wrong(fault, out, module.config, data)
        if trainer.is_global_zero:
            folder.pause(status="failed", error=text)
        raise UserError(text) from None
    except SystemExit:  # Lightning's answer to an interruption
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses these options: {error}") from None
    except (MemoryError, OSError, RuntimeError) as error:
        exhausted = out_of_memory(error)  # the error still holds what filled the memory
        worker_lost = any(text in str(error) for text in WORKER_LOST)
        if isinstance(error, RuntimeError) and (
            isinstance(error, torch.distributed.DistError) or "gloo" in str(error)  # gloo has no class for it
        ):
            raise UserError(
                f"another process of this run has ended, and its own message says why; go on with: {go_on}"
            ) from None
        if not exhausted:
            raise
    if worker_lost:
        raise UserError(
            f"one of {module.config.workers} loading processes was killed, as systems do where memory runs out; go on "
            f"without them: {go_on} --workers 0"
        )
    if exhausted:
        raise UserError(too_little_memory(module, datamodule, trainer))
