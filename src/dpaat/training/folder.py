"""The run folder of a training: how it is begun, left for later, and finished."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dpaat.config import TrainConfig
from dpaat.consistency import seal, seal_end
from dpaat.data import PreparedData
from dpaat.data.findings import warnings_of
from dpaat.data.seen import known_images
from dpaat.data.splits import export_splits
from dpaat.errors import UserError
from dpaat.locks import TRAINING, locked
from dpaat.provenance import provenance
from dpaat.runs import BEST, CONFIG, INFO, SPLITS, write_config, write_json
from dpaat.training.callbacks import overfitted
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
    found = overfitted(out, attacked_radius(config), config, len(info["classes"]))
    info = info | {
        "status": "finished" if trainer.current_epoch >= config.epochs else "stopped",
        "epochs_done": trainer.current_epoch,
        "kept_score": float(score) if score is not None and math.isfinite(score) else None,
        "device": provenance(str(trainer.strategy.root_device))["device"],
        "warnings": [*warned, *([found] if found else [])],
        "one_answer": kept.get("one_answer"),
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
    table, counts = data.table, {}
    for split in ("train", "val", "test"):
        found = np.bincount(data.labels[data.rows(split)], minlength=len(data.classes))
        counts[split] = dict(zip(data.classes, found.tolist(), strict=True))
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


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Tell in one line that a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None


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
