"""Typed models: a field stands once, and a bad value gets one line that names it."""

import json
import subprocess
import sys

import pytest

from dpaat.benchmark.grid import BenchmarkGrid
from dpaat.benchmark.jobs import JobRun
from dpaat.cli import main
from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.interpret.document import read_interpretability
from dpaat.measurement import EvaluateConfig, ExplainConfig
from dpaat.validation import fields_of

LINES = [
    (TrainConfig, {"epochs": 0}, "epochs: 0 is out of range; it must be at least 1"),
    (TrainConfig, {"adv_start": 1}, "adv_start: 1 is out of range; it must be at least 0 and below 1"),
    (TrainConfig, {"lr": float("nan")}, "lr: nan is out of range; it must be above 0"),
    (TrainConfig, {"batchsize": 8}, "unknown field 'batchsize'; nearest: batch_size"),
    (TrainConfig, {"optimizer": "adam"}, "unknown optimizer 'adam'; nearest: adamw"),
    (TrainConfig, {"fold": 1}, "fold: needs a text, but YAML reads the number 1"),
    (TrainConfig, {"seed": True}, "seed: needs a number, not true"),
    (TrainConfig, {"val_steps": None}, "val_steps: needs a value, not null"),
    (EvaluateConfig, {"max_samples": 0}, "max_samples: 0 is out of range"),
    (EvaluateConfig, {"split": "tset"}, "unknown split 'tset'; nearest: test"),
    (EvaluateConfig, {"steps": "pgd=x"}, "steps: 'pgd=x' is not a number of steps"),
    (ExplainConfig, {"maps": "grad-kam"}, "grad-cam"),
    (ExplainConfig, {"eps": "0"}, "eps: the clean images are explained anyway"),
    (BenchmarkGrid, {"recipes": {}, "models": ["a"]}, "recipes: "),
    (BenchmarkGrid, {"recipes": {"a": {}}}, "models: needs a value"),
    (BenchmarkGrid, {"recipes": {"a": {}}, "models": "a", "seeds": [0, 0]}, "seeds: 0 is given twice"),
]


@pytest.mark.parametrize(("kind", "values", "message"), LINES)
def test_a_bad_value_is_one_line_that_names_its_field(kind, values, message):
    with pytest.raises(UserError) as caught:
        kind(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [TrainConfig, EvaluateConfig, ExplainConfig, BenchmarkGrid])
def test_every_field_has_a_help(kind):
    assert not [name for name, field in fields_of(kind).items() if not field.description]


def test_texts_of_the_command_line_and_values_of_python_are_the_same_evaluation():
    text = EvaluateConfig(attacks="pgd, square", steps="square=50,pgd=3", eps="2/255,4/255")
    assert text == EvaluateConfig(attacks=["pgd", "square"], steps={"square": 50, "pgd": 3}, eps=[2 / 255, 4 / 255])
    assert EvaluateConfig(suites="standard", steps=7).steps == dict.fromkeys(
        ("pgd", "apgd-ce", "apgd-t", "fab-t", "square"), 7
    )


@pytest.mark.parametrize(
    ("command", "shown"),
    [("train", "(default: 128)"), ("evaluate", "(default: pgd)"), ("explain", "(default: 50)"), ("export", "100")],
)
def test_help_shows_the_defaults(command, shown, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert shown in " ".join(capsys.readouterr().out.split())


def test_the_help_of_all_commands_does_not_wait_for_the_models():
    code = (
        "import sys, dpaat.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint('pydantic' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_documents_name_the_damaged_place(tmp_path):
    cell = JobRun.__new__(JobRun)
    cell.folder = tmp_path
    (tmp_path / "cell.json").write_text(json.dumps({"seconds": {"train": "long"}}))
    with pytest.raises(UserError, match=r"cell\.json: damaged at 'seconds\.train'"):
        _ = cell.record
    (tmp_path / "interpretability.json").write_text(
        json.dumps({"schema_version": 1, "classes": ["a"], "explanations": [{"data": "x"}]})
    )
    with pytest.raises(UserError, match=r"damaged at 'explanations\[0\]\.fingerprint'; move it away and explain"):
        read_interpretability(tmp_path)
