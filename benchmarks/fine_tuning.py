"""Which optimizer and learning rate a fine-tune needs: HAM10000, ImageNet weights of tf_efficientnet_lite0.

    python benchmarks/fine_tuning.py ham10000:DIR WEIGHTS --out FOLDER [--only NAME ...] [--results FILE.json]

Settings are compared on the validation split alone. Those named `final-...` are trained for five epochs with the
options of the command line that a user would type, and they alone are scored on the test split. Runs that stand in
FOLDER are taken up where they were left; rows of FILE.json of other settings stay as they are.

A replaced head starts at zero. Settings called `...-before` are those of the version before it did: run them with
PYTHONPATH set to the `src` of a checkout of that version; here they would tell something else, and are refused.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from dpaat.benchmark.datasets import public_spec
from dpaat.config import TrainConfig
from dpaat.evaluation.run import evaluate_run
from dpaat.provenance import provenance
from dpaat.runs import INFO
from dpaat.storage import read_json, write_json
from dpaat.training import train

BEFORE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1}
NEW: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3}
STANDARD: dict[str, Any] = {"method": "standard", "val_eps": "0"}
SCREEN: dict[str, Any] = STANDARD | {"epochs": 2}
FINAL: dict[str, Any] = {"epochs": 5}
NO_WEIGHTS: dict[str, Any] = {"weights": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "adamw-1e-3": SCREEN | {"optimizer": "adamw", "lr": 1e-3},
    "sgd-0.03": SCREEN | {"optimizer": "sgd", "lr": 0.03},
    "adamw-3e-4": SCREEN | {"optimizer": "adamw", "lr": 3e-4},
    "sgd-0.01": SCREEN | {"optimizer": "sgd", "lr": 0.01},
    "adamw-3e-3": SCREEN | {"optimizer": "adamw", "lr": 3e-3},
    "sgd-0.003": SCREEN | {"optimizer": "sgd", "lr": 0.003},
    "sgd-0.1": SCREEN | {"optimizer": "sgd", "lr": 0.1},
    "adamw-1e-3-head-1e-2": SCREEN | {"optimizer": "adamw", "lr": 1e-3, "lr_head": 1e-2},
    "sgd-0.03-head-0.3": SCREEN | {"optimizer": "sgd", "lr": 0.03, "lr_head": 0.3},
    "adamw-1e-3-frozen-1": SCREEN | {"optimizer": "adamw", "lr": 1e-3, "freeze_until": 1},
    "96px-adamw-1e-3": SCREEN | {"optimizer": "adamw", "lr": 1e-3, "image_size": 96},
    "96px-sgd-0.01": SCREEN | {"optimizer": "sgd", "lr": 0.01, "image_size": 96},
    "final-standard-before": FINAL | STANDARD | BEFORE,
    "final-standard-no-weights": FINAL | STANDARD | BEFORE | NO_WEIGHTS,
    "final-standard-new": FINAL | STANDARD | NEW,
    "final-dpaat-before": FINAL | BEFORE,
    "final-dpaat-no-weights": FINAL | BEFORE | NO_WEIGHTS,
    "final-dpaat-new": FINAL | NEW,
}
HEAD_AT_ZERO = any(field.name == "lr_head" for field in dataclasses.fields(TrainConfig))


def measure(name: str, data: str, weights: str, out: Path, console: Console) -> dict[str, Any]:
    """Train a setting, or take its run as it stands, and say how it did."""
    if name.endswith("-before") == HEAD_AT_ZERO and "no-weights" not in name:
        raise SystemExit(f"{name}: is measured with the version {'before' if HEAD_AT_ZERO else 'after'} this one")
    fixed = {"fold": "1/5", "model": "tf_efficientnet_lite0", "accelerator": "cpu", "weights": weights}
    setting = fixed | {"image_size": 64} | SETTINGS[name]
    run = train(TrainConfig(data=data, **setting), out / name, resume=True, console=console)
    info = read_json(run / INFO)
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        epochs = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    kept = max(epochs, key=lambda row: row["val/score"])
    shown = setting | {"weights": setting["weights"] and Path(setting["weights"]).name}
    row = provenance("cpu") | {
        "command": f"python benchmarks/fine_tuning.py ham10000:DIR WEIGHTS --out FOLDER --only {name}",
        "data": public_spec(data),
        "fingerprint": info["fingerprint"],
        "seed": info["seed"],
        "setting": shown,
        "new_head": "zero" if HEAD_AT_ZERO and setting["weights"] else "random",
        "first_epoch_loss": epochs[0]["train/loss"],
        "kept_epoch": int(kept["epoch"]) + 1,
        "val": {key.removeprefix("val/"): value for key, value in kept.items() if key.startswith("val/")},
        "val_balanced_accuracy_by_epoch": [epoch["val/balanced_accuracy"] for epoch in epochs],
    }
    if name.startswith("final-"):
        document = evaluate_run(run, eps=(0.0,), progress=False)
        row["test"] = {
            key: document["results"][0]["metrics"][key] for key in ("balanced_accuracy", "accuracy", "auroc", "map")
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=[], metavar="NAME", help="of the settings")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    given = parser.parse_args()
    console = Console()
    rows = read_json(given.results)["settings"] if given.results and given.results.exists() else {}
    for name in given.only or SETTINGS:
        rows[name] = measure(name, given.data, given.weights, given.out, console)
        if given.results:
            write_json(given.results, {"settings": {key: rows[key] for key in SETTINGS if key in rows}})
    print(f"{'setting':28} {'loss 1':>7} {'val bal.':>8} {'AUROC':>6} {'mAP':>6} {'test bal.':>9}")
    for name, row in rows.items():
        test = f"{row['test']['balanced_accuracy']:9.1%}" if "test" in row else ""
        scores = f"{row['val']['balanced_accuracy']:8.1%} {row['val']['auroc']:6.3f} {row['val']['map']:6.3f}"
        print(f"{name:28} {row['first_epoch_loss']:7.3f} {scores} {test}")


if __name__ == "__main__":
    main()
