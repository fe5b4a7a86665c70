"""How well `dpaat profile` foretells the time of an epoch.

    python benchmarks/profile_accuracy.py [--repeats 3] [--epochs 1] [--device cpu] [--out FILE.json]

Each configuration is profiled and then trained, in turn. Measured is what the run writes into its `timing.csv`: an
epoch's training and validation, up to where its checkpoints are written; the median over the epochs. Predicted is the
epoch as the profile prints it. What it cannot know is how many validation images still stand when they are attacked,
which changes over a run, most of all in standard training; `told` is what it would have said, had it known. Exit code 1
where a median is further off than 15 %.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from dpaat.benchmark.datasets import public_spec
from dpaat.config import TrainConfig
from dpaat.methods import find_method
from dpaat.provenance import provenance
from dpaat.radii import format_radius
from dpaat.storage import write_json
from dpaat.training import train
from dpaat.training.profile import STANDING, profile

METHODS = ("standard", "pgd", "dpaat-half")
MODELS = ("resnet18", "test_resnet")
TARGET = 0.15


def read_rows(path: Path) -> list[dict[str, float]]:
    """The lines of a table of numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def standing_share(scores: dict[str, float], radii: list[float]) -> float:
    """Mean share of the images that were attacked at a radius: those that stood at the one before.

    Args:
        scores: a row of `metrics.csv`.
        radii: the validation radii, ascending.
    """
    names = ["val/accuracy", *(f"val/robust_accuracy@{format_radius(radius)}" for radius in radii[:-1])]
    return sum(scores[name] for name in names) / len(names)


def if_told(found: dict[str, Any], share: float, config: TrainConfig) -> float:
    """Seconds of the epoch that the profile would have predicted had it known the share of standing images."""
    passes, radii = found["passes"], len(config.val_radii)
    attack = radii * (config.val_steps * passes["input_gradient"] + passes["forward"])
    validation = found["epoch"]["validation"]
    assumed = STANDING[find_method(config.method).adversarial]
    known = validation * (passes["forward"] + share * attack) / (passes["forward"] + assumed * attack)
    return float(found["epoch"]["seconds"] - validation + known)


def trial(config: TrainConfig, folder: Path) -> dict[str, float]:
    """Predict and measure an epoch."""
    found = profile(config)
    run = train(config, folder)
    measured = median(row["seconds"] for row in read_rows(run / "timing.csv"))
    share = median(standing_share(row, config.val_radii) for row in read_rows(run / "metrics.csv"))
    return {
        **found["epoch"],
        "measured": measured,
        "standing": share,
        "off": found["epoch"]["seconds"] / measured - 1,
        "off_if_told": if_told(found, share, config) / measured - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="profiles and trainings of each configuration")
    parser.add_argument("--epochs", type=int, default=1, help="of each training")
    parser.add_argument("--data", default="synthetic:3000")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--precision", default="32-true", help="of the training")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    rows = []
    print(f"{'configuration':32} {'predicted':>9} {'measured':>9} {'off':>7} {'told':>7}  standing")
    for model in given.models:
        for method in given.methods:
            config = TrainConfig(
                data=given.data,
                image_size=given.image_size,
                model=model,
                stem="original",
                method=method,
                epochs=given.epochs,
                batch_size=given.batch_size,
                accelerator=given.device,
                devices=1,
                precision=given.precision,
            )
            with tempfile.TemporaryDirectory() as folder:
                trials = [trial(config, Path(folder) / str(number)) for number in range(given.repeats)]
            medians = {name: median(found[name] for found in trials) for name in trials[0]}
            rows.append({"model": model, "method": method, "median": medians, "trials": trials})
            print(
                f"{model + ', ' + method:32} {medians['seconds']:7.1f} s {medians['measured']:7.1f} s "
                f"{medians['off']:+7.1%} {medians['off_if_told']:+7.1%}  {medians['standing']:.0%}",
                flush=True,
            )
    worst = max(abs(row["median"]["off"]) for row in rows)
    print(f"furthest off: {worst:.1%}")
    if given.out:
        device = "cuda:0" if given.device == "gpu" else "cpu"
        head = provenance(device) | {
            "command": " ".join(["python", *sys.argv]),
            "setting": {
                "data": public_spec(given.data),
                "image_size": given.image_size,
                "batch": given.batch_size,
                "epochs": given.epochs,
            },
        }
        write_json(given.out, head | {"furthest_off": worst, "configurations": rows})
    sys.exit(int(worst > TARGET))


if __name__ == "__main__":
    main()
