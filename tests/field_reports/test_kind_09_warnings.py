"""Reports from the field, kind 9: warnings say what is so; each has a case where it appears, one where it must not."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from benchmark_makers import document as benchmark_document
from benchmark_makers import run as run_grid
from benchmark_makers import write_grid
from dpaat.benchmark import runner
from dpaat.benchmark.tables import benchmark_markdown
from dpaat.cli import main
from dpaat.config import TrainConfig, complete
from dpaat.evaluation.metrics import one_answer
from dpaat.models import Classifier
from dpaat.report import write_report
from dpaat.training import train
from dpaat.training.faults import adaptation, attacked_visits, first_attack, overfitted
from training_makers import tiny_arguments, tiny_config

ATTACKED = "val/robust_balanced_accuracy@2/255"


def config_of(method: str, epochs: int = 8, **fields: object) -> TrainConfig:
    return complete(TrainConfig(method=method, epochs=epochs, val_eps="2/255", **fields))  # type: ignore[arg-type]


def overfitting(folder: Path, config: TrainConfig, robust: list[float], **columns: list[float]) -> str | None:
    """What is said of a run of rising training accuracy and these scores, of 3 classes."""
    epochs = range(len(robust))
    values = {"epoch": epochs, "train/accuracy": [0.5 + 0.01 * epoch for epoch in epochs], ATTACKED: robust}
    values |= {"val/balanced_accuracy": [0.8] * len(robust)} | columns
    pd.DataFrame(values).to_csv(folder / "metrics.csv", index=False)
    return overfitted(folder, config, 3)


# --- catastrophic overfitting


@pytest.mark.parametrize("method", ["dpaat", "taet", "amat"])  # found in our audit
def test_not_before_the_first_attack(tmp_path: Path, method: str) -> None:
    config = config_of(method)
    first = first_attack(config)
    assert first >= 2
    # Clean training gives up by itself what little robustness chance had given it.
    assert overfitting(tmp_path, config, [0.6] + [0.1] * (first - 1)) is None
    assert overfitting(tmp_path, config, [0.6] + [0.1] * first + [0.5]) is None
    said = overfitting(tmp_path, config, [0.1] * first + [0.6, 0.1])
    assert said is not None
    assert f"catastrophic overfitting in epoch {first + 2}" in said


def test_attacked_from_the_start(tmp_path: Path) -> None:
    said = overfitting(tmp_path, config_of("pgd"), [0.6, 0.1])
    assert said is not None
    assert "training accuracy under attack did not" in said
    assert overfitting(tmp_path, config_of("pgd"), [0.6, 0.5]) is None


def test_training_accuracy_is_only_called_attacked_where_it_is(tmp_path: Path) -> None:
    said = overfitting(tmp_path, config_of("dpaat-fast"), [0.6, 0.1])
    assert said is not None
    assert "under attack" not in said


def test_not_where_the_model_collapses_as_a_whole(tmp_path: Path) -> None:  # found in our audit
    columns = {"val/balanced_accuracy": [0.9, 1 / 3]}
    assert overfitting(tmp_path, config_of("pgd"), [0.8, 1 / 3], **columns) is None
    assert overfitting(tmp_path, config_of("pgd"), [0.8, 1 / 3]) is not None


def test_not_where_the_method_shrinks_the_radii(tmp_path: Path) -> None:  # found in our audit
    config = config_of("dpaat-half")
    assert overfitting(tmp_path, config, [0.6, 0.1], **{"eps/mean": [0.02, 0.001]}) is None
    assert overfitting(tmp_path, config, [0.6, 0.1], **{"eps/mean": [0.02, 0.02]}) is not None


# --- how often an image is attacked


@pytest.mark.parametrize(
    ("method", "epochs", "visits"),
    [("dpaat", 30, 15 * 0.1), ("dpaat-fast", 30, 15), ("dpaat-half", 30, 30), ("amat", 10, 7), ("iaat", 5, 5)],
)
def test_visits_that_attack(method: str, epochs: int, visits: float) -> None:
    assert attacked_visits(config_of(method, epochs)) == pytest.approx(visits)


@pytest.mark.parametrize(("method", "start", "weight"), [("dpaat", 0.5, 0.9), ("dpaat-fast", 0.0, 0.5)])
def test_visits_are_those_of_the_method_itself(method: str, start: float, weight: float, tiny_images: Path) -> None:
    from dpaat.training.setup import build, prepare_data

    config = complete(
        tiny_config(tiny_images, method=method, epochs=40, clean_weight=weight, adv_start=start, self_teacher=0.0)
    )
    objective = build(config, prepare_data(config, progress=False)).method
    index, count = torch.arange(37), torch.zeros(37)
    for epoch in range(config.epochs):
        objective.begin_epoch(epoch)
        if epoch >= objective.context.first_attack:
            count += objective.is_adversarial(index)  # type: ignore[operator]
    assert float(count.mean()) == pytest.approx(attacked_visits(config), abs=0.1)


def test_too_seldom_to_move_a_size() -> None:
    assert adaptation(config_of("dpaat", 10)) == (
        "each training image will be attacked about 0.5 times in 10 epochs: too seldom to move a size, 21 epochs would "
        "do",
        True,
    )
    assert adaptation(config_of("dpaat", 21)) == (
        "each training image will be attacked about 1.1 times in 21 epochs",
        False,
    )
    assert adaptation(config_of("dpaat-v1", 27))[1]  # type: ignore[index]
    assert adaptation(config_of("dpaat-v1", 28)) == (
        "each training image will be attacked about 2.1 times in 28 epochs, which can move its size by 28% of eps",
        False,
    )
    never = adaptation(config_of("dpaat-fast", clean_weight=1.0))
    assert never is not None
    assert never[0].endswith("too seldom to move a size; give a smaller --clean-weight")
    assert adaptation(config_of("pgd")) is None
    for method, epochs in (("taet", 1), ("amat", 2)):
        none = adaptation(config_of(method, epochs, adv_start=0.5 if epochs > 1 else 0.0))
        assert none is not None
        assert "no image will be attacked" in none[0]
        assert none[1]


def test_a_run_says_how_often_it_attacks(tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*tiny_arguments(tiny_images, method="dpaat", epochs=1), f"--out={tmp_path / 'seldom'}"]) == 0
    assert "warning: each training image will be attacked about 0.1 times in 1 epoch:" in capsys.readouterr().out
    (warning, *_) = json.loads((tmp_path / "seldom" / "run.json").read_text())["warnings"]
    assert "too seldom" in warning
    write_report([tmp_path / "seldom"], tmp_path / "report.html", images=False)
    assert "too seldom to move a size" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([*tiny_arguments(tiny_images, epochs=3), f"--out={tmp_path / 'often'}"]) == 0
    said = capsys.readouterr().out
    assert "\neach training image will be attacked about 3 times in 3 epochs" in said
    assert "too seldom" not in said + (tmp_path / "often" / "run.json").read_text()


# --- a model that answers one class only: AlexeyAB/darknet#4279, keras-team/keras#13330


def test_one_answer() -> None:
    labels = np.array([0, 1, 1])
    assert one_answer(np.array(["nv"] * 3), labels) == "answers nv for all 3 images: the constant answer"
    assert one_answer(np.array(["nv"] * 2003), np.arange(2003) % 7).startswith("answers nv for all 2,003 images")  # type: ignore[union-attr]
    assert one_answer(np.array(["nv", "nv", "mel"]), labels) is None
    assert one_answer(np.array(["nv"] * 3), np.zeros(3)) is None  # right each time
    assert one_answer(np.array([], str), np.array([])) is None


def answers(monkeypatch: pytest.MonkeyPatch, constant: bool) -> None:
    """Let every network answer the second class, or the one of the strongest tint."""

    def forward(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        tint = x.mean((2, 3)) + 0 * sum(p.sum() for p in self.parameters())
        return torch.tensor([0.0, 9.0, 0.0]) + 0 * tint if constant else 100 * tint

    monkeypatch.setattr(Classifier, "forward", forward)


@pytest.mark.parametrize("constant", [True, False])
def test_the_constant_answer_is_called_that(
    tiny_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    constant: bool,
) -> None:
    answers(monkeypatch, constant)
    run = tmp_path / "run"
    assert main([*tiny_arguments(tiny_images, method="standard", val_eps="0"), f"--out={run}"]) == 0
    said = capsys.readouterr().out
    text = "answers c1 for all 6 images: the constant answer"
    assert said.count(f"warning: on validation, the model {text}\n") == constant  # not once an epoch
    assert (f"warning: on validation, the kept model {text}\n" in said) == constant
    assert json.loads((run / "run.json").read_text())["one_answer"] == (text if constant else None)
    text = "answers c1 for all 11 images: the constant answer"
    assert main(["evaluate", str(run), "--attack=fgsm", "--eps=2/255", "--device=cpu"]) == 0
    assert (f"warning: the model {text}" in capsys.readouterr().out) == constant
    write_report([run], tmp_path / "report.html", images=False)
    assert (f"run {text}" in (tmp_path / "report.html").read_text(encoding="utf-8")) == constant
    write_report([run], tmp_path / "card.md", format="md")
    assert ("the constant answer" in (tmp_path / "card.md").read_text(encoding="utf-8")) == constant


@pytest.mark.parametrize("constant", [True, False])
def test_a_benchmark_names_its_constants(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: bool
) -> None:
    from benchmark_makers import here

    answers(monkeypatch, constant)
    monkeypatch.setattr(runner, "run_command", here)
    recipes = {"standard": {"method": "standard"}}
    assert run_grid(write_grid(tmp_path / "grid.yaml", recipes=recipes), tmp_path / "out", tiny_images) == 0
    found = benchmark_document(tmp_path / "out")
    assert [bool(cell.get("one_answer")) for cell in found["cells"]] == [constant] * 2
    assert ("answers c1 for all 27 images" in benchmark_markdown(found, "grid")) == constant


def test_a_warning_ends_with_its_cause(tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tiny_images, method="standard", val_eps="0", select="last")
    with monkeypatch.context() as patch:
        answers(patch, constant=True)
        train(config, tmp_path / "run", stop_after=1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["one_answer"]
    answers(monkeypatch, constant=False)
    train(config, tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["one_answer"] is None


# --- damaged checkpoints; emulated precision has its cases in test_precision.py


@pytest.mark.parametrize("damaged", [True, False])
def test_skipped_checkpoints(tiny_images: Path, tmp_path: Path, damaged: bool) -> None:
    config = tiny_config(tiny_images, method="standard", val_eps="0")
    run = train(config, tmp_path / "run", stop_after=1)
    if damaged:
        (run / "checkpoints" / "last.ckpt").write_bytes(b"cut off")
    out = io.StringIO()
    train(config, run, resume=True, console=Console(file=out, width=500))
    assert ("warning:" in out.getvalue() and "damaged checkpoint; skipped" in out.getvalue()) == damaged
