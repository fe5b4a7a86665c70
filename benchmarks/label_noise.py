"""Whether wrong labels are found by what a run of `dpaat` collects: distances of 0 against losses.

    python benchmarks/label_noise.py DATA --out FOLDER [--noise 0.05] [--images N] [--set NAME=VALUE ...]
        [--results FILE.json]

The images of DATA are written to FOLDER as PNG with a CSV file, with the labels of a share of the training images
exchanged for another class, each other class with the same chance. `dpaat` is trained on that. Then the area under the
ROC curve with which a ranking of the training images finds the wrong labels, from hard to easy:

- `distance`: by the nearest-boundary estimate, small first; `distance, then loss`: that, equal ones by loss;
- `eps`: by the size itself; `zero visits`: by the share of the visits that solved for a distance of 0;
- `loss`: by the tracked loss, the last of the visits; `loss - tau`: that, less the mean of its class;
- `mean loss`: by its mean over the visits;
- `last-epoch loss`: by the cross-entropy of the network of the last epoch on the clean image, unaugmented; also less
  the mean of its class.

`--noise 0 --images 200` only trains, on a set of that many images: `nearest_boundary.py` tells the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from rich.console import Console
from scipy.stats import rankdata
from torch.nn import functional as F

from dpaat.benchmark.datasets import public_spec
from dpaat.config import TrainConfig
from dpaat.data import PreparedData, prepare
from dpaat.provenance import provenance
from dpaat.runs import open_run
from dpaat.storage import read_json, write_json
from dpaat.training import train
from last_epoch import LastEpoch
from nearest_boundary import solved_at_visits

RESAMPLES = 500
NOTHING = 1e-4  # what float16 may leave of a visit that solved for 0
FIXED: dict[str, Any] = {
    "method": "dpaat",
    "model": "test_resnet",
    "stem": "original",
    "image_size": 32,
    "val_eps": "0",
}
FIXED |= {"select": "last", "accelerator": "cpu"}


def plant(data: PreparedData, out: Path, noise: float, images: int | None, seed: int) -> pd.DataFrame:
    """Write the images and their table with wrong labels; returns the table, with a column `wrong`."""
    generator = np.random.default_rng(seed)
    rows = np.arange(len(data.labels))
    if images:
        rows = np.sort(generator.permutation(rows)[:images])
    labels, split = data.labels[rows].copy(), data.split[rows]
    train_rows = np.flatnonzero(split == "train")
    wrong = np.zeros(len(rows), dtype=bool)
    wrong[generator.permutation(train_rows)[: round(noise * len(train_rows))]] = True
    classes = len(data.classes)
    labels[wrong] = (labels[wrong] + generator.integers(1, classes, wrong.sum())) % classes
    (out / "images").mkdir(parents=True, exist_ok=True)
    paths = [f"images/{row:05d}.png" for row in rows]
    for path, row in zip(paths, rows, strict=True):
        pixels = data.images[row].transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels.squeeze())).save(out / path)
    frame = pd.DataFrame({"path": paths, "label": np.array(data.classes)[labels], "split": split, "wrong": wrong})
    # A set of few images is split by the package, so that every split has what classes there are.
    frame.drop(columns=["wrong", *(["split"] if images else [])]).to_csv(out / "images.csv", index=False)
    return frame


def area(score: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of scores `(..., N)` for finding the wrong, bool of the same shape; ties count half."""
    ranks, count = rankdata(score, axis=-1), wrong.sum(-1)
    return ((ranks * wrong).sum(-1) / count - (count + 1) / 2) / (wrong.shape[-1] - count)  # type: ignore[no-any-return]


def measure(path: Path, frame: pd.DataFrame) -> dict[str, Any]:
    """Areas under the ROC curve of the rankings, with 95 % bootstrap intervals of their differences from `loss`."""
    run = open_run(path)
    run = LastEpoch(run.path, run.config, run.info)
    data = run.prepare(progress=False)
    last, solved = solved_at_visits(run)
    wrong = frame.set_index("path")["wrong"].loc[last.index].to_numpy()
    place = {name: row for row, name in enumerate(data.ids.tolist())}
    rows = np.array([place[name] for name in last.index])
    model = run.load_model()
    with torch.no_grad():
        parts = np.array_split(rows, len(rows) // 256 + 1)
        logits = torch.cat([model(torch.from_numpy(data.images[part]).float() / 255) for part in parts])
    at_end = F.cross_entropy(logits, torch.from_numpy(data.labels[rows]), reduction="none").numpy()
    loss, distance = last["loss"].to_numpy(), last["distance"].fillna(0).to_numpy()
    log = pd.read_parquet(path / "perturbation.parquet").pivot_table(index="epoch", columns="id", values="loss")
    losses = np.where(np.isfinite(solved), log[last.index].to_numpy(), np.nan)
    visited = np.isfinite(solved).any(0)
    of_class = last["loss"].groupby(last["class"]).transform("mean").to_numpy()
    of_class_at_end = pd.Series(at_end, last.index).groupby(last["class"]).transform("mean").to_numpy()
    scores = {
        "distance": -distance,
        "distance, then loss": np.lexsort((loss, -distance)).argsort(),
        "eps": -last["eps"].to_numpy(),
        "zero visits": np.nansum(solved <= NOTHING, 0) / np.isfinite(solved).sum(0).clip(min=1),
        "loss": loss,
        "loss - tau": loss - of_class,
        "mean loss": np.nanmean(losses[:, visited], 0) if visited.all() else loss,
        "last-epoch loss": at_end,
        "last-epoch loss - its mean of the class": at_end - of_class_at_end,
    }
    draws = np.random.default_rng(0).integers(len(wrong), size=(RESAMPLES, len(wrong)))
    spread = {name: area(score[draws], wrong[draws]) for name, score in scores.items()}
    worst = {name: np.argsort(-score, kind="stable")[: wrong.sum()] for name, score in scores.items()}
    return {
        name: {
            "auroc": round(float(area(score, wrong)), 4),
            "interval": np.percentile(spread[name], [2.5, 97.5]).round(4).tolist(),
            "minus_loss": np.percentile(spread[name] - spread["loss"], [2.5, 97.5]).round(4).tolist(),
            "wrong_among_first": round(float(wrong[worst[name]].mean()), 4),
        }
        for name, score in scores.items()
    } | {
        "images": {
            "train": len(wrong),
            "wrong": int(wrong.sum()),
            "distance_0": int((distance == 0).sum()),
            "wrong_of_distance_0": int(wrong[distance == 0].sum()),
            "correct_by_given_label": float((logits.argmax(1).numpy() == data.labels[rows]).mean()),
        }
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the images and the run")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--images", type=int, help="take so many of all images")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the run")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="fields of the training")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    given = parser.parse_args(arguments)
    fields = FIXED | {name: yaml.safe_load(value) for name, _, value in (each.partition("=") for each in given.set)}
    data = prepare(given.data, image_size=fields["image_size"], seed=0)
    frame = plant(data, given.out, given.noise, given.images, given.seed)
    config = TrainConfig(data=f"csv:{given.out / 'images.csv'}", seed=given.seed, **fields)
    path = train(config, given.out / "run", resume=True, console=Console())
    if not given.noise:
        return
    row = measure(path, frame)
    print(pd.DataFrame({name: value for name, value in row.items() if name != "images"}).T.to_string(), row["images"])
    if given.results:
        found = read_json(given.results)["runs"] if given.results.exists() else {}
        setting = fields | {
            "data": public_spec(given.data),
            "seed": given.seed,
            "noise": given.noise,
            "epochs": config.epochs,
        }
        found[given.out.resolve().name] = {"setting": setting, "fingerprint": data.fingerprint} | row
        command = "python benchmarks/label_noise.py DATA --out FOLDER --results FILE.json"
        write_json(given.results, provenance("cpu") | {"command": command, "runs": found})


if __name__ == "__main__":
    main()
