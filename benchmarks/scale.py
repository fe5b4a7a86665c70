"""How costs grow: of an evaluation with images, pixels, classes, radii and attacks, of a grid with processes.

    python benchmarks/scale.py [--repeats 3] --out benchmarks/results/scale.json

An untrained `test_resnet` on random images, all of which are made to count as right, so that every attack goes on to
its end: the most that an evaluation can cost. Times are seconds of the processor on one thread, the least of the
repeats; `power` is the slope of log seconds over log size, 1 where the cost grows in proportion.

Then a grid of four tiny cells, computed by one to four processes on one folder, and by two machines: network namespaces
with a host name each (Linux, root). Its seconds are those of all processes together; `same` says whether every cell was
trained once and has the weights and scores that one process gives it. What FILE holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
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

GRID = """
train: {image_size: 32, stem: original, epochs: 1, steps: 1, val_eps: '0', select: last, accelerator: cpu}
recipes: {standard: {method: standard}, pgd: {method: pgd, eps: 1/255}}
models: [test_resnet]
data: synthetic:240
folds: [1/2, 2/2]
evaluate: {attacks: [pgd], steps: {pgd: 2}, eps: [1/255]}
workers: 1
threads: 1
"""
MACHINE = ("unshare", "--net", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"')
PLACES: dict[str, list[tuple[str, ...]]] = {f"{count} processes": [()] * count for count in (1, 2, 3, 4)}
PLACES["2 machines"] = [(*MACHINE, f"machine-{number}") for number in range(2)]
PLACES["2 machines, 2 processes each"] = PLACES["2 machines"] * 2


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


def grid(prefixes: list[tuple[str, ...]]) -> tuple[float, dict[str, Any]]:
    """Time of a grid that processes share, each called behind its prefix, and what came out, by cell."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "grid.yaml"), Path(folder, "out")
        file.write_text(GRID)
        command = [sys.executable, "-m", "dpaat", "benchmark", str(file), "--out", str(out), "--no-summary"]
        before, environment = os.times(), os.environ | {"DPAAT_CACHE": f"{folder}/cache"}
        processes = [subprocess.Popen([*prefix, *command], env=environment) for prefix in prefixes]
        if sum(process.wait() for process in processes):
            raise RuntimeError("a process failed")
        after, found = os.times(), {}
        for cell in sorted(out.glob("cells/*-s0")):
            weights = torch.load(cell / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            results = json.loads((cell / "evaluation.json").read_text())["results"]
            for result in results:
                del result["checkpoint"]  # of the file, which holds times
            trainings = (cell / "benchmark.log").read_text().count("finished in")
            found[cell.name] = trainings, {name: part.tolist() for name, part in weights.items()}, results
        taken = after.children_user + after.children_system - before.children_user - before.children_system
        return taken, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"found": {}}
    found: dict[str, Any] = content["found"]

    def keep(key: str, value: dict[str, Any]) -> None:
        found[key] = value
        print(f"{key}: {value}", flush=True)
        write_json(arguments.out, {**provenance("cpu"), "usual": USUAL, "steps": STEPS, "found": found})

    for attack in STEPS:
        for kind, sizes in SIZES.items():
            if (key := f"{attack}, {kind}") not in found:
                runs = [[seconds(attack, **USUAL | {kind: size}) for size in sizes] for _ in range(arguments.repeats)]
                least = np.min(runs, axis=0)
                power = float(np.polyfit(np.log(sizes), np.log(least), 1)[0])
                keep(key, {"sizes": sizes, "seconds": least.round(3).tolist(), "power": round(power, 2)})
    if not PLACES.keys() <= found.keys():
        alone = None
        for place, prefixes in PLACES.items():
            taken, cells = grid(prefixes)
            alone = alone or cells
            same = repr(cells) == repr(alone) and len(cells) == 4 and all(count == 1 for count, *_ in cells.values())
            keep(place, {"seconds": round(taken, 1), "same": same})


if __name__ == "__main__":
    main()
