"""Training that goes wrong stops at once and says why."""

import json
from functools import partial

import pytest
import torch

import dpaat.training
from dpaat.config import TrainConfig, complete
from dpaat.data.loading import KeyedBatchSampler
from dpaat.errors import UserError, listed
from dpaat.methods import StepOutput
from dpaat.runs import open_run
from dpaat.training import train
from dpaat.training.faults import (
    EPS,
    LOSS,
    FaultWatch,
    TrainingError,
    attacked_radius,
    catastrophic_overfitting,
    largest_batch,
)
from dpaat.training.module import TrainingModule
from training_makers import checkpoint, tiny_config


def output(index, loss=1.0, logits=None, **rows):
    logits = torch.zeros(len(index), 2) if logits is None else logits
    return StepOutput(torch.tensor(loss), logits, torch.tensor(index), rows)


def test_watch_names_the_first_step_and_its_samples():
    watch = FaultWatch(6, 1.0, torch.device("cpu"))
    watch.look(0, output([0, 1]), None)
    watch.check()
    watch.look(1, output([2, 3], torch.inf, adv_loss=torch.tensor([1.0, torch.nan])), None)
    watch.look(2, output([4, 5], torch.nan), None)
    with pytest.raises(TrainingError) as caught:
        watch.check()
    assert (caught.value.cause, caught.value.step, caught.value.rows) == (LOSS, 1, [3])


def test_watch_names_the_whole_batch_where_nothing_tells_its_samples_apart():
    watch = FaultWatch(6, 1.0, torch.device("cpu"))
    watch.look(4, output([1, 5], torch.nan), None)
    with pytest.raises(TrainingError) as caught:
        watch.check()
    assert caught.value.rows == [1, 5]


@pytest.mark.parametrize("size", [1.5, torch.inf, torch.nan])
def test_watch_sees_exploding_sizes(size):
    watch = FaultWatch(4, 1.0, torch.device("cpu"))
    watch.look(0, output([0, 1]), torch.tensor([0.0, 1.0, size, 0.0]))
    watch.look(1, output([2, 3]), torch.tensor([0.0, 1.0, size, 0.0]))
    with pytest.raises(TrainingError) as caught:
        watch.check()
    assert (caught.value.cause, caught.value.step, caught.value.rows) == (EPS, 1, [2])


def test_a_loss_that_is_not_finite_stops_the_run(tiny_images, tmp_path, monkeypatch):
    genuine = TrainingModule.training_step

    def training_step(self, batch, batch_idx):
        loss = genuine(self, batch, batch_idx)
        if self.trainer.fit_loop.total_batch_idx == 7:
            self._output = StepOutput(loss.detach() * torch.nan, self._output.logits, self._output.index)
        return loss

    monkeypatch.setattr(TrainingModule, "training_step", training_step)
    config = tiny_config(tiny_images, method="standard", batch_size=8, val_eps="0", save_every=0)
    with pytest.raises(UserError, match="the loss is not finite at step 8, batch 3 of epoch 2") as caught:
        train(config, tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["status"], info["error"]) == ("failed", str(caught.value))
    assert checkpoint(tmp_path / "run")["global_step"] == 7
    data = open_run(tmp_path / "run").prepare(progress=False)
    rows = data.rows("train")
    batch = KeyedBatchSampler(torch.from_numpy(data.labels[rows]), 8, seed=0, epoch=1).batches[2]
    assert listed([data.ids[rows][row] for row in sorted(batch)]) in str(caught.value)
    assert "last.ckpt" in str(caught.value)


def test_weights_that_are_not_finite_are_never_saved(tiny_images, tmp_path, monkeypatch):
    genuine = TrainingModule.on_train_batch_end

    def poison(self, outputs, batch, batch_idx):
        if batch_idx == 2:
            next(self.model.parameters()).data.fill_(torch.nan)
        genuine(self, outputs, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", poison)
    config = tiny_config(tiny_images, method="standard", batch_size=8, val_eps="0", save_every=0)
    with pytest.raises(UserError, match="the weights are not finite at step 3"):
        train(config, tmp_path / "run")
    assert checkpoint(tmp_path / "run")["global_step"] == 2


def test_class_absent_from_the_training_split(tiny_images, tmp_path):
    ids = sorted(path.relative_to(tiny_images).as_posix() for path in tiny_images.rglob("*.png"))
    split = ["test" if name.startswith("c1") else ("train", "val")[n % 2] for n, name in enumerate(ids)]
    (tmp_path / "splits.csv").write_text("id,split\n" + "".join(f"{i},{s}\n" for i, s in zip(ids, split, strict=True)))
    with pytest.raises(UserError, match="no image of class c1 in the training split"):
        train(tiny_config(tiny_images, splits=str(tmp_path / "splits.csv")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_out_of_memory_names_a_batch_size_that_fits(tiny_images, tmp_path, monkeypatch):
    genuine = dpaat.training.setup.build_method

    def hungry(*arguments):
        method = genuine(*arguments)
        forward = method.forward

        def limited(model, index, x, y):
            if len(index) > 5:
                raise torch.OutOfMemoryError
            return forward(model, index, x, y)

        method.forward = limited
        return method

    monkeypatch.setattr(dpaat.training.setup, "build_method", hungry)
    with pytest.raises(UserError, match="too little memory for --batch-size 16; about 4 would fit"):
        train(tiny_config(tiny_images), tmp_path / "run")


def test_largest_batch():
    def attempt(size):
        if size > 2:
            raise torch.OutOfMemoryError

    assert largest_batch(attempt, 16) == 2
    assert largest_batch(attempt, 5) == 2
    assert largest_batch(attempt, 2) is None


def test_catastrophic_overfitting():
    find = partial(catastrophic_overfitting, num_classes=7)
    assert find([0.3, 0.4, 0.9, 0.95], [0.3, 0.4, 0.1, 0.0]) == 2
    assert find([0.3, 0.4, 0.9], [0.3, 0.4, 0.25]) is None  # ordinary overfitting
    assert find([0.3, 0.4, 0.1], [0.3, 0.4, 0.1]) is None  # the run has collapsed as a whole
    assert find([0.3, 0.4], [0.05, 0.0]) is None  # never was robust
    assert find([0.6, 0.6], [1 / 7, 0.05]) is None  # began as a constant


def test_catastrophic_overfitting_is_reported(tiny_images, tmp_path, monkeypatch, capsys):
    scores = iter([0.6, 0.1])
    genuine = TrainingModule.on_validation_epoch_end

    def collapsing(self):
        genuine(self)
        self.epoch_scores["val/robust_balanced_accuracy@8/255"] = next(scores)

    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", collapsing)
    monkeypatch.setattr(TrainingModule, "train_scores", lambda self: {"train/loss": 1.0, "train/accuracy": 0.5})
    from rich.console import Console

    run = train(tiny_config(tiny_images, method="pgd", eps="8/255"), tmp_path / "run", console=Console())
    (warning,) = json.loads((run / "run.json").read_text())["warnings"]
    assert "catastrophic overfitting in epoch 2" in warning
    assert f"warning: {warning}" in capsys.readouterr().out


@pytest.mark.parametrize(("method", "radius"), [("pgd", "4/255"), ("dpaat", "2/255"), ("standard", None)])
def test_overfitting_is_looked_for_at_radii_that_are_trained_on(method, radius):
    config = complete(TrainConfig(method=method, val_eps="2/255,4/255,16/255"))
    assert attacked_radius(config) == (radius and f"val/robust_balanced_accuracy@{radius}")


def test_whole_radii_keep_their_names_in_the_log():
    config = complete(TrainConfig(method="pgd", norm="l2", eps="1", val_eps="0.5,1"))
    assert attacked_radius(config) == "val/robust_balanced_accuracy@255/255"
