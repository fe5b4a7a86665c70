"""Whether the sizes of `dpaat` are distances to the decision boundary: they against FAB-T's nearest adversarial image.

    python benchmarks/nearest_boundary.py RUN ... [--images 400] [--seed 0] [--steps 30] [--out FILE.json]

Training images of every finished run are drawn by chance, and FAB-T looks for the nearest adversarial image of each,
without any limit, with the weights of the last epoch, which the sizes are of. On a run of label_noise.py, `--seed` is
to be another than its seed: the same one draws the images whose labels it changed. Where the network is wrong on the
clean image, that distance is 0. Then Spearman's correlation with it, over all of them and over those classified
correctly, of

- `eps` and `distance`, the last epoch of perturbation.parquet, `distance` the estimate that the state keeps;
- `visits`, the mean of what the visits of an image solved for, each by itself; `last`, the last of them, undamped;
- `-loss`, the tracked loss: what there is without any attack.

Also the share of correctly classified images with an estimate, and with a size other than that at the start. Runs that
stand in FILE.json already are kept there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from dpaat.attacks import fab_targeted
from dpaat.attacks.norms import make_ball
from dpaat.benchmark.datasets import public_spec
from dpaat.provenance import provenance
from dpaat.runs import Run, open_run
from dpaat.storage import read_json, write_json
from last_epoch import LastEpoch

BATCH, RESAMPLES = 100, 1000


def solved_at_visits(run: Run) -> tuple[pd.DataFrame, np.ndarray]:
    """The last epoch of perturbation.parquet by id, and what the visits solved for `(epochs, N)`, NaN between them."""
    log = pd.read_parquet(run.path / "perturbation.parquet")
    epochs = {
        name: log.pivot_table(index="epoch", columns="id", values=name, dropna=False) for name in ("distance", "loss")
    }
    distance, loss = epochs["distance"].to_numpy(dtype=float), epochs["loss"].to_numpy()
    before = np.vstack([np.full(distance.shape[1], np.nan), distance[:-1]])
    visited = loss != np.vstack([np.zeros(loss.shape[1]), loss[:-1]])
    damping = float(run.config.options["damping"])
    solved = np.where(np.isnan(before), distance, (distance - damping * before) / (1 - damping))
    last = log[log["epoch"] == log["epoch"].max()].set_index("id").loc[epochs["loss"].columns]
    return last, np.where(visited, solved, np.nan)


def boundary(run: Run, rows: np.ndarray, images: np.ndarray, labels: np.ndarray, steps: int) -> np.ndarray:
    """Distance of each image to FAB-T's nearest adversarial one; 0 where it is wrong anyway, infinite if none is."""
    model, found = run.load_model(), []
    for part in np.array_split(rows, -(-len(rows) // BATCH)):
        x, y = torch.from_numpy(images[part]).float() / 255, torch.from_numpy(labels[part])
        x_adv = fab_targeted(model, x, y, steps=steps, norm=run.config.norm)
        with torch.no_grad():
            standing = [model(each).argmax(1) == y for each in (x, x_adv)]
        distance = make_ball(run.config.norm, x, torch.zeros(len(x))).distance(x_adv)
        found.append(torch.where(standing[0], torch.where(standing[1], torch.inf, distance), 0.0))
    return torch.cat(found).double().numpy()


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of two arrays `(..., N)` over the last axis."""
    x, y = (rankdata(each, axis=-1) - (each.shape[-1] + 1) / 2 for each in (a, b))
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))  # type: ignore[no-any-return]


def correlation(estimate: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Spearman's correlation with its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).integers(len(truth), size=(RESAMPLES, len(truth)))
    interval = np.nanpercentile(spearman(estimate[draws], truth[draws]), [2.5, 97.5])
    return {"spearman": round(float(spearman(estimate, truth)), 3), "interval": interval.round(3).tolist()}


def measure(run: Run, count: int, steps: int, seed: int) -> dict[str, Any]:
    """What the script says of one run."""
    data = run.prepare(progress=False)
    last, solved = solved_at_visits(run)
    place = {name: row for row, name in enumerate(data.ids.tolist())}
    rows = np.array([place[name] for name in last.index])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    truth = boundary(run, rows[chosen], data.images, data.labels, steps)
    right, known = truth > 0, last["distance"].notna().to_numpy()
    visits = np.isfinite(solved).sum(0)
    filled = pd.DataFrame(solved).ffill().iloc[-1].to_numpy()
    estimates = {
        "distance": last["distance"].to_numpy(dtype=float),
        "eps": last["eps"].to_numpy(),
        "visits": np.nansum(solved, 0) / visits.clip(min=1),
        "last": filled,
        "-loss": -last["loss"].to_numpy(),
    }
    seen = known[chosen]
    start = float(run.config.options["eps_min"]) * run.config.radius
    moved = ~np.isclose(last["eps"].to_numpy(), max(start, float(run.config.options["eps_init"]) * run.config.radius))
    return {
        "setting": {name: getattr(run.config, name) for name in SHOWN} | {"data": public_spec(run.config.data)},
        "fingerprint": data.fingerprint,
        "train_images": len(rows),
        "images": len(chosen),
        "draw_seed": seed,
        "fab_t_steps": steps,
        "correct": int(right.sum()),
        "mean_distance": {
            "fab-t": float(truth[right & np.isfinite(truth)].mean()),
            "state": float(np.nanmean(estimates["distance"][chosen][right])),
        },
        "visits": {"mean": float(visits.mean()), "least": int(visits.min()), "most": int(visits.max())},
        "of_correct": {"with_distance": float(seen[right].mean()), "eps_moved": float(moved[chosen][right].mean())},
        "all": {name: correlation(values[chosen][seen], truth[seen]) for name, values in estimates.items()},
        "correctly_classified": {
            name: correlation(values[chosen][seen & right], truth[seen & right]) for name, values in estimates.items()
        },
    }


SHOWN = (
    "method",
    "model",
    "stem",
    "image_size",
    "epochs",
    "eps",
    "norm",
    "clean_weight",
    "adv_start",
    "self_teacher",
    "steps",
    "optimizer",
    "lr",
    "ema_decay",
    "imbalance",
    "seed",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--steps", type=int, default=30, help="of FAB-T, for each target")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args(arguments)
    found = read_json(given.out)["runs"] if given.out and given.out.exists() else {}
    for path in given.runs:
        run = open_run(path)
        row = measure(LastEpoch(run.path, run.config, run.info), given.images, given.steps, given.seed)
        found["/".join(path.resolve().parts[-2:])] = row
        shares = (f"{name} {share:.1%}" for name, share in row["of_correct"].items())
        print(f"{path.name}: {row['correct']} of {row['images']} correct; of those {', '.join(shares)}")
        for name in row["all"]:
            texts = [
                f"{row[group][name]['spearman']:.3f} {row[group][name]['interval']}"
                for group in ("all", "correctly_classified")
            ]
            print(f"  {name:9} all {texts[0]:24} correct {texts[1]}")
        if given.out:
            command = "python benchmarks/nearest_boundary.py RUN ... --out FILE.json"
            write_json(given.out, provenance("cpu") | {"command": command, "runs": found})


if __name__ == "__main__":
    main()
