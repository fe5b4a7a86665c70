"""Callbacks that write logs after every epoch."""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from rich.console import Console
from typing_extensions import override

from dpaat.consistency import require_epochs
from dpaat.perturbation import AdaptivePerturbation
from dpaat.storage import RESULTS, locked, remove_leftovers, replacing, write_text, writing
from dpaat.training.loggers import tracked_name
from dpaat.training.module import TrainingModule


class EpochLog(L.Callback):
    """Append a row to `metrics.csv` and `timing.csv`, and a part to `perturbation.parquet`, after every epoch.

    On resuming, rows of epochs that are about to be repeated are dropped, so that the files end up as those of an
    unbroken run. Wall-clock times are in a file of their own: they alone differ from run to run. `watch` says what
    there is to warn of after the epochs so far.
    """

    def __init__(
        self,
        folder: Path,
        ids: np.ndarray,
        class_names: np.ndarray,
        console: Console | None,
        watch: Callable[[], str | None],
    ) -> None:
        self.folder, self.ids, self.class_names, self.console, self.watch = folder, ids, class_names, console, watch
        self._started, self._run_started, self._first_epoch = 0.0, 0.0, 0
        self._warned: set[str] = set()

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._run_started = self._started = time.perf_counter()
        self._first_epoch = trainer.current_epoch
        if not trainer.is_global_zero:
            return
        with locked(self.folder / RESULTS):  # an evaluation may be writing beside
            for folder in (self.folder, self.folder / "checkpoints", self.folder / "perturbation.parquet"):
                remove_leftovers(folder)
        for name in ("metrics.csv", "timing.csv"):
            _keep_epochs_before(self.folder / name, trainer.current_epoch)
        if trainer.current_epoch:
            require_epochs(self.folder, trainer.current_epoch)

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
        row |= train_scores | pl_module.epoch_scores | _radius_scores(pl_module)
        with writing(self.folder, remedy="; the checkpoints are whole: make room, then go on with --resume"):
            _append(self.folder / "metrics.csv", row)
            _append(self.folder / "timing.csv", {"epoch": epoch, "seconds": round(now - self._started, 3)})
            self._write_perturbation(epoch, pl_module)
        for logger in trainer.loggers:
            seen = {tracked_name(logger, name): value for name, value in row.items() if name != "epoch"}
            logger.log_metrics(seen, step=epoch)
        self._print(trainer, row, now, pl_module)

    def _write_perturbation(self, epoch: int, module: TrainingModule) -> None:
        state = module.perturbation
        if state is None:
            return
        part = self.folder / "perturbation.parquet" / f"epoch-{epoch:04d}.parquet"
        part.parent.mkdir(exist_ok=True)
        rows = {"id": self.ids, "class": self.class_names, "epoch": np.int32(epoch)}
        rows |= {"eps": state.eps.cpu().numpy(), "loss": state.loss.cpu().numpy()}
        if isinstance(state, AdaptivePerturbation):
            rows["distance"] = state.distance.float().where(state.visits > state.warmup, torch.nan).cpu().numpy()
        with replacing(part) as temporary:
            pd.DataFrame(rows).to_parquet(temporary, index=False)

    def _print(self, trainer: L.Trainer, row: dict[str, Any], now: float, module: TrainingModule) -> None:
        if self.console is None:
            return
        done, epochs = row["epoch"] + 1, trainer.max_epochs or 0
        left = (now - self._run_started) / (done - self._first_epoch) * (epochs - done)
        mean, answer = "", module.one_answer
        if (eps := row.get("eps/mean")) is not None:
            mean = f"  mean eps {255 * eps:.2f}/255" if module.config.norm == "linf" else f"  mean eps {eps:.3g}"
        text = (
            f"epoch {done:>{len(str(epochs))}}/{epochs}  loss {row['train/loss']:.3f}  val: accuracy "
            f"{row['val/accuracy']:.1%}, balanced {row['val/balanced_accuracy']:.1%}, score {row['val/score']:.1%}"
        )
        self.console.print(f"{text}{mean}  left {_clock(left)}", highlight=False, soft_wrap=True)
        for warning in (self.watch(), answer and f"on validation, the model {answer}"):
            if warning and warning not in self._warned:
                self._warned.add(warning)
                self.console.print(f"warning: {warning}", highlight=False, soft_wrap=True)


class EpochBar(TQDMProgressBar):
    """Lightning's bar without numbers of its own, with epochs counted from 1."""

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    @property
    @override
    def validation_description(self) -> str:
        return "validation"

    @override
    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return {}


class StopAfter(L.Callback):
    """End this call after some epochs; the run goes on with `--resume`."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self._first_epoch = epochs, 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_epoch = trainer.current_epoch

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 - self._first_epoch >= self.epochs:
            trainer.should_stop = True


def _radius_scores(module: TrainingModule) -> dict[str, float]:
    """Statistics of the perturbation sizes: quantiles, shares at both ends, means and thresholds per class."""
    state, classes = module.perturbation, module.classes
    if state is None:
        return {}
    eps, shares = state.eps.cpu().double(), (10, 50, 90)
    scores = {"eps/mean": float(eps.mean())}
    scores |= {f"eps/q{share}": float(eps.quantile(share / 100)) for share in shares}
    scores["eps/share_zero"] = float((eps == 0).double().mean())
    scores["eps/share_max"] = float((eps >= module.config.radius * (1 - 1e-6)).double().mean())
    labels = module.method.context.labels.numpy()
    of_label = [np.flatnonzero(labels[:, k] == 1 if labels.ndim == 2 else labels == k) for k in range(len(classes))]
    by_class = pd.concat([pd.Series(eps.numpy()[rows], [k] * len(rows)) for k, rows in enumerate(of_label)]).groupby(
        level=0
    )
    per_class = {"mean": by_class.mean()} | {f"q{share}": by_class.quantile(share / 100) for share in shares}
    for kind, values in per_class.items():
        for label, name in enumerate(classes):
            scores[f"eps/{kind}/{name}"] = float(values.get(label, float("nan")))
    criterion = state.criterion.tolist()
    names = classes if len(criterion) > 1 else ("all",)
    names = (*(f"no {name}" for name in names), *names) if len(criterion) == 2 * len(classes) else names
    return scores | {f"criterion/{name}": tau for name, tau in zip(names, criterion, strict=True)}


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a row by replacing the whole file: a few hundred rows at most, and none is ever half written."""
    text = io.StringIO(path.read_text(encoding="utf-8") if path.exists() else "", newline="")
    text.seek(0, io.SEEK_END)
    writer = csv.DictWriter(text, row, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerow(row)
    write_text(path, text.getvalue())


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
