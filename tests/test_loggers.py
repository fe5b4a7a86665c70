"""Trackers and callbacks of the user's own: each is the real library, and the run is the same with and without."""

import json
import random
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch

from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.training import loggers, train
from training_makers import assert_same_run, checkpoint, fails, metrics, tiny_arguments, tiny_config


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())


def info(run) -> dict:
    return json.loads((run / "run.json").read_text())


def test_tensorboard(tiny_images, tiny_run, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tiny_config(tiny_images, logger="tensorboard"), tmp_path / "run")
    assert_same_run(run, tiny_run)
    seen = EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("train/loss", "val/score", "eps/mean"):
        assert [event.step for event in seen.Scalars(name)] == [0, 1]
        assert [event.value for event in seen.Scalars(name)] == pytest.approx(metrics(run)[name].tolist())


def test_csv_keeps_what_was_logged_before_a_resume(tiny_images, tiny_run, tmp_path):
    run = train(tiny_config(tiny_images, logger="csv"), tmp_path / "run", stop_after=1)
    train(tiny_config(tiny_images, logger="csv"), run, resume=True)
    assert_same_run(run, tiny_run)
    parts = [pd.read_csv(run / "csv" / f"version_{number}" / "metrics.csv") for number in (0, 1)]
    assert [part["step"].tolist() for part in parts] == [[0], [1]]
    assert [part["train/loss"].item() for part in parts] == pytest.approx(metrics(run)["train/loss"].tolist())


class Look(L.Callback):
    """What W&B knows at the end."""

    def on_fit_end(self, trainer, pl_module):
        self.summary = dict(trainer.logger.experiment.summary)
        self.config = dict(trainer.logger.experiment.config)


def test_wandb(tiny_images, tiny_run, tmp_path):
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    look = Look()
    run = train(tiny_config(tiny_images, logger="wandb"), tmp_path / "run", callbacks=[look])
    assert_same_run(run, tiny_run)
    last = metrics(run).iloc[-1]
    for name in ("train/loss", "val/score", "eps/mean", "val/robust_balanced_accuracy@2/255"):
        assert look.summary[name] == pytest.approx(last[name])
    assert look.config["model"] == "test_resnet"
    assert look.config["options"]["views"] == "both"
    (kept,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert kept.stem == f"run-{info(run)['loggers']['wandb']}"
    assert wandb.run is None, "the next training of this process must not go into the same W&B run"


def test_a_wandb_run_of_the_caller_stays_open(tiny_images, tmp_path):
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    with wandb.init(dir=tmp_path, project="sweep") as own:
        run = train(tiny_config(tiny_images, logger="wandb", epochs=1), tmp_path / "run")
        assert wandb.run is own
        assert info(run)["loggers"] == {"wandb": own.id}
        assert "val/score" in own.summary.keys()  # noqa: SIM118 - no mapping


def test_mlflow_goes_on_with_the_same_run(tiny_images, tiny_run, tmp_path):
    mlflow = pytest.importorskip("mlflow", "3", reason="needs the extra mlflow", exc_type=ImportError)
    run = train(tiny_config(tiny_images, logger="mlflow"), tmp_path / "run", stop_after=1)
    assert main(["train", "--resume", "--out", str(run), "--workers", "0"]) == 0
    assert_same_run(run, tiny_run)
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'dpaat'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert info(run)["loggers"] == {"mlflow": found.info.run_id}
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["model"] == "test_resnet"
    for name, tracked in (
        ("val/score", "val/score"),
        ("eps/mean/c1", "eps/mean_c1"),
        ("val/robust_balanced_accuracy@2/255", "val/robust_balanced_accuracy_2_255"),
    ):
        history = client.get_metric_history(found.info.run_id, tracked)
        assert [(point.step, point.value) for point in history] == list(enumerate(metrics(run)[name]))


def test_a_tracker_that_fails_later_is_said_and_the_run_goes_on(tiny_images, tiny_run, tmp_path, monkeypatch):
    calls = []

    def fail(*_, **__):
        draw()
        calls.append(1)
        raise ConnectionError("the server has gone\nwith a long story")

    monkeypatch.setattr(loggers.loggers.CSVLogger, "log_metrics", fail)
    run = train(tiny_config(tiny_images, logger="csv"), tmp_path / "run")
    assert_same_run(run, tiny_run)
    assert len(calls) == 1
    (line,) = info(run)["warnings"]
    assert line == "csv takes no more of this run: the server has gone; metrics.csv holds all of it"
    assert info(run)["status"] == "finished"


def test_a_tracker_that_does_not_start(tiny_images, tmp_path, monkeypatch, capfd):
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    out = tmp_path / "run"
    line = fails(capfd, *tiny_arguments(tiny_images, logger="wandb"), "--out", out)
    assert "logger: wandb does not start: No API key configured" in line
    assert info(out)["status"] == "failed"
    assert main(["train", "--resume", "--out", str(out), "--logger", "none"]) == 0
    assert info(out)["status"] == "finished"


def test_a_tracker_that_is_nowhere(tiny_images, tmp_path, monkeypatch, capfd):
    pytest.importorskip("mlflow", "3", reason="needs the extra mlflow", exc_type=ImportError)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://server")
    line = fails(capfd, *tiny_arguments(tiny_images, logger="mlflow"), "--out", tmp_path / "run")
    assert "logger: mlflow does not start: " in line


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("wandb,tensorbord", "unknown logger 'tensorbord'; nearest: tensorboard"),
        ("none,csv", "unknown logger 'none'"),
        ("neptune", "unknown logger 'neptune'"),
    ],
)
def test_names(tiny_images, tmp_path, capfd, given, text):
    assert text in fails(capfd, *tiny_arguments(tiny_images, logger=given), "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_without_the_extra(tiny_images, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"logger: {name} is not installed: pip install 'dpaat\[{name}\]'"):
        train(tiny_config(tiny_images, logger=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_tracker_unless_asked_for(tiny_run):
    assert not {"tensorboard", "csv", "wandb"} & {path.name for path in tiny_run.iterdir()}
    assert "loggers" not in info(tiny_run)


def draw(*_, **__):
    return random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002 - those that everybody shares


class Own(L.Callback):
    """Counts epochs, and draws random numbers wherever it is called."""

    def __init__(self):
        self.epochs, self.rows = 0, []

    on_fit_start = on_train_start = on_train_epoch_start = on_train_batch_start = on_train_batch_end = draw
    on_validation_start = on_validation_batch_start = on_validation_end = draw

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1
        self.rows.append(len(metrics(Path(trainer.default_root_dir))))

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state):
        self.epochs = state["epochs"]


def test_own_callbacks_see_the_run_and_leave_it_as_it_is(tiny_images, tiny_run, tmp_path):
    own, again = Own(), Own()
    further = L.pytorch.callbacks.ModelCheckpoint(tmp_path / "mine", monitor="val/score", save_top_k=-1)
    run = train(tiny_config(tiny_images), tmp_path / "run", stop_after=1, callbacks=[own, further])
    assert (own.epochs, own.rows) == (1, [1]), "the epoch's row is written before"
    train(tiny_config(tiny_images), run, resume=True, callbacks=[again])
    assert again.epochs == 2
    assert_same_run(run, tiny_run)
    assert list((tmp_path / "mine").glob("*.ckpt"))
    assert checkpoint(run, "best")["epoch"] == checkpoint(tiny_run, "best")["epoch"]


def test_a_callback_may_end_the_run(tiny_images, tmp_path):
    class Enough(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    run = train(tiny_config(tiny_images), tmp_path / "run", callbacks=[Enough()])
    assert (info(run)["status"], info(run)["epochs_done"]) == ("stopped", 1)
