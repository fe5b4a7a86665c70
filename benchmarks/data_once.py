"""How long the data of a run take: at the first start, beside torchvision's ImageFolder, and at the second.

    python benchmarks/data_once.py ham10000:DIR [--pairs 7] [--image-size 32] [--images 1000] --out FILE.json

The first decoding is that of some image files, with as many threads as the package takes; ImageFolder decodes the same
files with as many workers, cuts the central square and resizes it. Both include reading; ours includes the digests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dpaat.data import load_table, prepare
from dpaat.provenance import provenance
from dpaat.storage import write_json


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def image_folder(folder: Path, size: int) -> None:
    """Decode a folder of classes by torchvision."""
    look = v2.Compose([v2.PILToTensor(), v2.CenterCrop(450), v2.Resize(size, antialias=True)])
    for _ in DataLoader(ImageFolder(folder, look), batch_size=64, num_workers=os.cpu_count() or 1):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    table, size = load_table(arguments.data), arguments.image_size
    first: list[dict[str, float]] = []
    again: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in range(arguments.images):
            path = Path(folder) / "images" / str(table.labels[row] % 2) / f"{row}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(table.read(row))  # type: ignore[arg-type]
        options: dict[str, Any] = {"image_size": size, "progress": False}
        for number in range(arguments.pairs):
            cache = Path(folder) / f"cache-{number}"
            ours = seconds(partial(prepare, f"folder:{folder}/images", cache_dir=cache, **options))
            theirs = seconds(partial(image_folder, Path(folder) / "images", size))
            first.append({"ours": ours, "image_folder": theirs, "ratio": ours / theirs})
            print(first[-1], flush=True)
    prepare(arguments.data, **options)
    for _ in range(arguments.pairs):
        again.append(seconds(lambda: prepare(arguments.data, **options)))
        print(f"second start: {again[-1]:.2f} s", flush=True)
    result = {
        "images": arguments.images,
        "image_size": size,
        "first": first,
        "ratio": statistics.median(pair["ratio"] for pair in first),
        "second_start": again,
        "second_start_median": statistics.median(again),
        "load": os.getloadavg()[0],
    }
    write_json(arguments.out, {**provenance("cpu"), **result})


if __name__ == "__main__":
    main()
