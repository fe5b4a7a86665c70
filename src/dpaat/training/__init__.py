"""Train a classifier into a run folder; the loop itself is Lightning's."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from rich.console import Console

from dpaat.config import PLACE, TrainConfig, complete
from dpaat.consistency import check_end, check_start, seal, seal_end
from dpaat.data import PreparedData
from dpaat.data.findings import warnings_of
from dpaat.data.seen import known_images
from dpaat.data.splits import export_splits, read_splits
from dpaat.data.values import FULL
from dpaat.errors import WORKER_LOST, Interrupted, UserError, out_of_memory
from dpaat.locks import TRAINING, locked
from dpaat.methods import find_method
from dpaat.models import check_name, describe_weights
from dpaat.precision import emulation
from dpaat.provenance import provenance
from dpaat.runs import BEST, CONFIG, INFO, LAST, PREVIOUS, SPLITS, Run, moved, read_config, write_config
from dpaat.storage import read_json, write_json
from dpaat.training.callbacks import overfitted
from dpaat.training.faults import TrainingError, lost_process
from dpaat.training.keeping import Stopped, newest_whole, own_signals
from dpaat.training.messages import closing, headline, say, stopped, too_little_memory, went_wrong
from dpaat.training.module import TrainingModule
from dpaat.training.setup import adaptation, build, check_splits, learned_before, make_datamodule, prepare_data
from dpaat.training.trainer import attacked_radius, check_options, make_trainer, quiet


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    data: str | None = None,
    stop_after: int | None = None,
    cache_dir: Path | None = None,
    command: str = "",
    console: Console | None = None,
) -> Path:
    """Train a classifier and leave a run folder.

    Args:
        config: what to train on what.
        out: the run folder to make.
        resume: go on with the run in `out`, by the configuration that stands there; on which devices, `config` says.
        data: where the data of the run to go on with are now, if they were moved.
        stop_after: end this call after so many epochs; the run can then be resumed.
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
    if not first_process:
        console = None
    with ExitStack() as held:
        begun = resume and any((out / name).is_file() for name in (LAST, PREVIOUS, BEST, CONFIG))
        resuming = begun and any((out / name).is_file() for name in (LAST, PREVIOUS, BEST))
        if resuming and read_json(out / INFO).get("status") == "finished":
            say(console, f"{out}: already finished, nothing to resume")
            return out
        if first_process and begun:
            held.enter_context(_alone(out))
        elif first_process:
            _require_empty(out)
        info = read_json(out / INFO) if resuming else {}
        if begun:
            before = read_config(out / CONFIG)
            check_start(out, before, info)
            check_end(out, info)
            config = dataclasses.replace(before, **{name: getattr(config, name) for name in PLACE})
            config = config if data is None else dataclasses.replace(config, data=data)
        config = complete(config)
        check_options(config.trainer)
        check_name(config.model)
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
        if resuming and prepared.fingerprint != info.get("fingerprint"):
            raise UserError(
                f"{config.data}: not the images that {out} was begun with, in the same classes and groups, or the "
                "data have changed since; train anew into another --out"
            )
        if resuming and own_splits is not None and read_splits(own_splits)["id"].tolist() != prepared.ids.tolist():
            raise UserError(
                f"{config.data}: its images come in another order than {out} was begun with, which {SPLITS} holds; put "
                "them back into that order"
            )
        trainer = make_trainer(config, out, prepared, stop_after=stop_after, console=console)
        stem = Run(out, config, info).stem if resuming else None
        module = build(config, prepared, from_checkpoint=resuming, stem=stem)
        checkpoint = (
            newest_whole(out, module, info, lambda line: say(console, f"warning: {line}")) if resuming else None
        )
        if first_process and not begun:
            _make_place(out)
            held.enter_context(_alone(out))
            _require_empty(out)
        if checkpoint is None:
            info = _describe(config, prepared, command) | ({"network": facts} if (facts := module.model.facts) else {})
            if first_process:
                info = _make_folder(out, config, info, prepared)
        elif first_process:
            write_json(out / INFO, info | {"status": "running"})
            if data is not None:
                write_config(out / CONFIG, config)
        module.record = Run(out, config, info).record
        say(console, headline(config, prepared, module))
        for line in prepared.table.notes:
            say(console, f"note: {line}")
        for line in info.get("data_warnings", []):
            say(console, f"warning: {line}")
        if not resuming and (weights := describe_weights(module.model.facts)):
            say(console, weights)
        if slow := emulation(config.precision, trainer.strategy.root_device):
            say(console, f"warning: {slow}")
        warned = []
        if found := adaptation(config, find_method(config.method)):
            line, too_seldom = found
            say(console, f"warning: {line}" if too_seldom else line)
            warned += [line] if too_seldom else []

        seconds = time.perf_counter()
        _fit(trainer, module, prepared, checkpoint, out, info)
        if trainer.is_global_zero:
            info = _finish(trainer, module, out, info, warned)
            if answer := info["one_answer"]:
                say(console, f"warning: on validation, the kept model {answer}")
            say(console, closing(out, config, info, time.perf_counter() - seconds))
    return out


def _alone(out: Path) -> AbstractContextManager[None]:
    """Keep other trainings out of a run folder, for as long as this one lasts."""
    return locked(out / TRAINING, busy=f"{out}: another training is at work in this folder; wait for it, or end it")


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(path.name != TRAINING for path in out.iterdir())):
        raise UserError(f"{out}: already holds something; choose another --out, or continue that run with --resume")


def _fit(
    trainer: L.Trainer,
    module: TrainingModule,
    data: PreparedData,
    checkpoint: Path | None,
    out: Path,
    info: dict[str, Any],
) -> None:
    """Run the loop; whatever ends it early is noted in the run folder and told in one line."""
    datamodule = make_datamodule(module.config, data)
    exhausted = worker_lost = False
    try:
        with quiet(), own_signals():
            trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        if trainer.is_global_zero:
            _pause(out, info, status="stopped")
        raise Interrupted(stopped(stop, out), 128 + stop.signum) from None
    except TrainingError as fault:
        text = went_wrong(fault, out, module.config, data)
        if trainer.is_global_zero:
            _pause(out, info, status="failed", error=text)
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
        if isinstance(error, RuntimeError) and lost_process(error):
            raise UserError(
                "another process of this run has ended, and its own message says why; go on with: "
                f"dpaat train --out {shlex.quote(str(out))} --resume"
            ) from None
        if not exhausted:
            raise
    if worker_lost:
        raise UserError(
            f"one of {module.config.workers} loading processes was killed, as systems do where memory runs out; go on "
            f"without them: dpaat train --out {shlex.quote(str(out))} --resume --workers 0"
        )
    if exhausted:
        raise UserError(too_little_memory(module, datamodule, trainer))


def _finish(
    trainer: L.Trainer, module: TrainingModule, out: Path, info: dict[str, Any], warned: list[str]
) -> dict[str, Any]:
    """Note in the run folder how far the run has come, with which score, and what to be wary of."""
    config = module.config
    best = trainer.checkpoint_callbacks[0]
    assert isinstance(best, ModelCheckpoint)
    score = module.epoch_scores.get("val/score") if config.select == "last" else best.best_model_score
    found = overfitted(out, attacked_radius(config), config, len(info["classes"]))
    info = info | {
        "status": "finished" if trainer.current_epoch >= config.epochs else "stopped",
        "epochs_done": trainer.current_epoch,
        "kept_score": float(score) if score is not None and math.isfinite(score) else None,
        "device": provenance(str(trainer.strategy.root_device))["device"],
        "warnings": [*warned, *([found] if found else [])],
        "one_answer": _one_answer(out / BEST),
        **seal_end(out),
    }
    write_json(out / INFO, info)
    return info


def _one_answer(checkpoint: Path) -> str | None:
    """What a checkpoint says of a model that answers one class only; None where it says nothing."""
    if not checkpoint.is_file():
        return None
    content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return content.get("one_answer")


def _pause(out: Path, info: dict[str, Any], **why: str) -> None:
    write_json(out / INFO, info | why | {"epochs_done": _epochs_done(out), **seal_end(out)})


def _epochs_done(out: Path) -> int:
    path = out / "metrics.csv"
    return len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.exists() else 0


def _describe(config: TrainConfig, data: PreparedData, command: str) -> dict[str, Any]:
    counts = {
        split: {name: int((data.labels[data.rows(split)] == label).sum()) for label, name in enumerate(data.classes)}
        for split in ("train", "val", "test")
    }
    table = data.table
    return {
        **provenance("cpu"),
        "status": "running",
        "command": command,
        "data": table.name,
        "fingerprint": data.fingerprint,
        "window": data.window,
        "pixels": list(data.kinds),
        "notes": list(table.notes),
        "data_warnings": [*warnings_of(data), *learned_before(config, data)],
        "synthetic": table.synthetic,
        "licence": table.licence,
        "citation": table.citation,
        "classes": list(data.classes),
        "channels": table.channels,
        "train_counts": counts["train"],
        "split_counts": counts,
        "method": config.method,
        "model": config.model,
        "seed": config.seed,
    }


def _make_place(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None


def _make_folder(out: Path, config: TrainConfig, info: dict[str, Any], data: PreparedData) -> dict[str, Any]:
    """Write what a run is begun with; returns all that `run.json` says."""
    fresh = not (out / CONFIG).exists()
    try:
        export_splits(out / SPLITS, data.ids, data.split, **known_images(data))
        info = info | seal(config, out / SPLITS)
        write_json(out / INFO, info)
        write_config(out / CONFIG, config)
    except OSError as error:
        for name in (SPLITS, INFO, CONFIG) if fresh else ():
            with suppress(OSError):  # what is half made could neither be resumed nor made again
                (out / name).unlink()
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return info
