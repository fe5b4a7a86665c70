"""Checkpoints that a kill cannot damage, and signals that end a run between two steps."""

import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from dpaat.consistency import is_sealed
from dpaat.errors import UserError, out_of_memory
from dpaat.runs import BEST, CONFIG, LAST, PREVIOUS
from dpaat.storage import replacing
from dpaat.weights import read_weights

HANGUP = getattr(signal, "SIGHUP", None)  #: The terminal was closed; None on systems without this signal
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP]))
ASK_EVERY = 10
"""Steps between two questions to the other processes of a run whether to save or stop: each waits for all."""


class Stopped(BaseException):
    """Ends Lightning's loop after a save that a signal asked for, in an epoch counted from 0, after optimizer steps."""

    def __init__(self, signum: int, epoch: int, step: int) -> None:
        super().__init__(signum)
        self.signum, self.epoch, self.step = signum, epoch, step


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, syncs and renames it; the last one before becomes `previous.ckpt`."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                torch.save(checkpoint, temporary)
                if path.name == Path(LAST).name and path.exists():
                    path.replace(path.with_name(Path(PREVIOUS).name))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise UserError(
                f"{path}: the checkpoint cannot be written ({reason}); earlier ones are whole: make room, then go on "
                "with --resume"
            ) from None


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best epoch, also in a run folder that was moved since it was written."""

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score = state_dict["best_model_score"]
        if score is not None:
            assert self.dirpath is not None
            path = str(Path(self.dirpath) / Path(BEST).name)
            places = dict.fromkeys(("best_model_path", "kth_best_model_path"), path)
            state_dict = {**state_dict, **places, "dirpath": self.dirpath, "best_k_models": {path: score}}
        super().load_state_dict(state_dict)


class Keeper(Checkpoint):
    """Saves the run after every epoch, every so often within one, and when a signal asks to stop.

    A save within an epoch happens after a step that is complete: the method's state has seen it, the
    average of the weights has been moved, and no gradient is being accumulated. After the last step of an epoch comes
    no such save, as the epoch's own follows the validation. `save_every` counts minutes.
    """

    def __init__(self, path: Path, save_every: float) -> None:
        self.path, self.seconds = path, 60 * save_every
        self._saved_at = 0.0
        self._signum = 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signum != HANGUP or signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup
                    signal.signal(signum, self._take)

    def after_step(self, trainer: L.Trainer, check: Callable[[], None]) -> None:
        """Save if it is time, and raise `Stopped` if a signal has come.

        `check` raises where the training has gone wrong, so that no such state is ever saved.
        """
        done = trainer.fit_loop.batch_idx + 1
        if trainer.is_last_batch or done % trainer.accumulate_grad_batches:
            return
        if trainer.world_size > 1 and done % ASK_EVERY:
            return
        signalled = _any(trainer, self._signum != 0)
        if signalled or _any(trainer, time.monotonic() - self._saved_at >= self.seconds):
            check()
            self._save(trainer)
        if signalled:
            raise Stopped(self._signum or signal.SIGTERM, trainer.current_epoch, trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)
        if _any(trainer, self._signum != 0) and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            raise Stopped(self._signum or signal.SIGTERM, trainer.current_epoch, trainer.global_step)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if signum == HANGUP:  # kernel, shell and session may each send one, beside a SIGTERM
            self._signum = self._signum or signum
        elif self._signum in (0, HANGUP):
            self._signum = signum
        else:  # the second one does not wait
            raise KeyboardInterrupt


@contextmanager
def own_signals() -> Iterator[None]:
    """Put the signal handlers back that are replaced within."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def newest_whole(
    out: Path, module: L.LightningModule, info: Mapping[str, Any], report: Callable[[str], None]
) -> Path | None:
    """Find the checkpoint to go on from, None before the first; `report` takes a line for each that is damaged."""
    problems: list[str] = []
    for path in [out / name for name in (LAST, PREVIOUS, BEST) if (out / name).is_file()]:
        if (problem := _problem(path, module)) is None:
            if not is_sealed(out, path.relative_to(out).as_posix(), info):
                raise UserError(f"{path}: not what this run saved; put a copy back, or remove it to go on from another")
            for skipped in problems:
                report(f"{skipped}; skipped, going on from {path.name}")
            return path
        problems.append(f"{path}: {problem}")
    if problems:
        raise UserError(f"{problems[0]}, and no other one is whole; train anew into another --out")
    return None


def _problem(path: Path, module: L.LightningModule) -> str | None:
    """What is wrong with a checkpoint, found without running any code it may hold; None for a whole one."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch itself does not compare checksums
                return "damaged checkpoint"
        found = {name: value.shape for name, value in read_weights(path).items()}
        parts = torch.load(path, map_location="cpu", weights_only=True, mmap=True).keys()
    except Exception as error:  # whatever a damaged file makes its readers raise
        if out_of_memory(error):
            raise
        return "damaged checkpoint"
    own = {name: value.shape for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if found != own or not {"loops", "optimizer_states", "pytorch-lightning_version"} <= parts:
        return f"not a checkpoint of the run that {CONFIG} describes"
    return None


def _any(trainer: L.Trainer, own: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    return own if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(own, all=False)
