"""A run that is broken off at any step, by whatever, ends as if it had never been."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from dpaat.cli import main
from dpaat.errors import Interrupted, UserError
from dpaat.storage import replacing
from dpaat.training import train
from dpaat.training.module import TrainingModule
from training_makers import assert_same_run, checkpoint, metrics, tiny_arguments, tiny_config

EVERY_STEP = {"epochs": 2, "val_eps": "8/255", "save_every": 0, "batch_size": 8}


class Killed(BaseException):
    """Stands for the end of the process."""


def at_step(monkeypatch, step, act):
    """Do something once, at the beginning of a step of a training that begins later."""
    genuine, waiting = TrainingModule.training_step, [step]

    def training_step(self, batch, batch_idx):
        if waiting and self.trainer.fit_loop.total_batch_idx == waiting[0]:
            waiting.clear()
            act()
        return genuine(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", training_step)


def kill():
    raise Killed


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dpaat", "imbalance": "sampler", "ema_decay": 0.9, "optimizer": "adamw", "schedule": "cosine"},
        {"method": "amat"},  # radii that take effect in the next epoch
        {"method": "robustlt", "workers": 1},  # what depends on the number of the epoch
        {"method": "dpaat", "trainer": {"accumulate_grad_batches": 2}},
    ],
)
def test_killed_in_the_middle_of_an_epoch(tiny_images, tmp_path, monkeypatch, changes):
    config = tiny_config(tiny_images, **EVERY_STEP | changes)
    whole = train(config, tmp_path / "whole")
    torch.manual_seed(99)  # a new process starts with other random numbers
    for step in (3, 8):
        at_step(monkeypatch, step, kill)
        with pytest.raises(Killed):
            train(config, tmp_path / "broken", resume=step > 3)
    broken = train(config, tmp_path / "broken", resume=True)
    assert_same_run(broken, whole)


def test_finished_steps_are_not_repeated(tiny_images, tmp_path, monkeypatch):
    config = tiny_config(tiny_images, method="standard", **EVERY_STEP)
    at_step(monkeypatch, 3, kill)
    with pytest.raises(Killed):
        train(config, tmp_path / "run")
    steps, genuine = [], TrainingModule.training_step

    def counting(self, batch, batch_idx):
        steps.append((self.trainer.fit_loop.total_batch_idx, batch_idx))
        return genuine(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", counting)
    train(config, tmp_path / "run", resume=True)
    batches = checkpoint(tmp_path / "run")["global_step"] // 2
    assert steps == [(step, step % batches) for step in range(3, 2 * batches)]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [1, 4])  # in the middle of the first epoch; in its last step
def test_signals_save_and_end_cleanly(tiny_images, tmp_path, monkeypatch, capfd, signum, code, step):
    changes = EVERY_STEP | {"method": "standard", "save_every": 1000}
    whole = train(tiny_config(tiny_images, **changes), tmp_path / "whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    at_step(monkeypatch, step, lambda: os.kill(os.getpid(), signum))
    broken = tmp_path / "broken"
    assert main([*tiny_arguments(tiny_images, **changes), f"--out={broken}"]) == code
    errors = capfd.readouterr().err
    assert len(errors.splitlines()) == 1
    assert f"saved in epoch 1 after step {step + 1}; go on with: dpaat train --out {broken} --resume" in errors
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert checkpoint(broken)["global_step"] == step + 1
    assert json.loads((broken / "run.json").read_text())["status"] == "stopped"
    assert main(["train", f"--out={broken}", "--resume"]) == 0
    assert_same_run(broken, whole)


def test_a_second_signal_does_not_wait(tiny_images, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tiny_config(tiny_images, **EVERY_STEP | {"save_every": 1000}), tmp_path / "run")
    assert not isinstance(caught.value, Interrupted)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_kill_9(tiny_images, tmp_path):
    config = tiny_config(tiny_images, method="standard", **EVERY_STEP)
    whole, broken = train(config, tmp_path / "whole"), tmp_path / "broken"
    child = os.fork()
    if not child:
        train(config, broken)
        os._exit(0)
    deadline = time.monotonic() + 60
    while not (broken / "checkpoints" / "previous.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    train(config, broken, resume=True)
    assert_same_run(broken, whole)
    assert not list(broken.rglob("*.tmp"))


# --- damaged checkpoints


@pytest.fixture
def unfinished(tiny_images, tmp_path, monkeypatch) -> Path:
    at_step(monkeypatch, 7, kill)
    with pytest.raises(Killed):
        train(tiny_config(tiny_images, method="standard", **EVERY_STEP), tmp_path / "unfinished")
    return tmp_path / "unfinished"


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_the_checkpoint_before_a_damaged_one_is_used(unfinished, tiny_images, tmp_path, capfd, damage):
    damage(unfinished / "checkpoints" / "last.ckpt")
    damaged = (unfinished / "checkpoints" / "last.ckpt").exists()
    assert main(["train", f"--out={unfinished}", "--resume"]) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if "damaged" in line]
    assert len(lines) == damaged
    assert not damaged or ("last.ckpt: damaged" in lines[0] and "going on from previous.ckpt" in lines[0])
    whole = train(tiny_config(tiny_images, method="standard", **EVERY_STEP), tmp_path / "whole")
    assert_same_run(unfinished, whole)


def test_no_whole_checkpoint_is_left(unfinished):
    for path in (unfinished / "checkpoints").iterdir():
        flip(path)
    with pytest.raises(UserError, match=r"last\.ckpt: damaged checkpoint, and no other one is whole"):
        train(tiny_config("unused"), unfinished, resume=True)


def test_code_in_a_checkpoint_is_not_run(unfinished, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trapped",))

    path = unfinished / "checkpoints" / "last.ckpt"
    torch.save(checkpoint(unfinished) | {"trap": Trap()}, path)
    train(tiny_config("unused"), unfinished, resume=True)
    assert not (tmp_path / "trapped").exists()


def test_rows_of_a_log_are_never_lost_or_doubled(unfinished, tiny_images, tmp_path):
    shutil.copytree(unfinished, tmp_path / "copy")
    (unfinished / "metrics.csv").write_bytes((unfinished / "metrics.csv").read_bytes() + b"1,0.0")
    run = train(tiny_config("unused"), unfinished, resume=True)
    assert metrics(run)["epoch"].tolist() == [0, 1]
    assert_same_run(run, train(tiny_config("unused"), tmp_path / "copy", resume=True))


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def fill_the_disk():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"
