"""What is left on a terminal: progress bars leave nothing behind; tables fit 80 columns."""

import json
import os
import pty
import re
import select
import shutil
import sys
import time
from pathlib import Path

import pytest

from dpaat.cli import main
from test_compare import make_run
from training_makers import tiny_arguments

pyte = pytest.importorskip("pyte", reason="the terminal emulator is not installed")

PIECES = re.compile(r"[█▏▎▍▌▋▊▉]|\d+%\||it/s|\?it|\x1b|\.\.\.$")
SCRIPT = """
import json, sys
from dpaat.cli import main
for argv in json.loads(sys.argv[1]):
    print("exit", main(argv), flush=True)
"""


def shown(commands: list[list[str]], *, interrupt_at: str = "", timeout: float = 240) -> list[str]:
    """The lines of a terminal of 100 columns after commands ran in it; Ctrl-C is typed once when a text appears."""
    screen = pyte.HistoryScreen(100, 400)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "100", "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT, json.dumps(commands)])
    read, end = b"", time.monotonic() + timeout
    while time.monotonic() < end and select.select([terminal], [], [], timeout)[0]:
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        read += chunk
        stream.feed(chunk)
        if interrupt_at and interrupt_at.encode() in read:
            os.write(terminal, b"\x03")
            interrupt_at = ""
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    assert b"\r" in read.replace(b"\r\n", b""), "there was a progress bar to leave something behind"
    assert b"loading torch ..." in read
    return [line.rstrip() for line in screen.display if line.strip()]


def test_bars_leave_nothing_behind(tiny_images: Path, tmp_path: Path) -> None:
    """Training, training that is interrupted, and an evaluation."""
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    lines = shown(
        [
            [*tiny_arguments(tiny_images, epochs=3), "--out", whole],
            [*tiny_arguments(tiny_images, epochs=2000, method="standard", val_eps="0"), "--out", broken],
            ["evaluate", whole, "--attack", "pgd", "--steps", "2", "--eps", "2/255", "--device", "cpu"],
        ],
        interrupt_at="epoch    1/2000",
    )
    assert [line for line in lines if line.startswith("exit")] == ["exit 0", "exit 130", "exit 0"]
    assert not [line for line in lines if PIECES.search(line)]
    epochs = [line for line in lines if line.startswith("epoch")]
    assert [line[: len("epoch 1/3  loss")] for line in epochs[:3]] == [f"epoch {k}/3  loss" for k in (1, 2, 3)]
    assert any("interrupted; saved in epoch " in line for line in lines), lines[-40:]


@pytest.fixture
def printed(capsys, monkeypatch):
    """What a command prints on 80 columns, and the heads of its tables: the lines above a rule."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*argv: str) -> tuple[str, list[list[str]]]:
        assert main(list(argv)) == 0
        lines = capsys.readouterr().out.splitlines()
        wide = [line for line in lines if len(line) > 80 and not line.startswith(("written to ", "8 cells"))]
        assert not wide
        heads = [lines[k - 1] for k, line in enumerate(lines) if line.startswith("───")]
        return "\n".join(lines), [re.split(r"\s{2,}", head.strip()) for head in heads]

    return run


def test_compare_fits_80_columns(tmp_path, printed) -> None:
    runs = [make_run(tmp_path, name, method=name, skill=s) for name, s in (("standard", 0.5), ("dpaat", 2.0))]
    text, heads = printed("compare", *map(str, runs))
    assert heads == [["standard", "dpaat", "difference", "p"]]
    assert "dpaat against standard: made, test, 90 images, PGD-20: balanced accuracy" in " ".join(text.split())
    assert [line.split()[0] for line in text.splitlines() if re.match(r"clean|8/255", line)] == ["clean", "8/255"]
    _, heads = printed("compare", *map(str, runs), "--all")
    assert len(heads) == 3


def test_other_tables_fit_80_columns(tiny_run, tmp_path, printed) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    options = ["--attack", "fgsm,pgd", "--steps", "1", "--eps", "2/255", "--device", "cpu"]
    _, heads = printed("evaluate", str(run), *options)
    assert heads[0] == ["accuracy", "balanced", "mAP", "AUROC"]
    assert heads[1] == ["class", "images", "clean", "FGSM 2/255", "PGD-1 2/255"]
    _, heads = printed("benchmark", "smoke", "--dry-run", "--out", str(tmp_path / "smoke"))
    assert heads == [["cell", "state", "10^6 passes", "minutes"]]
    _, heads = printed("list", "methods")
    assert heads == [["method", "what it does", "cost per step", "eps", "clean weight"]]


def test_quiet_prints_nothing_and_json_nothing_else(tmp_path, capsys) -> None:
    runs = [str(make_run(tmp_path, name, method=name, skill=s)) for name, s in (("pgd", 0.5), ("dpaat", 2.0))]
    assert main(["compare", *runs, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["compare", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reference"] == "pgd"
    assert main(["compare", runs[0], "--quiet"]) == 2
    assert "at least two recipes" in capsys.readouterr().err


def test_names_of_files_are_no_emoji_and_colours_are_for_terminals(tmp_path, capsys) -> None:
    folder = tmp_path / ":skull:"
    folder.mkdir()
    runs = [str(make_run(folder, name, method=name, skill=s)) for name, s in (("pgd", 0.5), (":smile:", 2.0))]
    assert main(["compare", *runs, "--out", str(folder / "[red]c.json")]) == 0
    out = capsys.readouterr().out
    assert ":skull:/[red]c.json" in out.replace("\n", "")
    assert ":smile: against pgd" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("argv", "nearest"),
    [
        (["trian"], "train"),
        (["evalaute", "runs/x"], "evaluate"),
        (["data", "chek"], "data check"),
        (["train", "--imge-size", "3"], "--image-size"),
        (["compare", "a", "--al"], "--all"),
    ],
)
def test_a_typo_gets_the_nearest_name(argv, nearest, capsys) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert f"nearest: {nearest}" in error
    assert error.count("\n") == 1


def test_what_one_sees_first_fits_80_columns(capsys) -> None:
    assert (main([]), main(["--help"])) == (2, 0)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "explain", "benchmark", "tune", "predict", "report", "export"]
)
def test_help_tells_every_default_in_groups(command, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out.split("examples:")[0]
    options = [" ".join(one.split()) for one in re.split(r"^  (?=--)", text, flags=re.MULTILINE)]
    untold = [one for one in options if one.startswith("--") and not re.search(r"default|required", one)]
    assert max(map(len, text.splitlines())) <= 100
    assert not [one for one in options if re.match(r"--.*\+ ", one.split(": ")[0])]
    own = ("--help", "--plugin", "--trust", "--quiet", "--json", "--config", "--print-config")
    assert not [one for one in untold if not one.startswith(own)]
    if command == "train":
        places = [text.index(f"\n{t}:\n") for t in ("data", "model", "method", "attack", "training", "place")]
        assert places == sorted(places)
