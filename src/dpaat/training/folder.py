"""The run folder of a training, and what a training says."""

import gc
import math
import shlex
import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
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
from dpaat.training.checkpointing import HANGUP, Stopped
from dpaat.training.faults import ADVICE, TrainingError, largest_batch, overfitted
from dpaat.training.module import TrainingModule
from dpaat.training.setup import DataModule, learned_before


class RunFolder:
    """The run folder of a training: how it is begun, left and finished, and what the training says meanwhile.

    Further processes of a distributed run find the folder that the `first` one has made. `info` is what `run.json` is
    to hold; `console` None is silence.
    """

    def __init__(self, path: Path, console: Console | None) -> None:
        self.first = getattr(rank_zero_only, "rank", 0) == 0 and LightningEnvironment().node_rank() == 0
        self.path, self.console = path, console if self.first else None
        self.info: dict[str, Any] = {}
        self.lost: list[str] = []  # what the run is to be remembered for

    def say(self, text: str, kind: str = "") -> None:
        """Print a line, perhaps as a "note" or a "warning"."""
        if self.console is not None:
            self.console.print(f"{kind}: {text}" if kind else text, highlight=False, soft_wrap=True)

    def lose(self, line: str) -> None:
        """Warn of what is lost, now and in `run.json`."""
        self.lost.append(line)
        self.say(line, "warning")

    def alone(self) -> AbstractContextManager[None]:
        """Keep other trainings out, for as long as this one lasts."""
        busy = f"{self.path}: another training is at work in this folder; wait for it, or end it"
        return locked(self.path / TRAINING, busy=busy)

    def require_empty(self) -> None:
        """Raise UserError for a folder that holds anything but its lock."""
        out = self.path
        if out.exists() and (not out.is_dir() or any(path.name != TRAINING for path in out.iterdir())):
            raise UserError(f"{out}: already holds something; choose another --out, or continue that run with --resume")

    def note(self, **fields: Any) -> None:
        """Change fields of `run.json`."""
        self.info |= fields
        write_json(self.path / INFO, self.info)

    def begin(
        self,
        config: TrainConfig,
        data: PreparedData,
        network: Mapping[str, Any],
        command: str,
        idle: str | None = None,
    ) -> None:
        """Write what a run is begun with, `idle` says what of it plays no part; further processes only know it."""
        out, table = self.path, data.table
        rows = {split: data.rows(split) for split in ("train", "val", "test")}
        counts = {split: label_sets.count(data.labels[found], data.classes) for split, found in rows.items()}
        sizes = {split: len(found) for split, found in rows.items()}
        self.info = {
            **provenance("cpu"),
            "status": "running",
            "command": command,
            "data": table.name,
            "fingerprint": data.fingerprint,
            "window": data.window,
            "pixels": list(data.kinds),
            "notes": [*table.notes, *([idle] if idle else [])],
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
            **({"network": network} if network else {}),
        }
        if not self.first:
            return
        fresh = not (out / CONFIG).exists()
        with writing(out):
            try:
                export_splits(out / SPLITS, data.ids, data.split, **known_images(data))
                self.note(**seal(config, out / SPLITS))
                write_config(out / CONFIG, config)
            except OSError:
                for name in (SPLITS, INFO, CONFIG) if fresh else ():
                    with suppress(OSError):  # what is half made could neither be resumed nor made again
                        (out / name).unlink()
                raise

    def go_on(self, config: TrainConfig, data: str | None) -> None:
        """Note that the run goes on, and where its `data` are now, if they were moved."""
        if data is not None:
            if signed := marks([data]):
                self.info["code"] = (self.info.get("code") or {}) | signed
            write_config(self.path / CONFIG, config)
        self.note(status="running")

    def pause(self, **why: str) -> None:
        """Note why a run has ended early, and how far it has come."""
        log = self.path / "metrics.csv"
        done = len(log.read_text(encoding="utf-8").splitlines()) - 1 if log.exists() else 0
        kept: dict[str, Any] = {}
        with suppress(Exception):  # of a damaged checkpoint; what has ended the run matters more
            kept = self._kept()
        self.note(**why, epochs_done=done, kept_score=None, **kept, **seal_end(self.path))

    def finish(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Note how far the run has come, with which score, and what to be wary of."""
        config, out, info = module.config, self.path, self.info
        best = trainer.checkpoint_callbacks[0]
        assert isinstance(best, ModelCheckpoint)
        score = module.epoch_scores.get("val/score") if config.select == "last" else best.best_model_score
        found = overfitted(out, config, 2 if info.get("multilabel") else len(info["classes"]))
        self.note(
            status="finished" if trainer.current_epoch >= config.epochs else "stopped",
            epochs_done=trainer.current_epoch,
            kept_score=float(score) if score is not None and math.isfinite(score) else None,
            device=provenance(str(trainer.strategy.root_device))["device"],
            warnings=[*self.lost, *([found] if found else [])],
            **self._kept(),
            **seal_end(out),
        )

    def _kept(self) -> dict[str, Any]:
        """What the checkpoint that is kept answers to validation images."""
        path = self.path / BEST
        kept = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if path.is_file() else {}
        thresholds = {"thresholds": kept["thresholds"]} if "thresholds" in kept else {}
        return {"one_answer": kept.get("one_answer"), **thresholds}

    def closing(self, config: TrainConfig, seconds: float) -> str:
        """The line after the last epoch."""
        info, name = self.info, "last" if config.select == "last" else "best"
        kept = "" if info["kept_score"] is None else f", {name} validation score {info['kept_score']:.1%}"
        done = info["status"] == "finished"
        state = "finished" if done else f"stopped after epoch {info['epochs_done']}/{config.epochs}"
        return f"{state} in {seconds:.0f} s{kept}; run folder: {self.path}"


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
