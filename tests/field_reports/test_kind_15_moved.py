"""Kind 15: a dataset that was moved, and a test set from elsewhere, are no dead ends."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from dpaat.cli import main
from dpaat.evaluation import evaluate_run
from dpaat.runs import open_run
from dpaat.training import train
from seen_makers import QUICK, as_csv, evaluated
from training_makers import assert_same_run, fails, make_images, tiny_config


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def move(images: Path) -> Path:
    return images.rename(images.with_name("moved"))


# LichtFeld-Studio#599: training cannot be resumed after the images were moved, and one is not told.
def test_training_goes_on_where_the_images_are_now(images, tiny_run, tmp_path, capfd):
    run = train(tiny_config(images), tmp_path / "run", stop_after=1)
    moved = move(images)
    fails(capfd, "train", "--resume", f"--out={run}", names=("no such folder", str(images), "give --data"))
    assert main(["train", "--resume", f"--out={run}", f"--data=folder:{moved}"]) == 0
    assert_same_run(run, tiny_run)
    assert open_run(run).config.data == f"folder:{moved}"
    assert evaluate_run(run, **QUICK)["results"][0]["n"] == 11


def test_training_refuses_other_images(images, tmp_path, capfd):
    run = train(tiny_config(images), tmp_path / "run", stop_after=1)
    make_images(tmp_path / "others", size=20)
    said = fails(capfd, "train", "--resume", f"--out={run}", f"--data=folder:{tmp_path / 'others'}", names=(str(run),))
    assert "not the images that" in said
    assert open_run(run).config.data == f"folder:{images}"


def test_evaluate_and_explain_where_the_images_are_now(images, tmp_path, capfd):
    run = train(tiny_config(images, epochs=1), tmp_path / "run")
    before = evaluate_run(run, **QUICK)
    moved = move(images)
    fails(capfd, "evaluate", run, "--device=cpu", names=("no such folder", "--data"))
    again = evaluate_run(run, data=f"folder:{moved}", **QUICK)
    assert [e["metrics"] for e in again["results"]] == [e["metrics"] for e in before["results"]]
    assert "left_out" not in again
    arguments = ["--maps=input-gradient", "--max-samples=3", "--steps=1", "--eps=1/255", "--device=cpu"]
    assert main(["explain", str(run), f"--data=folder:{moved}", *arguments]) == 0


def test_images_that_go_by_other_names_now(images, tiny_run, tmp_path):
    before = as_csv(images, tmp_path / "table" / "all.csv")
    config = tiny_config(images, data=before, epochs=2)
    whole = train(config, tmp_path / "whole")
    broken = train(config, tmp_path / "broken", stop_after=1)
    frame = pd.read_csv(tmp_path / "table" / "all.csv")
    frame["path"] = [str(shutil.copy(tmp_path / "table" / name, tmp_path / f"y{name}")) for name in frame["path"]]
    frame.to_csv(tmp_path / "now.csv", index=False)
    now = f"csv:{tmp_path / 'now.csv'}"
    first, ids = evaluated(whole, evaluate_run(whole, **QUICK))
    second, same = evaluated(whole, evaluate_run(whole, data=now, **QUICK))
    assert ids == same
    assert first["metrics"] == second["metrics"]
    shutil.rmtree(tmp_path / "table")
    train(config, broken, resume=True, data=now)
    assert_same_run(broken, whole)


def external(tmp_path: Path, **columns: str) -> str:
    images = make_images(tmp_path / "clinic", count=12, size=20)
    spec = as_csv(images, tmp_path / "clinic-table" / "test.csv")
    frame = pd.read_csv(spec.removeprefix("csv:")).assign(**columns)
    frame.to_csv(spec.removeprefix("csv:"), index=False)
    return spec


def test_a_test_set_from_elsewhere_need_not_have_training_images(tiny_run, tmp_path, capfd):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    spec = external(tmp_path, split="test")
    assert evaluate_run(run, data=spec, **QUICK)["results"][0]["n"] == 12
    fails(capfd, "train", f"--data={spec}", f"--out={tmp_path / 'new'}", names=("split 'train'", "evaluated"))


def test_a_test_set_that_is_too_small_to_split_is_all_test(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    images = make_images(tmp_path / "clinic", count=3, size=20)
    document = evaluate_run(run, data=f"folder:{images}", **QUICK)
    assert document["results"][0]["n"] == 3
