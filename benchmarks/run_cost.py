"""What a training step of `dpaat` costs on average over a run, against one of standard training.

    python benchmarks/run_cost.py ham10000:DIR [--models a,b] [--epochs 4] [--pairs 7] --out FILE.json

Both recipes of the grid are trained in turn, for a few epochs: attacks begin after the same share of the run as in the
grid, so the mean over the steps is that of the whole run. Processor seconds of the steps alone are compared, without
start, decoding and validation, which are the same for both. The memory of the teacher is that of a second network.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L

from dpaat.benchmark.grid import read_grid
from dpaat.config import TrainConfig
from dpaat.models import build_model
from dpaat.provenance import provenance
from dpaat.storage import write_json
from dpaat.training import train
from step_cost import ratio

GRID = Path("benchmarks/grids/ham10000-32px-v2.yaml")
RECIPES = ("dpaat", "standard")


class Clock(L.Callback):
    """Processor seconds of the training steps of every epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:  # noqa: D102
        self.epochs.append(0.0)

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: D102
        self.start = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: D102
        self.epochs[-1] += time.process_time() - self.start


def step_seconds(config: TrainConfig) -> list[float]:
    """Train once, and give the processor seconds of the steps by epoch."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", callbacks=[clock])
    return clock.epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--models", default="test_resnet,test_efficientnet")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cells = read_grid(arguments.grid, data=[arguments.data]).cells
    result: dict[str, Any] = {**provenance("cpu"), "epochs": arguments.epochs, "models": {}}
    for model in arguments.models.split(","):
        configs = {cell.recipe: cell.config for cell in reversed(cells) if cell.model == model}
        found: dict[str, list[list[float]]] = {recipe: [] for recipe in RECIPES}
        network = build_model(model, num_classes=7, image_size=configs["dpaat"].image_size, stem=configs["dpaat"].stem)
        size = sum(each.numel() * each.element_size() for each in network.state_dict().values())
        for _ in range(arguments.pairs):
            for recipe, times in found.items():
                times.append(step_seconds(dataclasses.replace(configs[recipe], epochs=arguments.epochs)))
            ratios = ratio(*([sum(run) for run in found[recipe]] for recipe in RECIPES))
            result["models"][model] = {"ratio": ratios, "teacher_bytes": size, "seconds_by_epoch": found}
            write_json(arguments.out, result)
            print(f"{model}: {ratios['median']:.2f} x standard training [{ratios['min']:.2f}, {ratios['max']:.2f}]")


if __name__ == "__main__":
    main()
