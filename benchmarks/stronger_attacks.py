"""Whether stronger attacks find what a benchmark's own attacks missed: FAB-T, Square, and Auto-PGD with restarts.

    python benchmarks/stronger_attacks.py RUN ... [--images 200] [--out FILE.json]

Test images of every finished run are drawn by chance and attacked at each radius as in the benchmark, by Auto-PGD on
the cross-entropy (20 steps) and towards every class (10 steps). Those that withstand are attacked again: Auto-PGD on
the margin from 10 random starts, FAB-T with 100 steps, Square with 5,000 queries. Given are the images that withstand
each in turn, and the points that the second three find beyond the first two.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpaat.attacks import apgd, apgd_targeted, fab_targeted, square
from dpaat.attacks.losses import fooled, margin
from dpaat.benchmark.datasets import public_spec
from dpaat.provenance import provenance
from dpaat.radii import format_radius
from dpaat.runs import Run, open_run
from dpaat.storage import read_json, write_json

RADII = (1 / 255, 2 / 255, 4 / 255)
USUAL = {"apgd-ce-20": partial(apgd, steps=20), "apgd-t-10": partial(apgd_targeted, steps=10)}
STRONGER: dict[str, list[partial[torch.Tensor]]] = {
    "apgd-margin-50 x 10": [partial(apgd, steps=50, loss=margin, stop=True)] * 10,
    "fab-t-100": [partial(fab_targeted, steps=100)],
    "square-5000": [partial(square, steps=5000)],
}
BATCH = 100


def withstanding(run: Run, count: int) -> dict[str, Any]:
    """How many of the drawn images withstand each attack and those before it, by radius."""
    torch.manual_seed(0)
    data, model = run.prepare(progress=False), run.load_model()
    rows = np.sort(np.random.default_rng(1).permutation(data.rows("test"))[:count])
    x, y = torch.from_numpy(data.images[rows]).float() / 255, torch.as_tensor(data.labels[rows])
    with torch.no_grad():
        right = (~fooled(model(x), y)).nonzero().flatten()
    found: dict[str, Any] = {"images": len(rows), "clean": len(right)}
    attacks = {name: [attack] for name, attack in USUAL.items()} | STRONGER
    for eps in RADII:
        left, counts = right, {}
        for name, turns in attacks.items():
            for attack in turns:
                parts = left.split(BATCH)
                with torch.no_grad():
                    fell = [fooled(model(attack(model, x[part], y[part], eps=eps)), y[part]) for part in parts]
                left = left[~torch.cat(fell)] if len(left) else left
            counts[name] = len(left)
        beyond = 100 * (counts["apgd-t-10"] - len(left)) / len(rows)
        found[format_radius(eps)] = {"withstand": counts, "points_beyond": beyond}
        print(f"{run.path.name} {format_radius(eps)}: {counts}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, help="JSON file to write; runs that are in it already are kept")
    arguments = parser.parse_args()
    known = read_json(arguments.out)["runs"] if arguments.out and arguments.out.is_file() else {}
    for path in arguments.runs:
        if path.name not in known:
            run = open_run(path)
            setting = {"data": public_spec(run.config.data), "fold": run.config.fold, "seed": run.config.seed}
            known[path.name] = setting | withstanding(run, arguments.images)
        if arguments.out:
            write_json(arguments.out, {**provenance("cpu"), "runs": known})


if __name__ == "__main__":
    main()
