"""What a run writes down after every epoch."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import TQDMProgressBar
from rich.console import Console
from typing_extensions import override

from dpaat.runs import write_text
from dpaat.training.module import TrainingModule


class EpochLog(L.Callback):
    """Append a row to `metrics.csv` and `timing.csv`, and a part to `perturbation.parquet`, after every epoch.

    On resuming, rows of epochs that are about to be repeated are dropped, so that the files end up as those of an
    unbroken run. Wall-clock times stand in a file of their own: they alone differ from run to run.

    Args:
        folder: the run folder.
        ids: ids of the training images, in their order.
        class_names: class of each training image.
        console: where to print the line of an epoch; None for silence.
    """

    def __init__(self, folder: Path, ids: np.ndarray, class_names: np.ndarray, console: Console | None) -> None:
        self.folder, self.ids, self.class_names, self.console = folder, ids, class_names, console
        self._started = self._run_started = 0.0
        self._first_epoch = 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._run_started = time.perf_counter()
        self._first_epoch = trainer.current_epoch
        if not trainer.is_global_zero:
            return
        for name in ("metrics.csv", "timing.csv"):
            _keep_epochs_before(self.folder / name, trainer.current_epoch)

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        train_scores = pl_module.train_scores()
        if not trainer.is_global_zero:
            return
        epoch, now = trainer.current_epoch, time.perf_counter()
        row: dict[str, Any] = {"epoch": epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        row |= train_scores | pl_module.epoch_scores | pl_module.perturbation_scores()
        _append(self.folder / "metrics.csv", row)
        _append(self.folder / "timing.csv", {"epoch": epoch, "seconds": round(now - self._started, 3)})
        for logger in trainer.loggers:
            logger.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch)
        self._write_perturbation(epoch, pl_module)
        self._print(trainer, row, now)

    def _write_perturbation(self, epoch: int, module: TrainingModule) -> None:
        state = module.perturbation
        if state is None:
            return
        part = self.folder / "perturbation.parquet" / f"epoch-{epoch:04d}.parquet"
        part.parent.mkdir(exist_ok=True)
        frame = pd.DataFrame(
            {
                "id": self.ids,
                "class": self.class_names,
                "epoch": np.int32(epoch),
                "eps": state.eps.cpu().numpy(),
                "loss": state.loss.cpu().numpy(),
            }
        )
        temporary = part.with_suffix(".tmp")
        frame.to_parquet(temporary, index=False)
        temporary.replace(part)

    def _print(self, trainer: L.Trainer, row: dict[str, Any], now: float) -> None:
        if self.console is None:
            return
        assert trainer.max_epochs is not None
        done = row["epoch"] + 1
        left = (now - self._run_started) / (done - self._first_epoch) * (trainer.max_epochs - done)
        text = (
            f"epoch {done:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"
            f"  loss {row['train/loss']:.3f}"
            f"  val: accuracy {row['val/accuracy']:.1%}, balanced {row['val/balanced_accuracy']:.1%}"
            f", score {row['val/score']:.1%}"
        )
        if "eps/mean" in row:
            text += f"  mean eps {row['eps/mean'] * 255:.2f}/255"
        self.console.print(f"{text}  left {_clock(left)}", highlight=False, soft_wrap=True)


class EpochBar(TQDMProgressBar):
    """Lightning's bar, gone when the epoch is over: the line of the epoch takes its place."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1, leave=False)

    @override
    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return {}


class StopAfter(L.Callback):
    """End this call after some epochs; the run goes on with `--resume`.

    Args:
        epochs: how many epochs to train in this call.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._first_epoch = 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_epoch = trainer.current_epoch

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 - self._first_epoch >= self.epochs:
            trainer.should_stop = True


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def _keep_epochs_before(path: Path, epoch: int) -> None:
    """Drop the rows of an epoch and all later ones, leaving the text of the others as it is."""
    if not path.exists():
        return
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [row for row in rows if row.endswith("\n")]  # a full disk may have cut the last one
    kept = [row for row in whole if row.split(",", 1)[0].isdigit() and int(row.split(",", 1)[0]) < epoch]
    write_text(path, "".join([header, *kept]))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
