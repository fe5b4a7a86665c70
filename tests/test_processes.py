"""Several processes do what one does: the same steps, the same state, the same faults."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import dpaat.training
from dpaat.cli import main
from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.methods.dpaat import DPAAT
from dpaat.models import Classifier
from dpaat.runs import open_run
from dpaat.training import train
from dpaat.training.module import TrainingModule
from processes_launch import in_processes
from training_makers import assert_equal, assert_same_run, checkpoint, metrics, tiny_config

GRADUAL = {"rule": "solve", "eps_min": 0.001}
FOUR = pytest.param(4, marks=pytest.mark.slow)
UNEVEN = {"method": "dpaat-half", "batch_size": 14, "val_eps": "0", "save_every": 1000}
"""No batch is divided by 2 or 4 without a rest."""


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


class FrozenNorm(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.eval()

    def train(self, mode: bool = True):
        return super().train(False)


def use(monkeypatch: pytest.MonkeyPatch, norm: Callable[[int], nn.Module]) -> None:
    """Train a network that is so small that the start of a process takes longer."""

    def build(name, *, num_classes, **options):
        layers = [nn.Conv2d(3, 6, 5, stride=3), norm(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return Classifier(nn.Sequential(*layers, nn.Linear(24, num_classes)), torch.zeros(3), torch.ones(3))

    monkeypatch.setattr(dpaat.training.setup, "build_model", build)


@pytest.fixture(autouse=True)
def _small_network(monkeypatch):
    use(monkeypatch, nn.BatchNorm2d)


def config(images: Path, processes: int, **changes: object) -> TrainConfig:
    place = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    return tiny_config(images, **UNEVEN | place | changes)


def run(images: Path, out: Path, processes: int, *, resume: bool = False, stop_after: int | None = None, **changes):
    def work(rank: int) -> None:
        train(config(images, processes, **changes), out, resume=resume, stop_after=stop_after)

    assert in_processes(processes, work, out.parent / f"outcomes-{out.name}") == [""] * processes
    return out


def state(run: Path) -> dict:
    return {name: value for name, value in checkpoint(run)["state_dict"].items() if name.startswith("method.")}


def at_step(patch: pytest.MonkeyPatch, step: int, errors: dict[int, BaseException]) -> None:
    """Let processes, by their numbers, raise something at the beginning of a step."""
    genuine = TrainingModule.training_step

    def training_step(self, batch, batch_idx):
        if self.trainer.fit_loop.total_batch_idx == step and self.global_rank in errors:
            raise errors[self.global_rank]
        return genuine(self, batch, batch_idx)

    patch.setattr(TrainingModule, "training_step", training_step)


# --- a planted signal


@pytest.fixture
def planted(monkeypatch):
    """The state sees numbers that follow from sample and number of visits alone, whatever the network does."""

    genuine = DPAAT.forward

    def forward(self, model, index, x, y):
        output = genuine(self, model, index, x, y)
        number = (7919 * index + 104729 * self.perturbation.visits[index]) % 1009
        rows = {"adv_loss": number / 1009, "tracked_loss": (31 * number % 1013) / 1013}
        return dataclasses.replace(output, rows=rows)

    monkeypatch.setattr(DPAAT, "forward", forward)


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """Every process notes its own state at the end."""
    genuine = TrainingModule.on_train_end

    def on_train_end(self):
        torch.save(self.method.state_dict(), tmp_path / f"state-{self.trainer.world_size}-{self.global_rank}")
        genuine(self)

    monkeypatch.setattr(TrainingModule, "on_train_end", on_train_end)


@pytest.mark.parametrize("processes", [2, FOUR])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"options": GRADUAL | {"scope": "global", "statistic": "median"}},
        {"method": "dpaat-v1", "adv_start": 0.0, "options": GRADUAL | {"views": "both"}},
        {"options": GRADUAL, "imbalance": "sampler"},  # a sample stands several times in a batch
    ],
)
def test_state_is_that_of_one_process_on_all(tiny_images, tmp_path, planted, noted, processes, changes):
    single = run(tiny_images, tmp_path / "single", 1, **changes)
    several = run(tiny_images, tmp_path / "several", processes, **changes)
    assert_equal(state(several), state(single))
    visits = state(single)["method.perturbation.visits"]
    assert "imbalance" in changes or visits.unique().tolist() == [2]
    assert "options" not in changes or state(single)["method.perturbation.eps"].unique().numel() > 10
    for rank in range(processes):
        assert_equal(
            torch.load(tmp_path / f"state-{processes}-{rank}", weights_only=True),
            torch.load(tmp_path / "state-1-0", weights_only=True),
        )


@pytest.mark.parametrize("processes", [1, FOUR])
def test_resumed_with_another_number_of_processes(tiny_images, tmp_path, planted, processes):
    whole = run(tiny_images, tmp_path / "whole", 1, epochs=3)
    broken = run(tiny_images, tmp_path / "broken", 2, epochs=3, stop_after=1)
    run(tiny_images, broken, processes, epochs=3, resume=True)
    assert_equal(state(broken), state(whole))
    assert checkpoint(broken)["global_step"] == checkpoint(whole)["global_step"]
    assert metrics(broken)["epoch"].tolist() == [0, 1, 2]
    assert metrics(broken)["lr"].tolist() == metrics(whole)["lr"].tolist()


def test_devices_may_change_on_the_command_line(tiny_images, tmp_path, capfd):
    broken = run(tiny_images, tmp_path / "broken", 2, stop_after=1)
    arguments = ["train", f"--out={broken}", "--resume"]
    assert main([*arguments, "--lr=0.5"]) == 2
    assert "was begun with lr 0.02" in capfd.readouterr().err
    assert main([*arguments, "--devices=1", "--strategy=auto"]) == 0
    assert json.loads((broken / "run.json").read_text())["status"] == "finished"


def test_broken_in_the_middle_of_an_epoch(tiny_images, tmp_path, monkeypatch):
    monkeypatch.setattr(dpaat.training.checkpointing, "ASK_EVERY", 1)
    changes = {"save_every": 0, "ema_decay": 0.9}
    whole = run(tiny_images, tmp_path / "whole", 2, **changes)
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        at_step(patch, 4, {0: KeyboardInterrupt(), 1: KeyboardInterrupt()})
        ends = in_processes(2, lambda rank: train(config(tiny_images, 2, **changes), broken), tmp_path / "outcomes")
    assert all(end.startswith("KeyboardInterrupt") for end in ends)
    assert checkpoint(broken)["global_step"] == 4
    assert_same_run(run(tiny_images, broken, 2, resume=True, **changes), whole)


# --- what the network says


@pytest.mark.parametrize("processes", [2, FOUR])
@pytest.mark.parametrize("norm", [group_norm, FrozenNorm])
def test_sizes_agree_in_double_precision(tiny_images, tmp_path, monkeypatch, processes, norm):
    """Augmented, with uneven shares; what differs is the order of sums, and the rounding of the state to float32."""
    use(monkeypatch, norm)
    changes = {"epochs": 2, "stop_after": 1, "precision": "64-true", "options": GRADUAL}
    single = run(tiny_images, tmp_path / "single", 1, **changes)
    several = run(tiny_images, tmp_path / "several", processes, **changes)
    eps, expected = (state(path)["method.perturbation.eps"] for path in (several, single))
    assert expected.unique().numel() > 10
    assert (eps - expected).abs().max() < 1e-6
    assert metrics(several)["train/loss"].tolist() == pytest.approx(metrics(single)["train/loss"].tolist(), abs=1e-6)


# --- faults


def test_a_loss_that_is_not_finite_in_one_process_stops_all(tiny_images, tmp_path, monkeypatch):
    genuine = DPAAT.forward

    def forward(self, model, index, x, y):
        output = genuine(self, model, index, x, y)
        if 7 not in index or not self.perturbation.visits[7]:
            return output
        rows = {**output.rows, "adv_loss": output.rows["adv_loss"].where(index != 7, torch.nan)}
        return dataclasses.replace(output, loss=output.loss * torch.nan, rows=rows)

    monkeypatch.setattr(DPAAT, "forward", forward)
    out = tmp_path / "run"
    ends = in_processes(2, lambda rank: train(config(tiny_images, 2), out), tmp_path)
    assert ends[0] == ends[1]
    assert ends[0].startswith("UserError: training went wrong: the loss is not finite at step")
    data = open_run(out).prepare(progress=False)
    assert f"(samples {data.ids[data.rows('train')][7]}); the last good checkpoint is {out}" in ends[0]
    assert json.loads((out / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("rank", "error", "told"),
    [
        (0, UserError("the disk is full"), "UserError: the disk is full"),
        (1, torch.OutOfMemoryError(), "UserError: the device has too little memory for --batch-size 14; about 6"),
    ],
)
def test_a_fault_in_one_process_ends_the_others(tiny_images, tmp_path, monkeypatch, rank, error, told):
    at_step(monkeypatch, 1, {rank: error})
    ends = in_processes(2, lambda rank: train(config(tiny_images, 2), tmp_path / "run"), tmp_path)
    assert ends[rank].startswith(told)
    assert "another process of this run has ended, and its own message says why" in ends[1 - rank]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2}, "batch_size: a batch of 2 images leaves less than 2 to one of 2 processes"),
        ({"strategy": "ddp_spawn"}, "strategy: ddp_spawn starts its processes in a way that loses the run; use ddp"),
    ],
)
def test_what_several_processes_cannot_do(tiny_images, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(config(tiny_images, 2, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
