"""Whether the epoch with the best validation score is better on test images than the last one.

    python benchmarks/last_epoch.py RUN ... [--out FILE.json]

Every finished run is scored twice, with the epoch it kept and with its last: clean, and under PGD at 2/255 and 4/255.
Runs of a benchmark that differ only in fold and seed are averaged.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpaat.attacks import pgd
from dpaat.evaluation.metrics import classification_metrics
from dpaat.provenance import provenance
from dpaat.radii import format_radius
from dpaat.runs import LAST, Run, open_run
from dpaat.storage import write_json

RADII = (0.0, 2 / 255, 4 / 255)
STEPS, BATCH = 7, 256
METRICS = ("balanced_accuracy", "map", "accuracy")


class LastEpoch(Run):
    """A run as it would be, had it kept its last epoch."""

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.path / LAST


def scores(run: Run) -> np.ndarray:
    """Metrics of the kept epoch and of the last one `(2, radii, metrics)`, percent."""
    data = run.prepare(progress=False)
    rows = data.rows("test")
    labels = torch.as_tensor(data.labels[rows])
    found = []
    for each in (run, LastEpoch(run.path, run.config, run.info)):
        model = each.load_model()

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for part in np.array_split(rows, -(-len(rows) // BATCH)):
                yield torch.from_numpy(data.images[part]).float() / 255, torch.as_tensor(data.labels[part])

        for eps in RADII:
            outputs = []
            for x, y in batches():
                x_adv = pgd(model, x, y, eps=eps, steps=STEPS) if eps else x
                with torch.no_grad():
                    outputs.append(model(x_adv).double().softmax(1))
            metrics = classification_metrics(torch.cat(outputs), labels, data.classes)
            found.append([metrics["balanced_accuracy"], metrics["map"] or np.nan, metrics["accuracy"]])
    return 100 * np.array(found, dtype=float).reshape(2, len(RADII), len(METRICS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for path in given.runs:
        groups[re.sub(r"(-f\d+)?-s\d+$", "", path.resolve().name)].append(scores(open_run(path)))
    print(f"{'balanced accuracy / mAP / accuracy':50} " + "  ".join(f"{format_radius(eps):>18}" for eps in RADII))
    for name, runs in groups.items():
        for kind, table in zip(("kept", "last"), np.mean(runs, axis=0), strict=True):
            cells = (" / ".join(f"{value:.1f}" for value in row) for row in table)
            print(f"{f'{name}, {len(runs)} runs, {kind}':50} " + "  ".join(f"{cell:>18}" for cell in cells))
    if given.out:
        command = " ".join(["python", "benchmarks/last_epoch.py", "RUN ...", "--out", "FILE.json"])
        found = {name: np.stack(runs).tolist() for name, runs in groups.items()}
        axes = ["run", ["kept", "last"], [format_radius(eps) for eps in RADII], list(METRICS)]
        write_json(given.out, provenance("cpu") | {"command": command, "steps": STEPS, "axes": axes, "scores": found})


if __name__ == "__main__":
    main()
