"""The run folder of a training, how it is begun, left and finished; and what a training says."""

import gc
import math
import shlex
import signal
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console

from dpaat.config import TrainConfig
from dpaat.consistency import seal, seal_end
from dpaat.data import PreparedData, label_sets
from dpaat.data.findings import warnings_of
from dpaat.data.loading import batch_sizes
from dpaat.data.seen import known_images
from dpaat.data.splits import export_splits
from dpaat.errors import UserError, listed, out_of_memory
from dpaat.own_code import FIELDS, marks
from dpaat.provenance import provenance
from dpaat.runs import BEST, CONFIG, INFO, LAST, PREVIOUS, SPLITS, write_config
from dpaat.storage import TRAINING, locked, write_json, writing
from dpaat.training.callbacks import overfitted
from dpaat.training.checkpointing import HANGUP, Stopped
from dpaat.training.datamodule import DataModule
from dpaat.training.faults import ADVICE, TrainingError, largest_batch
from dpaat.training.module import TrainingModule
from dpaat.training.setup import learned_before
from dpaat.training.trainer import attacked_radius


def alone(out: Path) -> AbstractContextManager[None]:
    """Keep other trainings out of a run folder, for as long as this one lasts."""
    return locked(out / TRAINING, busy=f"{out}: another training is at work in this folder; wait for it, or end it")


def require_empty(out: Path) -> None:
    """Raise UserError for a folder that holds anything but its lock."""
    if out.exists() and (not out.is_dir() or any(path.name != TRAINING for path in out.iterdir())):
        raise UserError(f"{out}: already holds something; choose another --out, or continue that run with --resume")


def finish(
    trainer: L.Trainer, module: TrainingModule, out: Path, info: dict[str, Any], warned: list[str]
) -> dict[str, Any]:
    """Note in the run folder how far the run has come, with which score, and what to be wary of."""
    config = module.config
    best = trainer.checkpoint_callbacks[0]
    assert isinstance(best, ModelCheckpoint)
    kept = torch.load(out / BEST, map_location="cpu", weights_only=True, mmap=True) if (out / BEST).is_file() else {}
    score = module.epoch_scores.get("val/score") if config.select == "last" else best.best_model_score
    found = overfitted(out, attacked_radius(config), config, 2 if info.get("multilabel") else len(info["classes"]))
    info = info | {
        "status": "finished" if trainer.current_epoch >= config.epochs else "stopped",
        "epochs_done": trainer.current_epoch,
        "kept_score": float(score) if score is not None and math.isfinite(score) else None,
        "device": provenance(str(trainer.strategy.root_device))["device"],
        "warnings": [*warned, *([found] if found else [])],
        "one_answer": kept.get("one_answer"),
        **({"thresholds": kept["thresholds"]} if "thresholds" in kept else {}),
        **seal_end(out),
    }
    write_json(out / INFO, info)
    return info


def pause(out: Path, info: dict[str, Any], **why: str) -> None:
    """Note why a run has ended early, and how far it has come."""
    path = out / "metrics.csv"
    done = len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.exists() else 0
    write_json(out / INFO, info | why | {"epochs_done": done, **seal_end(out)})


def describe(config: TrainConfig, data: PreparedData, command: str) -> dict[str, Any]:
    """What `run.json` says of a run that begins."""
    table = data.table
    rows = {split: data.rows(split) for split in ("train", "val", "test")}
    counts = {split: label_sets.count(data.labels[found], data.classes) for split, found in rows.items()}
    sizes = {split: len(found) for split, found in rows.items()}
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
        **({"multilabel": True, "split_sizes": sizes} if table.multilabel else {}),
        "method": config.method,
        "model": config.model,
        "seed": config.seed,
        **({"code": signed} if (signed := marks(getattr(config, name) for name in FIELDS)) else {}),
    }


def begin(out: Path, config: TrainConfig, info: dict[str, Any], data: PreparedData) -> dict[str, Any]:
    """Write what a run is begun with; returns all that `run.json` says."""
    fresh = not (out / CONFIG).exists()
    with writing(out):
        try:
            export_splits(out / SPLITS, data.ids, data.split, **known_images(data))
            info = info | seal(config, out / SPLITS)
            write_json(out / INFO, info)
            write_config(out / CONFIG, config)
        except OSError:
            for name in (SPLITS, INFO, CONFIG) if fresh else ():
                with suppress(OSError):  # what is half made could neither be resumed nor made again
                    (out / name).unlink()
            raise
    return info


def headline(config: TrainConfig, data: PreparedData, module: TrainingModule) -> str:
    """The line before the first epoch."""
    sizes = " / ".join(f"{len(data.rows(split)):,}" for split in ("train", "val", "test"))
    parameters = sum(p.numel() for p in module.model.parameters()) / 1e6
    note = " (synthetic images)" if data.table.synthetic else ""
    attack = f", eps {config.eps}, {config.steps} steps, {config.norm}" if config.eps else ""
    kind = "labels" if data.table.multilabel else "classes"
    return (
        f"{config.method}: {config.model} ({parameters:.1f} M parameters) on {data.table.name}{note}, "
        f"{len(data.classes)} {kind}, {sizes} images for training / validation / test, "
        f"{config.image_size} px{attack}, seed {config.seed}"
    )


def closing(out: Path, config: TrainConfig, info: dict[str, Any], seconds: float) -> str:
    """The line after the last epoch."""
    score, name = info["kept_score"], "last" if config.select == "last" else "best"
    kept = "" if score is None else f", {name} validation score {score:.1%}"
    state = "finished" if info["status"] == "finished" else f"stopped after epoch {info['epochs_done']}/{config.epochs}"
    return f"{state} in {seconds:.0f} s{kept}; run folder: {out}"


def say(console: Console | None, text: str) -> None:
    """Print a line; None is silence."""
    if console is not None:
        console.print(text, highlight=False, soft_wrap=True)


def stopped(stop: Stopped, out: Path) -> str:
    """What a run says that a signal has ended."""
    name = {signal.SIGINT: "interrupted", HANGUP: "the terminal was closed"}.get(stop.signum, "told to end")
    return (
        f"{name}; saved in epoch {stop.epoch + 1} after step {stop.step}; go on with: "
        f"dpaat train --out {shlex.quote(str(out))} --resume"
    )


def went_wrong(fault: TrainingError, out: Path, config: TrainConfig, data: PreparedData) -> str:
    """Cause, place and samples of a fault, and what is kept."""
    batches = len(batch_sizes(len(data.rows("train")), config.batch_size))
    ids = [str(name) for name in data.ids[data.rows("train")][fault.rows]]
    samples = f" (samples {listed(ids)})" if ids else ""
    last = next((out / name for name in (LAST, PREVIOUS, BEST) if (out / name).is_file()), None)
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written"
    return (
        f"training went wrong: {fault.cause} at step {fault.step + 1}, batch {fault.step % batches + 1} of epoch "
        f"{fault.step // batches + 1}{samples}; {kept}; {ADVICE[fault.cause]} in another --out"
    )


def too_little_memory(module: TrainingModule, datamodule: DataModule, trainer: L.Trainer) -> str:
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
    size, asked = None, module.config.batch_size
    try:
        module.to(device).train()
        size = largest_batch(attempt, -(-min(asked, len(datamodule.train)) // processes))
    except Exception as error:
        if not out_of_memory(error):
            raise
    text = "the device has too little memory"
    if size is None:
        return f"{text}, even for a batch of {2 * processes}; try a smaller --image-size or --model"
    return f"{text} for --batch-size {asked}; about {size * processes} would fit"
