import json
import math
import re

import pandas as pd
import pytest
import torch
from rich.console import Console
from timm.utils import ModelEmaV3
from torch.nn import functional as F

from data_makers import write_csv
from dpaat.attacks import pgd
from dpaat.cli import main
from dpaat.config import complete, unused
from dpaat.data import prepare
from dpaat.methods import METHODS
from dpaat.methods.dpaat import PRESETS
from dpaat.methods.imbalance import learning_loss
from dpaat.runs import open_run, read_config, write_config
from dpaat.training import train
from dpaat.training.module import TrainingModule
from training_makers import TINY, checkpoint, metrics, tiny_config

CLASSES = ("c0", "c1", "c2")


# --- the run folder


def test_run_folder(tiny_run):
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml",
        "run.json",
        "splits.csv",
        "metrics.csv",
        "timing.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "perturbation.parquet/epoch-0000.parquet",
        "perturbation.parquet/epoch-0001.parquet",
    }
    assert not [name for name in names if name.endswith(".tmp")]
    info = json.loads((tiny_run / "run.json").read_text())
    assert (info["status"], info["epochs_done"], info["schema_version"]) == ("finished", 2, 1)
    assert (info["classes"], info["channels"], info["synthetic"]) == (list(CLASSES), 3, False)
    splits = pd.read_csv(tiny_run / "splits.csv")
    assert splits["split"].value_counts().to_dict() == {
        split: sum(counts.values()) for split, counts in info["split_counts"].items()
    }
    assert str(tiny_run) not in (tiny_run / "config.yaml").read_text()
    run = open_run(tiny_run)
    model = run.load_model()
    assert not model.training
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_metrics_have_every_column_and_make_sense(tiny_run):
    table = metrics(tiny_run)
    assert table["epoch"].tolist() == [0, 1]
    radii = ("2/255", "8/255")
    expected = {"epoch", "lr", "train/loss", "train/accuracy", "val/loss", "val/auroc", "val/score"}
    expected |= {f"val/{name}" for name in ("accuracy", "balanced_accuracy", "map")}
    expected |= {f"val/robust_{name}@{eps}" for name in ("accuracy", "balanced_accuracy", "map") for eps in radii}
    expected |= {f"eps/{name}" for name in ("mean", "q10", "q50", "q90", "share_zero", "share_max")}
    expected |= {f"eps/{kind}/{name}" for kind in ("mean", "q10", "q50", "q90") for name in CLASSES}
    expected |= {f"criterion/{name}" for name in CLASSES}
    assert set(table) == expected
    assert table.notna().all(axis=None)
    assert (table["val/robust_accuracy@8/255"] <= table["val/robust_accuracy@2/255"]).all()
    assert (table["val/robust_accuracy@2/255"] <= table["val/accuracy"]).all()
    balanced = ["val/balanced_accuracy", *(f"val/robust_balanced_accuracy@{eps}" for eps in radii)]
    assert table["val/score"].tolist() == pytest.approx(table[balanced].mean(axis=1).tolist())


def test_perturbation_log_has_a_row_per_training_sample_and_epoch(tiny_run):
    log = pd.read_parquet(tiny_run / "perturbation.parquet")
    splits = pd.read_csv(tiny_run / "splits.csv")
    train_ids = splits["id"][splits["split"] == "train"].tolist()
    assert list(log) == ["id", "class", "epoch", "eps", "loss", "distance"]
    for epoch in (0, 1):
        part = log[log["epoch"] == epoch]
        assert part["id"].tolist() == train_ids
        assert (part["class"] == [name.split("/")[0] for name in train_ids]).all()
        assert part["eps"].between(0, 8 / 255 + 1e-7).all()
        assert metrics(tiny_run)["eps/mean"][epoch] == pytest.approx(part["eps"].mean(), rel=1e-5)
        assert (part["loss"] > 0).all()
        assert part["distance"].dropna().between(0, 2 * 8 / 255 + 1e-4).all()
    state = checkpoint(tiny_run)["state_dict"]
    last = log[log["epoch"] == 1]
    assert last["distance"].notna().all()
    assert last["eps"].tolist() == state["method.perturbation.eps"].tolist()
    assert set(state["method.perturbation.visits"].tolist()) == {2}


def test_the_last_epoch_is_kept_where_it_is_asked_for(tiny_images, tmp_path):
    config = tiny_config(tiny_images, method="standard", epochs=5, lr=0.3, val_eps="8/255", select="last")
    run = train(config, tmp_path / "run", stop_after=3)
    assert checkpoint(run, "best")["epoch"] == 2
    train(config, run, resume=True)
    scores = metrics(run)["val/score"]
    assert scores.idxmax() < 4
    assert checkpoint(run, "best")["epoch"] == 4
    assert json.loads((run / "run.json").read_text())["kept_score"] == pytest.approx(scores[4])


def test_best_checkpoint_is_that_of_the_highest_score(tiny_images, tmp_path):
    run = train(tiny_config(tiny_images, method="standard", epochs=5, lr=0.3, val_eps="8/255"), tmp_path / "run")
    scores = metrics(run)["val/score"]
    best = checkpoint(run, "best")
    assert scores.nunique() > 1
    assert best["epoch"] == scores.idxmax()
    assert json.loads((run / "run.json").read_text())["kept_score"] == pytest.approx(scores.max())
    assert checkpoint(run)["epoch"] == 4
    weights = open_run(run).load_model().state_dict()
    assert all(torch.equal(value, best["state_dict"][f"model.{name}"]) for name, value in weights.items())


# --- methods and losses


WITH_RADII = {"iaat", "cat", "mma", "ima", "ame", "amat", *PRESETS}


@pytest.mark.parametrize("imbalance", ["none", "weights", "sampler", "balanced-softmax"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_with_every_treatment_of_imbalance(tiny_images, tmp_path, method, imbalance):
    config = tiny_config(tiny_images, method=method, imbalance=imbalance, epochs=1, steps=1, val_eps="0")
    if method == "dpaat":
        config.epochs = 2  # one for the teacher to learn
    run = train(config, tmp_path / "run")
    table = metrics(run)
    assert len(table) == config.epochs
    assert math.isfinite(table["train/loss"][0])
    assert ("eps/mean" in table) == (method in WITH_RADII) == (run / "perturbation.parquet").exists()
    assert not [name for name in table if "robust" in name]


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_a_run_of_one_step_learns_at_the_peak_rate(tiny_images, tmp_path, schedule, monkeypatch):
    rates = []
    genuine = TrainingModule.on_before_optimizer_step

    def noted(self, optimizer):
        rates.append(optimizer.param_groups[0]["lr"])
        genuine(self, optimizer)

    monkeypatch.setattr(TrainingModule, "on_before_optimizer_step", noted)
    changes = {"epochs": 1, "batch_size": 64, "lr": 0.5, "schedule": schedule, "method": "standard", "val_eps": "0"}
    train(tiny_config(tiny_images, **changes), tmp_path / "run")
    assert rates == [0.5]


def test_weights_are_averaged_once_a_step(tiny_images, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(ModelEmaV3, "update", lambda self, model, step=None: steps.append(step))
    config = tiny_config(tiny_images, epochs=1, ema_decay=0.9, val_eps="0", trainer={"accumulate_grad_batches": 2})
    train(config, tmp_path / "run")
    assert steps == list(range(1, len(steps) + 1))


def test_the_mean_radius_is_written_in_the_unit_of_its_norm(tiny_images, tmp_path, capsys):
    for norm, eps, wanted in (("l2", "1", r"mean eps [\d.]+  left"), ("linf", "8/255", r"mean eps [\d.]+/255  left")):
        train(tiny_config(tiny_images, method="dpaat", norm=norm, eps=eps), tmp_path / norm, console=Console())
        assert re.search(wanted, capsys.readouterr().out)


def test_what_a_method_does_not_use_is_said_and_recorded(tiny_images, tmp_path, capsys):
    given = ["--method=standard", "--self-teacher=0.5", "--eps=4/255", "--adv-start=0", "--epochs=1", "--val-eps=0"]
    fields = [
        f"--{name.replace('_', '-')}={value}" for name, value in TINY.items() if name not in ("epochs", "val_eps")
    ]
    assert main(["train", f"--data=folder:{tiny_images}", *fields, *given, f"--out={tmp_path / 'run'}"]) == 0
    line = "not used, since method 'standard' makes no adversarial images: eps, self_teacher"
    assert line in " ".join(capsys.readouterr().out.split())
    assert line in json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert unused(read_config(tmp_path / "run" / "config.yaml")) is None, "a completed configuration gives nothing idle"


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5])
def test_very_short_runs(tiny_images, tmp_path, total):
    run = train(tiny_config(tiny_images, method="standard", epochs=total, batch_size=64, val_eps="0"), tmp_path / "run")
    assert len(metrics(run)) == total


LABELS = torch.tensor([0, 0, 0, 0, 1])  # 4 of class 0, 1 of class 1, none of class 2
LOGITS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
Y = torch.tensor([0, 1])


@pytest.mark.parametrize("imbalance", ["none", "sampler"])
def test_loss_without_treatment_is_cross_entropy(imbalance):
    assert torch.allclose(learning_loss(imbalance, LABELS, 3)(LOGITS, Y), F.cross_entropy(LOGITS, Y, reduction="none"))


def test_weighted_loss_by_hand():
    # 1 / sqrt(4) and 1 / sqrt(1); mean over the images (4 * 0.5 + 1) / 5 = 0.6
    loss = learning_loss("weights", LABELS, 3)(LOGITS, Y)
    assert loss.tolist() == pytest.approx([0.5 / 0.6 * math.log(1 + 2 / math.e), 1 / 0.6 * math.log(math.e + 2)])


def test_balanced_softmax_by_hand():
    # odds e * 4 : 1 * 1 : 1 * 1, an absent class counted as one image
    loss = learning_loss("balanced-softmax", LABELS, 3)(LOGITS, Y)
    total = 4 * math.e + 2
    assert loss.tolist() == pytest.approx([-math.log(4 * math.e / total), -math.log(1 / total)])


def test_validation_cascade_agrees_with_attacking_everything(tiny_run):
    run = open_run(tiny_run)
    data, model = run.prepare(progress=False), run.load_model()
    best = checkpoint(tiny_run, "best")["epoch"]
    rows = data.rows("val")
    x, y = torch.from_numpy(data.images[rows]).float() / 255, torch.from_numpy(data.labels[rows])
    standing = model(x).argmax(1) == y
    for radius in run.config.val_radii:
        standing &= model(pgd(model, x, y, eps=radius, steps=2)).argmax(1) == y
        logged = metrics(tiny_run)[f"val/robust_accuracy@{round(radius * 255)}/255"][best]
        assert logged == pytest.approx(float(standing.double().mean()), abs=1e-6)


def test_groups_stay_on_one_side(tmp_path, tiny_images):
    files = sorted(tiny_images.rglob("*.png"))
    rows = [
        {"path": str(file), "label": file.parent.name, "group": f"{file.parent.name}-{number // 2}"}
        for number, file in enumerate(files)
    ]
    spec = f"csv:{write_csv(tmp_path / 'table.csv', rows)}"
    run = train(tiny_config(tiny_images, data=spec, method="standard", epochs=1, val_eps="0"), tmp_path / "run")
    table = pd.read_csv(run / "splits.csv").merge(pd.DataFrame(rows), left_on="id", right_on="path")
    assert len(table) == len(files)
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert (table.groupby("group").size() > 1).any()


def test_config_is_completed_and_survives_the_disk(tiny_images, tmp_path):
    config = complete(tiny_config(tiny_images, method="dpaat", fold="2/5"))
    assert (config.eps, config.clean_weight, config.adv_start, config.self_teacher) == ("8/255", 0.9, 0.5, 1.0)
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path / "config.yaml") == config == complete(config)
    assert complete(tiny_config(tiny_images, method="standard", eps="3/255")).eps is None
    assert prepare(config.data, image_size=32, fold=config.fold, progress=False).rows("test").size
