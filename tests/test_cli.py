import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import dpaat
from dpaat import training
from dpaat.attacks import ATTACKS
from dpaat.cli import main
from dpaat.config import TrainConfig, complete
from dpaat.errors import UserError
from dpaat.methods import METHODS
from dpaat.runs import read_config, write_config
from training_makers import fails, tiny_arguments, tiny_config

COMMANDS = [
    "quickstart",
    "train",
    "evaluate",
    "explain",
    "compare",
    "benchmark",
    "predict",
    "profile",
    "report",
    "export",
    "push",
    "data check",
    "list",
    "completion",
]


def run(*arguments: str) -> int:
    """Exit code of the command line in this process; help and version leave by SystemExit, as argparse does."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def shell(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    assert run(*command.split(), "--help") == 0
    text = capsys.readouterr().out
    assert "usage: dpaat" in text
    assert not re.findall(r"--[a-z]+_", text), "options are shown with hyphens"


@pytest.mark.parametrize("command", ["", "train", "evaluate", "explain", "predict", "push", "completion", "data check"])
def test_help_shows_examples(command, capsys):
    assert run(*command.split(), "--help") == 0
    assert f"  dpaat {command}" in capsys.readouterr().out.split("examples:")[1]


def test_help_of_train_names_every_option(capsys):
    run("train", "--help")
    text = capsys.readouterr().out
    for name in TrainConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text, name
    assert "(required)" in text


def test_no_command_shows_the_help(capsys):
    assert run() == 2
    assert "dpaat quickstart" in capsys.readouterr().out


def test_version(capsys):
    assert run("--version") == 0
    assert dpaat.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["methods"], [*METHODS, "ramp=0.5"]),
        (["methods", "paper"], ["dpaat-paper"]),
        (["models", "resnet18"], ["resnet18", "seresnet18"]),
        (["attacks"], list(ATTACKS)),
    ],
)
def test_list(arguments, expected, capsys):
    assert run("list", *arguments) == 0
    text = capsys.readouterr().out
    assert not [name for name in expected if name not in text]
    if arguments[1:]:
        assert "densenet" not in text
        assert "standard" not in text


@pytest.mark.parametrize("spelling", ["--image-size", "--image_size"])
@pytest.mark.parametrize("equals", [True, False])
def test_both_spellings_and_print_config(spelling, equals, capsys):
    value = [f"{spelling}=48"] if equals else [spelling, "48"]
    for print_config in ("--print_config", "--print-config"):
        assert run("train", "--data=folder:my-photos_a", *value, print_config) == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert (printed["image_size"], printed["data"]) == (48, "folder:my-photos_a"), "values are left as they are"


def test_printed_config_trains_the_same_run(tiny_images, tmp_path, capsys):
    options = ["--options.ramp", "0.25", "--val-eps", "0", "--epochs", "1", "--fold", "2/3", "--ema-decay", "0.5"]
    arguments = [*tiny_arguments(tiny_images, trainer={"gradient_clip_val": 1.0}), *options]
    assert run(*arguments, "--print_config") == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert run(*arguments, "--out", str(tmp_path / "direct")) == 0
    assert run("train", "--config", str(file), "--out", str(tmp_path / "by-file")) == 0
    direct, by_file = (tmp_path / name / "config.yaml" for name in ("direct", "by-file"))
    assert direct.read_text() == by_file.read_text()
    config = read_config(direct)
    changes = {"trainer": {"gradient_clip_val": 1.0}, "epochs": 1, "fold": "2/3", "ema_decay": 0.5, "val_eps": "0"}
    assert config == complete(tiny_config(tiny_images, options={"ramp": 0.25}, **changes))
    assert (direct.parent / "metrics.csv").read_bytes() == (by_file.parent / "metrics.csv").read_bytes()


def test_options_override_a_config_file(tiny_run, tmp_path, capsys):
    assert run("train", "--config", str(tiny_run / "config.yaml"), "--seed", "7", "--print_config") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    config = read_config(tiny_run / "config.yaml")
    assert complete(TrainConfig(**{name: printed[name] for name in vars(config)})) == replace(config, seed=7)


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize(
    ("begun", "changes"),
    [
        ({"method": "standard"}, {"method": "dpaat"}),
        ({"method": "dpaat"}, {"method": "dpaat-balanced"}),
        ({"method": "dpaat", "options": {"radius": "mean"}}, {"method": "dpaat-balanced"}),
        ({"method": "dpaat"}, {"method": "pgd"}),
        ({"method": "pgd", "eps": "2/255", "clean_weight": 0.25}, {"method": "trades"}),
        ({"method": "dpaat"}, {"norm": "l2"}),
        ({"method": "standard"}, {"pretrained": True}),
        ({"method": "dpaat", "optimizer": "adamw", "lr": 0.003}, {"pretrained": True}),
        ({"method": "dpaat", "epochs": 1}, {"epochs": 30}),
    ],
)
def test_defaults_of_the_run_before_are_no_choices_of_the_next(begun, changes, python, tmp_path, monkeypatch):
    seen = []

    def train(config, *arguments, **further):
        seen.append(config)
        raise UserError("no further")

    monkeypatch.setattr(training, "train", train)
    write_config(tmp_path / "config.yaml", complete(TrainConfig(data="synthetic:60", **begun)))
    if python:
        with pytest.raises(UserError, match="no further"):
            dpaat.train(tmp_path / "config.yaml", tmp_path / "next", **changes)
    else:
        typed = [f"--{name}={str(value).lower()}" for name, value in changes.items()]
        assert run("train", "--config", str(tmp_path / "config.yaml"), f"--out={tmp_path / 'next'}", *typed) == 2
    assert complete(seen[0]) == complete(TrainConfig(data="synthetic:60", **{**begun, **changes}))


@pytest.mark.parametrize("text", ["- 1", "5", "null", "1: 2", "lr: [", "method: nope"])
def test_a_file_that_is_no_configuration_is_told_in_one_line(text, tmp_path, capfd):
    (tmp_path / "c.yaml").write_text(text)
    fails(capfd, "train", f"--config={tmp_path / 'c.yaml'}", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_written_by_hand_is_a_choice(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("data: synthetic:60\neps: 8/255\noptions: {beta: 3}\n")
    seen = []
    monkeypatch.setattr(training, "train", lambda config, *arguments, **further: seen.append(config))
    run("train", "--config", str(tmp_path / "mine.yaml"), "--method=trades", f"--out={tmp_path / 'run'}")
    assert (seen[0].eps, seen[0].options, seen[0].method) == ("8/255", {"beta": 3}, "trades")


def test_python_resumes_as_the_command_does(tiny_images, tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        dpaat.train(out=tmp_path / "typo", resume=True)
    images = shutil.copytree(tiny_images, tmp_path / "images")
    config = tiny_config(images)
    training.train(config, tmp_path / "run", stop_after=1)
    with pytest.raises(UserError, match=r"was begun with epochs 2, not 60"):
        dpaat.train(out=tmp_path / "run", resume=True, epochs=60)
    moved = images.rename(tmp_path / "moved")
    dpaat.train(config, out=tmp_path / "run", resume=True, data=f"folder:{moved}")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert read_config(tmp_path / "run" / "config.yaml").data == f"folder:{moved}"


def test_resuming_where_nothing_was_begun_is_refused(tiny_images, tmp_path, capfd):
    out = tmp_path / "run"
    for made in (False, True):
        fails(capfd, "train", "--resume", f"--out={out}", names=("holds no run to resume",))
        assert out.exists() == made
        out.mkdir(exist_ok=True)


def test_train_stop_resume_evaluate_predict(tiny_images, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert run(*tiny_arguments(tiny_images), "--stop-after", "1", "--out", out) == 0
    first = capsys.readouterr()
    assert "stopped after epoch 1/2" in first.out
    assert first.err == ""
    assert run("train", "--resume", "--batch-size", "16", "--eps", "8/255", "--out", out) == 0
    assert "epoch 2/2" in capsys.readouterr().out
    assert run("train", "--resume", "--out", out) == 0
    assert "already finished" in capsys.readouterr().out
    assert run("evaluate", out, "--attack", "fgsm,pgd", "--steps", "2", "--eps", "2/255", "--device", "cpu") == 0
    assert "PGD-2" in capsys.readouterr().out
    table = tmp_path / "predictions.csv"
    image = str(next(tiny_images.rglob("*.png")))
    assert run("predict", out, image, "--device", "cpu", "--out", str(table)) == 0
    assert len(table.read_text().splitlines()) == 2


def test_data_check_tells_problems_by_its_exit_code(tiny_images, tmp_path, capsys):
    assert run("data", "check", f"folder:{tiny_images}") == 0
    broken = tmp_path / "broken" / "c0"
    broken.mkdir(parents=True)
    (tmp_path / "broken" / "c1").symlink_to(tiny_images / "c1")
    (broken / "bad.png").write_bytes(b"not an image")
    assert run("data", "check", f"folder:{broken.parent}") == 1
    assert "bad.png" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "predict an image", "check", "report", "card"])
def test_outputs_replace_no_other_file(tiny_run, tiny_images, tmp_path, capsys, command):
    files = sorted(tiny_images.rglob("*.png"))
    table, mine, text = tmp_path / "mine.csv", tmp_path / "README.md", "# My project\n"
    table.write_text("".join(["path,label\n", *(f"{file},{file.parent.name}\n" for file in files)]))
    mine.write_text(text)
    image = Path(shutil.copy(files[0], tmp_path / "image.png"))
    before = {path: path.read_bytes() for path in (table, mine, image)}
    line, out, rerun = {
        "predict": (["predict", str(tiny_run), f"csv:{table}", "--device=cpu", "--out"], table, "new.csv"),
        "predict an image": (["predict", str(tiny_run), str(image), "--device=cpu", "--out"], image, "new.csv"),
        "check": (["data", "check", f"csv:{table}", "--export"], table, "new.csv"),
        "report": (["report", str(tiny_run), "--no-images", "--out"], mine, "new.html"),
        "card": (["report", str(tiny_run), "--format=md", "--out"], mine, "new.md"),
    }[command]
    assert run(*line, str(out)) == 2
    assert f"{out}: holds something else, which would be lost; choose another {line[-1]}" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}
    for _ in range(2):  # its own output is replaced
        assert run(*line, str(tmp_path / rerun)) == 0


def test_predict_names_a_file_that_is_no_image(tiny_run, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    assert run("predict", str(tiny_run), str(tmp_path), "--device=cpu", "--out", str(tmp_path / "new.csv")) == 2
    assert f"cannot read {tmp_path / 'bad.png'}: not an image in a known format" in capsys.readouterr().err


# --- through the shell


def test_shell_help_imports_nothing_heavy():
    code = (
        "import sys, dpaat.cli\n"
        "try: dpaat.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "try: dpaat.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'pandas', 'timm', 'matplotlib', 'PIL', 'sklearn'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    result = shell(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "heavy: []"
    result = shell(sys.executable, "-c", "import sys, dpaat; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert result.stdout.split() == ["False", "False"]


def test_shell_exit_codes_and_streams(tmp_path):
    command = (sys.executable, "-m", "dpaat")
    good = shell(*command, "list", "methods")
    assert (good.returncode, good.stderr) == (0, "")
    bad = shell(*command, "train", "--data", "folder:nowhere", "--out", "out", cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "dpaat: error: folder:nowhere: no such folder: nowhere\n"
    assert not (tmp_path / "out").exists()


def test_shell_closed_pipe_is_no_error():
    command = f"{sys.executable} -m dpaat list models | head -1; echo ${{PIPESTATUS[0]}}"
    result = shell("bash", "-c", command)
    assert result.stdout.splitlines()[-1] == "0"
    assert result.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupted_training_ends_with_130_and_can_be_resumed(tiny_images, tmp_path):
    out = tmp_path / "run"
    arguments = [*tiny_arguments(tiny_images, epochs=2000, val_eps="0", method="standard"), f"--out={out}"]
    with subprocess.Popen(
        [sys.executable, "-m", "dpaat", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("dpaat: interrupted; saved in epoch ")
    assert errors.endswith(f"; go on with: dpaat train --out {out} --resume\n")
    assert run("train", "--resume", "--stop-after", "1", "--out", str(out)) == 0


@pytest.mark.slow
def test_two_processes_keep_one_run_folder(tiny_images, tmp_path):
    command = [sys.executable, "-m", "dpaat"]
    arguments = tiny_arguments(tiny_images, devices=2, ema_decay=0.9)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for options in ([*arguments, f"--out={whole}"], [*arguments, "--stop-after=1", f"--out={broken}"]):
        assert shell(*command, *options).returncode == 0
    assert shell(*command, "train", "--resume", f"--out={broken}").returncode == 0
    assert (broken / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    part = "perturbation.parquet/epoch-0001.parquet"
    assert (broken / part).read_bytes() == (whole / part).read_bytes()
    visits = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"][
        "method.perturbation.visits"
    ]
    assert set(visits.tolist()) == {2}, "the state sees the samples of both processes"
