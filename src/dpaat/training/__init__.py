"""Train a classifier into a run folder; the loop itself is Lightning's."""

import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from rich.console import Console

from dpaat.config import PLACE, TrainConfig, complete
from dpaat.consistency import check_end, check_start
from dpaat.data import PreparedData
from dpaat.data.splits import read_splits
from dpaat.data.values import FULL
from dpaat.errors import WORKER_LOST, Interrupted, UserError, out_of_memory
from dpaat.methods import find_method
from dpaat.models import check_name, describe_weights
from dpaat.own_code import FIELDS, marks, require_trust
from dpaat.precision import bfloat16_pays, emulation
from dpaat.runs import BEST, CONFIG, INFO, LAST, PREVIOUS, SPLITS, Run, moved, read_config, write_config
from dpaat.storage import read_json, write_json, writing
from dpaat.training import folder
from dpaat.training.checkpointing import Stopped, newest_whole, own_signals
from dpaat.training.faults import TrainingError
from dpaat.training.loggers import make_loggers, started
from dpaat.training.module import TrainingModule
from dpaat.training.setup import adaptation, build, check_splits, make_datamodule, prepare_data
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
    out = Path(out)
    # Further processes of a distributed run find the folder that the first one has made.
    first_process = getattr(rank_zero_only, "rank", 0) == 0 and LightningEnvironment().node_rank() == 0
    console = console if first_process else None
    say = partial(folder.say, console)
    with ExitStack() as held:
        resuming = resume and any((out / name).is_file() for name in (LAST, PREVIOUS, BEST))
        begun = resuming or (resume and (out / CONFIG).is_file())
        info = read_json(out / INFO) if resuming else {}
        if info.get("status") == "finished":
            say(f"{out}: already finished, nothing to resume")
            return out
        if first_process and begun:
            held.enter_context(folder.alone(out))
            info = read_json(out / INFO) if resuming else {}
        elif first_process:
            folder.require_empty(out)
        if begun:
            before = read_config(out / CONFIG)
            named = [value for name in FIELDS if (value := getattr(before, name)) and (name != "data" or data is None)]
            require_trust(named, info.get("code"), out / CONFIG)
            check_start(out, before, info)
            check_end(out, info)
            config = dataclasses.replace(before, **{name: getattr(config, name) for name in PLACE})
            config = config if data is None else dataclasses.replace(config, data=data)
        config = complete(config)
        check_options(config.trainer)
        check_name(Run(out, config, info).network)
        if stop_after is not None and stop_after < 1:
            raise UserError(f"stop_after: {stop_after} must be at least 1 epoch")

        own_splits = out / SPLITS if resume and (out / SPLITS).is_file() else None
        with moved(out) if resuming and data is None else nullcontext():
            prepared = prepare_data(
                config,
                own_splits=own_splits,
                own_window=(info.get("window") or FULL) if resuming else None,
                classes=info.get("classes"),
                cache_dir=cache_dir,
                progress=console is not None,
            )
        check_splits(config, prepared)
        if resuming:
            _check_same_data(config, prepared, out, info, own_splits)
        if config.precision == "auto":
            config = _measured(config, prepared, first_process, say)
        ids, lost = info.get("loggers") or {}, list[str]()

        def lose(line: str) -> None:
            lost.append(line)
            say(f"warning: {line}")

        loggers = make_loggers(config, out, ids, lose)
        trainer = make_trainer(
            config, out, prepared, stop_after=stop_after, console=console, loggers=loggers, further=callbacks
        )
        module = build(config, prepared, begun=Run(out, config, info) if resuming else None)
        checkpoint = newest_whole(out, module, info, lambda line: say(f"warning: {line}")) if resuming else None
        if first_process and not begun:
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
            held.enter_context(folder.alone(out))
            folder.require_empty(out)
        if checkpoint is None:
            info = folder.describe(config, prepared, command) | (
                {"network": facts} if (facts := module.model.facts) else {}
            )
            if first_process:
                info = folder.begin(out, config, info, prepared)
        elif first_process:
            if data is not None and (signed := marks([data])):
                info["code"] = (info.get("code") or {}) | signed
            write_json(out / INFO, info | {"status": "running"})
            if data is not None:
                write_config(out / CONFIG, config)
        module.record = Run(out, config, info).record
        say(folder.headline(config, prepared, module))
        for kind, lines in (("note", prepared.table.notes), ("warning", info.get("data_warnings", []))):
            for line in lines:
                say(f"{kind}: {line}")
        if not resuming and (weights := describe_weights(module.model.facts)):
            say(f"{weights}; {describe_tuning(config)}")
        if slow := emulation(config.precision, trainer.strategy.root_device):
            say(f"warning: {slow}")
        line, too_seldom = adaptation(config, find_method(config.method)) or ("", False)
        if line:
            say(f"warning: {line}" if too_seldom else line)

        if first_process and loggers:
            try:
                info["loggers"] = ids | held.enter_context(started(loggers, config, ids))
            except UserError as error:
                folder.pause(out, info, status="failed", error=str(error))
                raise
            write_json(out / INFO, info | {"status": "running"})
        seconds = time.perf_counter()
        _fit(trainer, module, prepared, checkpoint, out, info)
        if trainer.is_global_zero:
            info = folder.finish(trainer, module, out, info, [line] * too_seldom + lost)
            if answer := info["one_answer"]:
                say(f"warning: on validation, the kept model {answer}")
            say(folder.closing(out, config, info, time.perf_counter() - seconds))
    return out


def _measured(config: TrainConfig, data: PreparedData, first_process: bool, say: Callable[[str], None]) -> TrainConfig:
    """The configuration with the faster precision in place of "auto"."""
    if not first_process or config.num_nodes > 1 or str(config.devices) not in ("auto", "1"):
        raise UserError("precision: auto measures in one process; with several give 32-true or bf16-mixed")
    cpu = config.accelerator == "cpu" or not torch.cuda.is_available()
    rows = data.rows("train")[: config.batch_size]
    module = build(dataclasses.replace(config, compile=False), data).to("cpu" if cpu else "cuda")
    x = torch.from_numpy(np.array(data.images[rows])).to(module.device).float() / 255
    half, line = bfloat16_pays(module.model.train(), x, torch.from_numpy(data.labels[rows]).to(module.device))
    say(line)
    return dataclasses.replace(config, precision="bf16-mixed" if half else "32-true")


def _check_same_data(
    config: TrainConfig, data: PreparedData, out: Path, info: dict[str, Any], own_splits: Path | None
) -> None:
    if data.fingerprint != info.get("fingerprint"):
        raise UserError(
            f"{config.data}: not the images that {out} was begun with, in the same classes and groups, or the "
            "data have changed since; train anew into another --out"
        )
    if own_splits is not None and read_splits(own_splits)["id"].tolist() != data.ids.tolist():
        raise UserError(
            f"{config.data}: its images come in another order than {out} was begun with, which {SPLITS} holds; put "
            "them back into that order"
        )


def _fit(
    trainer: L.Trainer,
    module: TrainingModule,
    data: PreparedData,
    checkpoint: Path | None,
    out: Path,
    info: dict[str, Any],
) -> None:
    """Run the loop; whatever ends it early is noted in the run folder and told in one line."""
    datamodule, go_on = make_datamodule(module.config, data), f"dpaat train --out {shlex.quote(str(out))} --resume"
    exhausted = worker_lost = False
    try:
        with quiet(), own_signals():
            trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        if trainer.is_global_zero:
            folder.pause(out, info, status="stopped")
        raise Interrupted(folder.stopped(stop, out), 128 + stop.signum) from None
    except TrainingError as fault:
        text = folder.went_wrong(fault, out, module.config, data)
        if trainer.is_global_zero:
            folder.pause(out, info, status="failed", error=text)
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
        raise UserError(folder.too_little_memory(module, datamodule, trainer))
