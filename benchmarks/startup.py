"""The first second: what starting takes beside loading torch and timm, into `results/startup.json`.

Processor seconds, which other load on the machine hardly changes; medians of interleaved repetitions.

    python benchmarks/startup.py
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

BASE = "import torch, timm"
LIMITS = {"dpaat --help": 0.3, "import dpaat": 0.1}
"""Seconds at most."""
RATIOS = {"import dpaat.evaluation": 1.5, "dpaat predict, 10 images": 1.5}
"""At most, of the time of `BASE`."""
TRAIN = "train --data synthetic:60 --image-size 32 --model test_resnet --epochs 1 --method standard --accelerator cpu"


def seconds(*arguments: str) -> float:
    """Processor time of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "startup.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        dpaat = ("-m", "dpaat")
        subprocess.run([sys.executable, *dpaat, *TRAIN.split(), "--out", str(folder / "run")], check=True)
        calls = {
            BASE: ("-c", BASE),
            "dpaat --help": (*dpaat, "--help"),
            "import dpaat": ("-c", "import dpaat"),
            "import dpaat.evaluation": ("-c", "import dpaat.evaluation"),
            "dpaat predict, 10 images": (
                *(*dpaat, "predict", str(folder / "run"), str(folder / "images"), "--device", "cpu"),
                *("--out", str(folder / "predictions.csv")),
            ),
        }
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(options.repeats):
            for name, arguments in calls.items():
                taken[name].append(seconds(*arguments))
            document = summary(taken)
            options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))
    sys.exit(not document["within"])


def summary(taken: dict[str, list[float]]) -> dict[str, object]:
    """Medians of the repetitions so far."""
    found = {name: round(statistics.median(values), 3) for name, values in taken.items()}
    pairs = {name: zip(taken[name], taken[BASE], strict=True) for name in RATIOS}
    ratios = {name: round(statistics.median(a / b for a, b in each), 3) for name, each in pairs.items()}
    within = all(found[name] <= most for name, most in LIMITS.items())
    return {
        "command": "python benchmarks/startup.py",
        "repeats": len(taken[BASE]),
        "processor seconds": found,
        "limits": LIMITS,
        f"ratios to {BASE}": ratios,
        "limits of the ratios": RATIOS,
        "within": within and all(ratios[name] <= most for name, most in RATIOS.items()),
    }


if __name__ == "__main__":
    main()
