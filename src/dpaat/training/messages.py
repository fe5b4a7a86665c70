"""What a training says: how it starts and ends, what went wrong, and how to go on."""

import gc
import shlex
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console

from dpaat.config import TrainConfig
from dpaat.data import PreparedData
from dpaat.data.loading import DataModule, batch_sizes
from dpaat.errors import listed, out_of_memory
from dpaat.runs import BEST, LAST, PREVIOUS
from dpaat.training.faults import ADVICE, TrainingError, largest_batch
from dpaat.training.keeping import HANGUP, Stopped
from dpaat.training.module import TrainingModule


def headline(config: TrainConfig, data: PreparedData, module: TrainingModule) -> str:
    """The line before the first epoch."""
    sizes = " / ".join(f"{len(data.rows(split)):,}" for split in ("train", "val", "test"))
    parameters = sum(p.numel() for p in module.model.parameters()) / 1e6
    note = " (synthetic images)" if data.table.synthetic else ""
    attack = f", eps {config.eps}, {config.steps} steps, {config.norm}" if config.eps else ""
    return (
        f"{config.method}: {config.model} ({parameters:.1f} M parameters) on {data.table.name}{note}, "
        f"{len(data.classes)} classes, {sizes} images for training / validation / test, "
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
