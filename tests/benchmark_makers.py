"""A small grid, and ways to run it in the test's own process."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console

from dpaat.benchmark import benchmark, read_grid
from dpaat.cli import main
from training_makers import TINY

GRID = {
    "train": {**{k: v for k, v in TINY.items() if k != "model"}, "epochs": 1, "steps": 1, "val_eps": "0"},
    "recipes": {"standard": {"method": "standard"}, "pgd": {"method": "pgd", "eps": ["8/255"]}},
    "models": ["test_resnet"],
    "folds": ["1/2", "2/2"],
    "evaluate": {"attacks": ["fgsm", "pgd"], "steps": {"pgd": 2}, "eps": ["2/255", "8/255"]},
}
CELLS = [f"{recipe}-test_resnet-folder-f{fold}-s0" for fold in (1, 2) for recipe in ("standard", "pgd-8")]


def write_grid(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**GRID, "data": "folder:DIR", **changes}, sort_keys=False))
    return path


def here(arguments: list[str], folder: Path, **options: object) -> str | None:
    """What `run_command` does, in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main([*arguments])
    return errors.getvalue().splitlines()[-1] if code else None


def run(grid: Path, out: Path, images: Path, workers: int | None = None, **options: object) -> int:
    console = Console(file=io.StringIO(), width=200)
    read = read_grid(grid, data=[f"folder:{images}"], workers=workers)
    return benchmark(read, out=out, console=console, progress=False, **options)


def document(out: Path) -> dict:
    return json.loads((out / "benchmark.json").read_text())


class Commands:
    """Stands in for `run_command`: notes what is asked for and copies what a finished benchmark has.

    Args:
        finished: folder of that benchmark.
        fails: tells by command and cell whether to fail.
    """

    def __init__(self, finished: Path, fails: Callable[[str, str], bool] = lambda kind, cell: False) -> None:
        self.finished, self.fails = finished, fails
        self.asked: list[tuple[str, str]] = []

    def __call__(self, arguments: list[str], folder: Path, **options: object) -> str | None:
        self.asked.append((arguments[0], folder.name))
        if self.fails(arguments[0], folder.name):
            return "Lightning refuses precision 12-true"
        parts = shutil.ignore_patterns("cell.json", "evaluation.json" if arguments[0] == "train" else "")
        shutil.copytree(self.finished / "cells" / folder.name, folder, dirs_exist_ok=True, ignore=parts)
        return None
