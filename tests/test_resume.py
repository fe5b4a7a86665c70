"""Runs repeat exactly: from their checkpoint, and from their configuration."""

import json
import shutil

import pytest
import torch

import dpaat.training
from data_makers import jpeg
from dpaat.errors import UserError
from dpaat.models import build_model
from dpaat.runs import read_config
from dpaat.training import train
from training_makers import assert_same_run, checkpoint, metrics, tiny_config


def with_dropout(*arguments, **options):
    model = build_model(*arguments, **options)
    model.network.drop_rate = 0.3
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dpaat"},
        {"method": "dpaat-paper", "options": {"rule": "solve", "track": "clean", "damping": 0.7, "eps_min": 0.1}},
        {"method": "dpaat-half", "options": {"radius": "permuted"}},
        {"method": "dpaat", "imbalance": "sampler", "ema_decay": 0.9, "optimizer": "adamw", "schedule": "cosine"},
        {"method": "standard", "dropout": True, "workers": 1},
    ],
)
def test_resumed_run_equals_an_unbroken_one_bit_for_bit(tiny_images, tmp_path, monkeypatch, changes):
    changes = dict(changes)
    if changes.pop("dropout", False):
        monkeypatch.setattr(dpaat.training.setup, "build_model", with_dropout)
    config = tiny_config(tiny_images, epochs=3, **changes)
    whole = train(config, tmp_path / "whole")
    torch.manual_seed(99)  # a new process starts with other random numbers
    broken = train(config, tmp_path / "broken", stop_after=1)
    assert json.loads((broken / "run.json").read_text())["status"] == "stopped"
    assert len(metrics(broken)) == 1
    torch.manual_seed(98)
    train(config, broken, resume=True, stop_after=1)
    # killed after the next epoch was logged and before its checkpoint was written
    shutil.copytree(broken, tmp_path / "before")
    train(config, broken, resume=True)
    shutil.copytree(tmp_path / "before" / "checkpoints", broken / "checkpoints", dirs_exist_ok=True)
    info = json.loads((tmp_path / "before" / "run.json").read_text())
    (broken / "run.json").write_text(json.dumps(info | {"status": "running"}))
    train(config, broken, resume=True)
    assert_same_run(broken, whole)


def test_run_repeats_from_its_own_config_and_other_seeds_differ(tiny_run, tmp_path):
    config = read_config(tiny_run / "config.yaml")
    assert_same_run(train(config, tmp_path / "again"), tiny_run)
    config.seed = 1
    other = train(config, tmp_path / "other")
    assert not torch.equal(
        checkpoint(other)["state_dict"]["model.network.fc.weight"],
        checkpoint(tiny_run)["state_dict"]["model.network.fc.weight"],
    )
    assert (other / "splits.csv").read_bytes() != (tiny_run / "splits.csv").read_bytes()


def test_resume_of_a_finished_run_changes_nothing(tiny_run, tiny_images):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    train(tiny_config(tiny_images), tiny_run, resume=True)
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_resume_refuses_changed_images(tmp_path, tiny_images):
    images = shutil.copytree(tiny_images, tmp_path / "images")
    run = train(tiny_config(images), tmp_path / "run", stop_after=1)
    first = next(images.rglob("*.png"))
    first.write_bytes(jpeg(kind="PNG"))
    with pytest.raises(UserError, match="the data have changed"):
        train(tiny_config(images), run, resume=True)


def test_resume_without_a_checkpoint_starts_the_same_run_anew(tiny_run, tiny_images, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_run, broken, ignore=shutil.ignore_patterns("*.ckpt"))
    train(tiny_config(tiny_images, seed=5), broken, resume=True)
    assert_same_run(broken, tiny_run)
