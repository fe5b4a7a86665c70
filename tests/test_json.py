"""With --json every command prints its result, one JSON object, and nothing else on standard output."""

import json
import shutil

import pytest

import report_makers
import test_compare
from data_makers import write_csv
from dpaat import cli, hub, quickstart, tuning
from dpaat.parsing import command_parser
from training_makers import tiny_arguments

WITHOUT = {"completion": "prints a script for a shell"}
COMMANDS = {
    "quickstart": ([], "report"),
    "train": (["TRAIN", "--resume", "--out", "RUN"], "epochs_done"),
    "evaluate": (["RUN", "--attack", "fgsm", "--eps", "2/255", "--max-samples", "8", "--device", "cpu"], "results"),
    "explain": (["RUN", "--maps", "input-gradient", "--max-samples", "3", "--steps", "1"], "explanations"),
    "compare": (["ONE", "TWO"], "reference"),
    "benchmark": (["smoke", "--dry-run"], "cells"),
    "tune": (["--search", "lr=1e-3,1e-1", "--out", "study"], "best"),
    "profile": (["TRAIN", "--batch-size", "4", "--batches", "1"], "passes"),
    "predict": (["RUN", "IMAGES"], "predictions"),
    "report": (["ONE", "--no-images"], "report"),
    "export": (["RUN", "--no-onnx", "--images", "4"], "checked"),
    "push": (["RUN", "clinic/net"], "url"),
    "data check": (["folder:IMAGES"], "fingerprint"),
    "list": (["attacks"], "attacks"),
}


def test_every_command_has_it_or_a_reason():
    assert {*COMMANDS, *WITHOUT} == {*cli.COMMANDS}
    for name in cli.COMMANDS:
        assert ("--json" in command_parser(cli._function(name), name).options) == (name in COMMANDS), name


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_all_that_is_printed(name, tiny_images, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "quickstart", lambda **_: print("said") or tmp_path / "report.html")
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: print("said") or tmp_path / "best.yaml")
    monkeypatch.setattr(hub, "push", lambda *_, **__: ("https://hub/clinic/net", ["model.safetensors"]))
    arguments, key = COMMANDS[name]
    places = {"IMAGES": str(tiny_images), "RUN": str(tmp_path / "run")}
    if "RUN" in arguments:
        shutil.copytree(tiny_run, tmp_path / "run")
    if name == "report":
        places["ONE"] = str(report_makers.make_run(tmp_path / "one"))
    if name == "compare":
        places |= {
            each: str(test_compare.make_run(tmp_path, each, method=each.lower(), skill=1.0)) for each in ("ONE", "TWO")
        }
    given = [word for each in arguments for word in (tiny_arguments(tiny_images)[1:] if each == "TRAIN" else [each])]
    given = [places.get(word, word.replace("IMAGES", str(tiny_images))) for word in given]
    capsys.readouterr()
    assert cli.main([*name.split(), *given, "--json"]) == 0
    out, err = capsys.readouterr()
    assert key in json.loads(out)
    assert err, "what people read goes to standard error"
    assert cli.main([*name.split(), *given, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == json.loads(out).keys()


def test_problems_are_in_it_and_in_the_exit_code(tmp_path, capsys):
    table = write_csv(tmp_path / "list.csv", [{"path": "gone.png", "label": "a"}])
    assert cli.main(["data", "check", f"csv:{table}", "--json"]) == 1
    assert "gone.png" in str(json.loads(capsys.readouterr().out)["problems"])
