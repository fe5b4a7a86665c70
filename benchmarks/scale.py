"""How the cost of an evaluation grows: with images, pixels, classes, radii and attacks.

    python benchmarks/scale.py [--repeats 3] --out benchmarks/results/scale.json

An untrained `test_resnet` on random images, all of which are made to count as right, so that every attack goes on to
its end: the most that an evaluation can cost. Times are seconds of the processor on one thread, the least of the
repeats; `power` is the slope of log seconds over log size, 1 where the cost grows in proportion.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.cascade import Cascade, run_cascade
from dpaat.evaluation.specs import attack_spec
from dpaat.models import build_model
from dpaat.provenance import provenance
from dpaat.storage import write_json

USUAL = {"images": 64, "pixels": 32, "classes": 7, "radii": 1}
SIZES = {"images": (64, 128, 256), "pixels": (32, 64, 128), "classes": (3, 5, 7, 10, 20), "radii": (1, 2, 4)}
STEPS = {"apgd-t": 10, "fab-t": 10, "square": 100, "pgd": 20}
SMALLEST = 1e-6  #: Radius so small that nothing falls


def seconds(attack: str, images: int, pixels: int, classes: int, radii: int) -> float:
    """Time of one attack on everything."""
    torch.manual_seed(0)
    model = build_model("test_resnet", num_classes=classes, image_size=pixels, stem="original").eval()
    x = torch.rand(images, 3, pixels, pixels)
    with torch.no_grad():
        labels = model(x).argmax(1).numpy()
    with Attacker(model, x.numpy(), labels, num_classes=classes, progress=False) as attacker:
        fast = attacker.faster()
        start = time.process_time()
        eps = [SMALLEST * (k + 1) for k in range(radii)]
        run_cascade(fast, Cascade(labels, labels), [attack_spec(attack, steps=STEPS[attack])], eps)
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for attack in STEPS:
        for kind, sizes in SIZES.items():
            runs = [[seconds(attack, **USUAL | {kind: size}) for size in sizes] for _ in range(arguments.repeats)]
            least = np.min(runs, axis=0)
            power = float(np.polyfit(np.log(sizes), np.log(least), 1)[0])
            found[f"{attack}, {kind}"] = {"sizes": sizes, "seconds": least.round(3).tolist(), "power": round(power, 2)}
            print(f"{attack}, {kind}: {found[f'{attack}, {kind}']}", flush=True)
            write_json(arguments.out, {**provenance("cpu"), "usual": USUAL, "steps": STEPS, "found": found})


if __name__ == "__main__":
    main()
