"""Train a classifier into a run folder; the loop itself is Lightning's."""

import dataclasses
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from rich.console import Console

from dpaat.config import PLACE, TrainConfig, complete, unused
from dpaat.consistency import check_end, check_start
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
from dpaat.training.optimizer import describe_tuning
from dpaat.training.setup import build, check_splits, make_datamodule, prepare_data
from dpaat.training.trainer import check_options, make_trainer, quiet


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
    if stop_after is not None and stop_after < 1:
        raise UserError(f"stop_after: {stop_after} must be at least 1 epoch")
    training = _Training(config, RunFolder(Path(out), console), resume=resume, data=data)
    with ExitStack() as held:
        if training.claim(held):
            training.prepare(cache_dir)
            training.make(stop_after, callbacks)
            training.begin(held, command)
            training.run(held)
    return training.folder.path


class _Training:
    """A training on its way: its configuration, its run folder, and where its data are now if they were moved."""

    def __init__(self, config: TrainConfig, folder: RunFolder, *, resume: bool, data: str | None) -> None:
        self.config, self.folder, self.out, self.moved_to = config, folder, folder.path, data
        self.resuming = resume and any((self.out / name).is_file() for name in (LAST, PREVIOUS, BEST))
        self.begun = self.resuming or (resume and (self.out / CONFIG).is_file())

    def claim(self, held: ExitStack) -> bool:
        """Take the folder, and the configuration of the run in it that goes on; False where that is finished."""
        folder, path = self.folder, self.out / CONFIG
        folder.info = read_json(self.out / INFO) if self.resuming else {}
        if folder.info.get("status") == "finished":
            folder.say(f"{self.out}: already finished, nothing to resume")
            return False
        if folder.first and self.begun:
            held.enter_context(folder.alone())
            folder.info = read_json(self.out / INFO) if self.resuming else {}
        elif folder.first:
            folder.require_empty()
        if self.begun:
            before, data = read_config(path), self.moved_to
            named = [value for name in FIELDS if (value := getattr(before, name)) and (name != "data" or data is None)]
            require_trust(named, folder.info.get("code"), path)
            check_start(self.out, before, folder.info)
            check_end(self.out, folder.info)
            place = {name: getattr(self.config, name) for name in PLACE}
            self.config = dataclasses.replace(before, **place, data=before.data if data is None else data)
        self.idle, self.config = unused(self.config), complete(self.config)
        check_options(self.config.trainer)
        check_name(self.as_run.network)
        return True

    @property
    def as_run(self) -> Run:
        """The run as its folder has it."""
        return Run(self.out, self.config, self.folder.info)

    def prepare(self, cache_dir: Path | None) -> None:
        """Load the data; UserError where they are not those of the run that goes on."""
        config, shown = self.config, self.folder.console is not None
        with moved(self.out) if self.resuming and self.moved_to is None else nullcontext():
            run = self.as_run if self.begun else None
            self.data = data = prepare_data(config, run=run, cache_dir=cache_dir, progress=shown)
        check_splits(config, data)
        if self.resuming and data.fingerprint != self.folder.info.get("fingerprint"):
            raise UserError(
                f"{config.data}: not the images that {self.out} was begun with, in the same classes and groups, or the "
                "data have changed since; train anew into another --out"
            )
        splits = self.out / SPLITS
        if self.resuming and splits.is_file() and read_splits(splits)["id"].tolist() != data.ids.tolist():
            raise UserError(
                f"{config.data}: its images come in another order than {self.out} was begun with, which {SPLITS} "
                "holds; put them back into that order"
            )

    def faster_precision(self) -> str:
        """That of the two in which a batch takes less time."""
        config, data = self.config, self.data
        if not self.folder.first or config.num_nodes > 1 or str(config.devices) not in ("auto", "1"):
            raise UserError("precision: auto measures in one process; with several give 32-true or bf16-mixed")
        cpu = config.accelerator == "cpu" or not torch.cuda.is_available()
        rows = data.rows("train")[: config.batch_size]
        module = build(dataclasses.replace(config, compile=False), data).to("cpu" if cpu else "cuda")
        x = torch.from_numpy(np.array(data.images[rows])).to(module.device).float() / 255
        half, line = bfloat16_pays(module.model.train(), x, torch.from_numpy(data.labels[rows]).to(module.device))
        self.folder.say(line)
        return "bf16-mixed" if half else "32-true"

    def make(self, stop_after: int | None, callbacks: Sequence[L.Callback]) -> None:
        """Make trackers, trainer and network, and find the checkpoint to go on from."""
        if self.config.precision == "auto":
            self.config = dataclasses.replace(self.config, precision=self.faster_precision())
        config, folder = self.config, self.folder
        self.loggers = make_loggers(config, self.out, folder.info.get("loggers") or {}, folder.lose)
        options: dict[str, Any] = {"stop_after": stop_after, "loggers": self.loggers, "further": callbacks}
        self.trainer = make_trainer(config, self.out, self.data, console=folder.console, **options)
        self.module = build(config, self.data, begun=self.as_run if self.resuming else None)
        damaged = partial(folder.say, kind="warning")
        self.checkpoint = newest_whole(self.out, self.module, folder.info, damaged) if self.resuming else None

    def begin(self, held: ExitStack, command: str) -> None:
        """Write what the run is begun with, or that it goes on; and say what it is."""
        folder, config, say, facts = self.folder, self.config, self.folder.say, self.module.model.facts
        if folder.first and not self.begun:
            with writing(self.out):
                self.out.mkdir(parents=True, exist_ok=True)
            held.enter_context(folder.alone())
            folder.require_empty()
        if self.checkpoint is None:
            folder.begin(config, self.data, facts, command, self.idle)
        elif folder.first:
            folder.go_on(config, self.moved_to)
        self.module.record = self.as_run.record
        say(headline(config, self.data, self.module))
        notes = folder.info.get("notes") or self.data.table.notes
        for kind, lines in (("note", notes), ("warning", folder.info.get("data_warnings", []))):
            for line in lines:
                say(line, kind)
        if not self.resuming and (weights := describe_weights(facts)):
            say(f"{weights}; {describe_tuning(config)}")
        if slow := emulation(config.precision, self.trainer.strategy.root_device):
            say(slow, "warning")
        line, too_seldom = adaptation(config) or ("", False)
        if line:
            (folder.lose if too_seldom else say)(line)

    def run(self, held: ExitStack) -> None:
        """Start the trackers, run the loop, and note how it ended."""
        folder, ids = self.folder, self.folder.info.get("loggers") or {}
        if folder.first and self.loggers:
            try:
                found = held.enter_context(started(self.loggers, self.config, ids))
            except UserError as error:
                folder.pause(status="failed", error=str(error))
                raise
            folder.note(loggers=ids | found, status="running")
        seconds = time.perf_counter()
        self.fit()
        if self.trainer.is_global_zero:
            folder.finish(self.trainer, self.module)
            if answer := folder.info["one_answer"]:
                folder.say(f"on validation, the kept model {answer}", "warning")
            folder.say(folder.closing(self.config, time.perf_counter() - seconds))

    def fit(self) -> None:
        """Run the loop; whatever ends it early is noted in the run folder and told in one line."""
        trainer, module, datamodule = self.trainer, self.module, make_datamodule(self.config, self.data)
        folder, go_on = self.folder, f"dpaat train --out {shlex.quote(str(self.out))} --resume"
        exhausted = worker_lost = False
        try:
            with quiet(), own_signals():
                trainer.fit(module, datamodule, ckpt_path=self.checkpoint, weights_only=True)
        except Stopped as stop:
            if trainer.is_global_zero:
                folder.pause(status="stopped")
            raise Interrupted(stopped(stop, self.out), 128 + stop.signum) from None
        except TrainingError as fault:
            text = went_wrong(fault, self.out, self.config, self.data)
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
                f"one of {self.config.workers} loading processes was killed, as systems do where memory runs out; go "
                f"on without them: {go_on} --workers 0"
            )
        if exhausted:
            raise UserError(too_little_memory(module, datamodule, trainer))
