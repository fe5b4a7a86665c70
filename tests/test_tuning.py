"""The search for settings, with the real Optuna and trainings of a second."""

import json
import shutil

import pandas as pd
import pytest

from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.runs import read_config
from dpaat.tuning import Range, parse_search
from training_makers import TINY, fails

optuna = pytest.importorskip("optuna", reason="needs the extra tune")


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "lr=log:1e-4,1e-1": Range("lr", 1e-4, 1e-1, log=True),
        "clean-weight=0.5,0.9": Range("clean_weight", 0.5, 0.9),
        "epochs=10,20": Range("epochs", 10, 20, whole=True),
        "steps=choice:3,10": Range("steps", choices=(3, 10)),
        "steps=3,7,10": Range("steps", choices=(3, 7, 10)),
        "optimizer=sgd,adamw": Range("optimizer", choices=("sgd", "adamw")),
        "eps=2/255,8/255": Range("eps", choices=("2/255", "8/255")),
        "pretrained=true,false": Range("pretrained", choices=(True, False)),
        "options.damping=0,1": Range("options.damping", 0, 1),
        "options.min_steps=1,5": Range("options.min_steps", 1, 5, whole=True),
        "options.statistic=mean,median": Range("options.statistic", choices=("mean", "median")),
        "trainer.gradient_clip_val=0.5,2": Range("trainer.gradient_clip_val", 0.5, 2),
    }.items(),
)
def test_what_to_search(text, expected):
    defaults = {"damping": 0.5, "min_steps": 3, "statistic": "mean"}
    assert parse_search(text, defaults) == expected


BAD = {
    "lr": "needs a field and values",
    "lr=1": "needs a field and values",
    "lrr=1,2": "lr",
    "lr=log:0,1": "above 0",
    "lr=0.2,0.1": "smaller first",
    "lr=-1,1": "lr",
    "epochs=1.5,3": "whole number",
    "val_eps=1/255,2/255": "cannot be compared",
    "seed=1,2": "cannot be compared",
    "norm=linf,l2": "cannot be compared",
    "devices=1,2": "cannot be compared",
    "options=1,2": "no single value",
    "lr.x=1,2": "no field",
    "options.nothing=1,2": "nothing",
    "optimizer=sgd,rmsprop": "rmsprop",
    "method=standard,pgd": "select",
}


def test_a_search_over_what_the_method_does_not_use_is_refused(tmp_path, capfd):
    out = tmp_path / "out"
    fails(capfd, "tune", "--method=standard", "--search=eps=1/255,2/255", f"--out={out}", names=("does not use eps",))
    assert not out.exists()


@pytest.mark.parametrize("text", BAD)
def test_a_bad_search_is_one_line(tmp_path, capfd, text):
    fails(capfd, "tune", f"--search={text}", f"--out={tmp_path / 'out'}", names=(BAD[text],))
    assert not (tmp_path / "out").exists()


def arguments(images, out, trials, *more):
    fields = TINY | {"data": f"folder:{images}", "method": "standard", "epochs": 2, "val_eps": "0"}
    typed = [f"--{name}={value}" for name, value in fields.items()]
    return [
        "tune",
        *typed,
        "--search=lr=log:1e-4,1e-1",
        "--search=optimizer=sgd,adamw",
        f"--out={out}",
        f"--trials={trials}",
        *more,
    ]


def test_a_study_goes_on_and_ends_in_a_configuration(tiny_images, tmp_path, capfd):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(tiny_images, whole, 3)) == 0
    for trials in (1, 3):
        assert main(arguments(tiny_images, parts, trials)) == 0
    table = pd.read_csv(whole / "trials.csv")
    assert table["state"].tolist() == ["complete"] * 3
    pd.testing.assert_frame_equal(table, pd.read_csv(parts / "trials.csv"))
    assert table["lr"].nunique() == 3
    for number, score in table["score"].items():
        folder = whole / "trials" / f"{number:04d}"
        assert score == pytest.approx(pd.read_csv(folder / "metrics.csv")["val/score"].max())
        assert not (folder / "evaluation.json").exists()
    best = table.loc[table["score"].idxmax()]
    config = read_config(whole / "best.yaml")
    assert (config.lr, config.optimizer, config.epochs) == (pytest.approx(best["lr"]), best["optimizer"], 2)
    fails(capfd, *arguments(tiny_images, whole, 4, "--batch-size=8"), names=("another config",))


def test_a_study_of_data_that_have_changed_is_not_gone_on_with(tiny_images, tmp_path, capfd):
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(tiny_images, images)
    assert main(arguments(images, out, 1)) == 0
    next((images / "c0").iterdir()).rename(images / "c1" / "moved.png")
    fails(capfd, *arguments(images, out, 2), names=("data that have changed since",))


def test_an_interrupted_trial_is_gone_on_with(tiny_images, tmp_path, monkeypatch):
    from dpaat import training

    real = training.train

    def killed(config, out, **options):
        real(config, out, **options | {"stop_after": 1})
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", killed)
    assert main(arguments(tiny_images, tmp_path, 1)) == 130
    monkeypatch.setattr(training, "train", real)
    before = json.loads((tmp_path / "trials" / "0000" / "run.json").read_text())["epochs_done"]
    assert main(arguments(tiny_images, tmp_path, 1)) == 0
    assert before == 1
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 1
    straight = tmp_path / "straight"
    assert main(arguments(tiny_images, straight, 1)) == 0
    log = [pd.read_csv(out / "trials" / "0000" / "metrics.csv") for out in (tmp_path, straight)]
    pd.testing.assert_frame_equal(*log)


def test_a_hopeless_trial_is_given_up(tiny_images, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.number == 1)
    assert main(arguments(tiny_images, tmp_path, 2, "--prune")) == 0
    assert pd.read_csv(tmp_path / "trials.csv")["state"].tolist() == ["complete", "pruned"]
    epochs = [len(pd.read_csv(tmp_path / "trials" / name / "metrics.csv")) for name in ("0000", "0001")]
    assert epochs == [2, 1]


def test_a_trial_that_fails_does_not_end_the_study(tiny_images, tmp_path, monkeypatch, capfd):
    from dpaat import training

    real = training.train

    def diverging(config, out, **options):
        if out.name == "0000":
            raise UserError("loss is not finite")
        return real(config, out, **options)

    monkeypatch.setattr(training, "train", diverging)
    fails(capfd, *arguments(tiny_images, tmp_path, 1), names=("none of 1 trials ended well",))
    assert main(arguments(tiny_images, tmp_path, 2)) == 0
    assert pd.read_csv(tmp_path / "trials.csv")["state"].tolist() == ["fail", "complete"]
