"""Train a classifier into a run folder; the loop itself is Lightning's."""

from __future__ import annotations

import dataclasses
import gc
import math
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from rich.console import Console

from dpaat.config import PLACE, TrainConfig, complete
from dpaat.data import PreparedData, prepare
from dpaat.data.loading import DataModule, batch_sizes
from dpaat.data.splits import export_splits
from dpaat.errors import Interrupted, UserError
from dpaat.methods import Setting, build_method, find_method
from dpaat.methods.imbalance import learning_loss
from dpaat.models import build_model, check_name
from dpaat.runs import (
    BEST,
    CONFIG,
    INFO,
    LAST,
    PREVIOUS,
    SPLITS,
    provenance,
    read_config,
    read_json,
    write_config,
    write_json,
)
from dpaat.training.callbacks import overfitted
from dpaat.training.faults import ADVICE, TrainingError, largest_batch, listed, lost_process
from dpaat.training.keeping import Stopped, newest_whole, own_signals
from dpaat.training.module import TrainingModule
from dpaat.training.trainer import attacked_radius, check_options, make_trainer, quiet


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
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
        stop_after: end this call after so many epochs; the run can then be resumed.
        cache_dir: where decoded images are kept.
        command: the command line, noted in the run folder.
        console: where to print; None for silence.

    Returns:
        The run folder.

    Raises:
        UserError: bad input, an `out` that already holds something, or training that went wrong.
        Interrupted: a signal came, and the run is saved.
    """
    out = Path(out)
    # Further processes of a distributed run find the folder that the first one has made.
    first_process = getattr(rank_zero_only, "rank", 0) == 0
    if not first_process:
        console = None
    resuming = resume and any((out / name).is_file() for name in (LAST, PREVIOUS, BEST))
    info = read_json(out / INFO) if resuming else {}
    if info.get("status") == "finished":
        _say(console, f"{out}: already finished, nothing to resume")
        return out
    if resuming or (resume and (out / CONFIG).is_file()):
        config = dataclasses.replace(read_config(out / CONFIG), **{name: getattr(config, name) for name in PLACE})
    elif first_process and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already holds something; choose another --out, or continue that run with --resume")
    config = complete(config)
    check_options(config.trainer)
    check_name(config.model)
    if stop_after is not None and stop_after < 1:
        raise UserError(f"stop_after: {stop_after} must be at least 1 epoch")

    own_splits = out / SPLITS if resume and (out / SPLITS).is_file() else None
    data = prepare_data(config, own_splits=own_splits, cache_dir=cache_dir, progress=console is not None)
    for split in ("train", "val"):
        if not len(data.rows(split)):
            raise UserError(f"{config.data}: the {split} split is empty; give more images or another --splits")
    absent = [name for label, name in enumerate(data.classes) if label not in data.labels[data.rows("train")]]
    if absent:
        raise UserError(
            f"{config.data}: no image of class {listed(absent)} in the training split, so it cannot be learned; give "
            "more images, another --splits, or leave the class out"
        )
    if resuming and data.fingerprint != info.get("fingerprint"):
        raise UserError(f"{config.data}: the data have changed since {out} was begun; train anew into another --out")
    trainer = make_trainer(config, out, data, stop_after=stop_after, console=console)
    module = build(config, data, from_checkpoint=resuming)
    checkpoint = newest_whole(out, module, lambda line: _say(console, f"warning: {line}")) if resuming else None
    if checkpoint is None:
        info = _describe(config, data, command)
        if first_process:
            _make_folder(out, config, info, data)
    _say(console, _headline(config, data, module))

    seconds = time.perf_counter()
    datamodule = make_datamodule(config, data)
    out_of_memory = False
    try:
        with quiet(), own_signals():
            trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        if trainer.is_global_zero:
            write_json(out / INFO, info | {"status": "stopped", "epochs_done": _epochs_done(out)})
        raise Interrupted(_stopped(stop, out), 128 + stop.signum) from None
    except TrainingError as fault:
        text = _went_wrong(fault, out, config, data)
        if trainer.is_global_zero:
            write_json(out / INFO, info | {"status": "failed", "error": text, "epochs_done": _epochs_done(out)})
        raise UserError(text) from None
    except SystemExit:  # Lightning's answer to an interruption
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses these options: {error}") from None
    except torch.OutOfMemoryError:
        out_of_memory = True  # the error still holds what filled the memory
    except RuntimeError as error:
        if not lost_process(error):
            raise
        raise UserError(
            "another process of this run has ended, and its own message says why; go on with: "
            f"dpaat train --out {shlex.quote(str(out))} --resume"
        ) from None
    if out_of_memory:
        raise UserError(_too_little_memory(module, datamodule, trainer))
    if trainer.is_global_zero:
        finished = trainer.current_epoch >= config.epochs
        best = trainer.checkpoint_callbacks[0]
        assert isinstance(best, ModelCheckpoint)
        score = module.epoch_scores.get("val/score") if config.select == "last" else best.best_model_score
        warning = overfitted(out, attacked_radius(config), len(data.classes))
        info |= {
            "status": "finished" if finished else "stopped",
            "epochs_done": trainer.current_epoch,
            "kept_score": float(score) if score is not None and math.isfinite(score) else None,
            "device": provenance(str(trainer.strategy.root_device))["device"],
        }
        info |= {"warnings": [warning]} if warning else {}
        write_json(out / INFO, info)
        _say(console, _closing(out, config, info, time.perf_counter() - seconds))
    return out


def prepare_data(
    config: TrainConfig, *, own_splits: Path | None = None, cache_dir: Path | None = None, progress: bool = True
) -> PreparedData:
    """Load the data of a run, split by its configuration, or as `own_splits` says where it was begun before."""
    given_splits = Path(config.splits) if config.splits else None
    return prepare(
        config.data,
        image_size=config.image_size,
        fit=config.fit,
        seed=config.seed,
        fold=None if own_splits else config.fold,
        splits=own_splits or given_splits,
        cache_dir=cache_dir,
        progress=progress,
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


def _epochs_done(out: Path) -> int:
    path = out / "metrics.csv"
    return len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.exists() else 0


def _stopped(stop: Stopped, out: Path) -> str:
    name = "interrupted" if stop.signum == signal.SIGINT else "told to end"
    return (
        f"{name}; saved in epoch {stop.epoch + 1} after step {stop.step}; go on with: "
        f"dpaat train --out {shlex.quote(str(out))} --resume"
    )


def _went_wrong(fault: TrainingError, out: Path, config: TrainConfig, data: PreparedData) -> str:
    batches = len(batch_sizes(len(data.rows("train")), config.batch_size))
    ids = [str(name) for name in data.ids[data.rows("train")][fault.rows]]
    samples = f" (samples {listed(ids)})" if ids else ""
    last = next((out / name for name in (LAST, PREVIOUS, BEST) if (out / name).is_file()), None)
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written"
    return (
        f"training went wrong: {fault.cause} at step {fault.step + 1}, batch {fault.step % batches + 1} of epoch "
        f"{fault.step // batches + 1}{samples}; {kept}; {ADVICE[fault.cause]} in another --out"
    )


def _too_little_memory(module: TrainingModule, datamodule: DataModule, trainer: L.Trainer) -> str:
    """Name a batch size that fits, found by trying steps on the first images of the training split."""
    device, processes = trainer.strategy.root_device, trainer.world_size

    def attempt(size: int) -> None:
        index, images, y = (part.to(device) for part in datamodule.train.__getitems__(range(size)))
        with torch.autocast(device.type, enabled=module.config.precision.endswith("mixed")):
            module.method(module.model, index, images.float() / 255, y).loss.backward()
        module.zero_grad(set_to_none=True)

    if torch.distributed.is_initialized():  # the others end now, and no layer waits for them
        torch.distributed.destroy_process_group()
    module.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    size = None
    with suppress(torch.OutOfMemoryError):
        module.to(device).train()
        largest = min(module.config.batch_size, len(datamodule.train))
        size = largest_batch(attempt, -(-largest // processes))
    if size is None:
        least = 2 * processes
        return f"the device has too little memory, even for a batch of {least}; try a smaller --image-size or --model"
    size *= processes
    return f"the device has too little memory for --batch-size {module.config.batch_size}; about {size} would fit"


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


def _make_folder(out: Path, config: TrainConfig, info: dict[str, Any], data: PreparedData) -> None:
    fresh = not (out / CONFIG).exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        export_splits(out / SPLITS, data.ids, data.split)
        write_json(out / INFO, info)
        write_config(out / CONFIG, config)
    except OSError as error:
        for name in (SPLITS, INFO, CONFIG) if fresh else ():
            with suppress(OSError):  # what is half made could neither be resumed nor made again
                (out / name).unlink()
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None


def _headline(config: TrainConfig, data: PreparedData, module: TrainingModule) -> str:
    sizes = " / ".join(f"{len(data.rows(split)):,}" for split in ("train", "val", "test"))
    parameters = sum(p.numel() for p in module.model.parameters()) / 1e6
    note = " (synthetic images)" if data.table.synthetic else ""
    attack = f", eps {config.eps}, {config.steps} steps, {config.norm}" if config.eps else ""
    return (
        f"{config.method}: {config.model} ({parameters:.1f} M parameters) on {data.table.name}{note}, "
        f"{len(data.classes)} classes, {sizes} images for training / validation / test, "
        f"{config.image_size} px{attack}, seed {config.seed}"
    )


def _closing(out: Path, config: TrainConfig, info: dict[str, Any], seconds: float) -> str:
    score = info["kept_score"]
    name = "last" if config.select == "last" else "best"
    kept = f", {name} validation score {score:.1%}" if score is not None else ""
    state = "finished" if info["status"] == "finished" else f"stopped after epoch {info['epochs_done']}/{config.epochs}"
    return f"{state} in {seconds:.0f} s{kept}; run folder: {out}"


def _say(console: Console | None, text: str) -> None:
    if console is not None:
        console.print(text, highlight=False, soft_wrap=True)
