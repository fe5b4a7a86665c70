"""What images cost before and between training steps: on the disk, in memory, and in time.

    python benchmarks/data_scale.py [--samples 1000 10000] [--out benchmarks/results/data-scale.json]

A folder of random JPEG files is prepared twice: the first time every file is read, decoded and kept in the cache, the
second time only read, to see that nothing has changed. Then one epoch of batches is loaded from the cache, without
training. All of it is linear in the number of images, but for what the operating system keeps of the files in memory:
within a control group that allows less than the cache has, batches are read from the disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from dpaat.data import PreparedData, prepare
from dpaat.data.loading import KeyedBatchSampler, SplitDataset
from dpaat.provenance import provenance
from dpaat.storage import write_json

CLASSES = 4
Result = TypeVar("Result")


def write_images(folder: Path, count: int, side: int) -> int:
    """Write JPEG files of smooth noise, a sub-folder per class; returns their bytes."""
    draw = np.random.default_rng(0)
    total = 0
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number:08d}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
        total += path.stat().st_size
    return total


def timed(work: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """Do something; its result, and its seconds by the clock and of the processor, all threads together."""
    start, busy = time.perf_counter(), time.process_time()
    result = work()
    return result, {"seconds": time.perf_counter() - start, "processor": time.process_time() - busy}


def memory_limit() -> int | None:
    """Bytes that the control group of this process allows it, files that are kept in memory included; None for all."""
    groups = Path("/proc/self/cgroup")
    for line in groups.read_text().splitlines() if groups.exists() else ():
        own = line.split(":", 2)[2].lstrip("/")
        for limit in (
            Path("/sys/fs/cgroup/memory", own, "memory.limit_in_bytes"),
            Path("/sys/fs/cgroup", own, "memory.max"),
        ):
            if limit.exists() and limit.read_text().strip().isdigit() and int(limit.read_text()) < 2**60:
                return int(limit.read_text())
    return None


def measure(samples: int, side: int, image_size: int, batch_size: int) -> dict[str, Any]:
    """Write, prepare, prepare again, load."""
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "images", Path(name) / "cache"
        folder.mkdir()
        on_disk = write_images(folder, samples, side)

        def make() -> PreparedData:
            return prepare(f"folder:{folder}", image_size=image_size, cache_dir=cache, progress=False)

        _, first = timed(make)
        data, again = timed(make)
        dataset = SplitDataset(data, "train")
        sampler, order = timed(lambda: KeyedBatchSampler(dataset.labels, batch_size, seed=0, epoch=0))
        _, load = timed(lambda: [len(dataset.__getitems__(batch)[1]) for batch in sampler])
        return {
            "samples": samples,
            "file_bytes": on_disk,
            "cache_bytes": sum(path.stat().st_size for path in cache.iterdir()),
            "first": first,
            "again": again,
            "order_epoch": order,
            "load_epoch": load,
            "train_images": len(dataset),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--side", type=int, default=256, help="pixels of the files")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for samples in given.samples:
        row = measure(samples, given.side, given.image_size, given.batch_size)
        rows.append(row)
        print(f"{samples:,} images: files {row['file_bytes'] / 1e6:.1f} MB, cache {row['cache_bytes'] / 1e6:.1f} MB")
        for name in ("first", "again", "order_epoch", "load_epoch"):
            seconds = row[name]
            print(f"  {name:11} {seconds['seconds']:9.4f} s, processor {seconds['processor']:9.4f} s", flush=True)
    if given.out:
        setting = {
            "side": given.side,
            "image_size": given.image_size,
            "batch": given.batch_size,
            "memory_limit": memory_limit(),
        }
        head = provenance("cpu") | {"command": " ".join(["python", *sys.argv]), "setting": setting}
        write_json(given.out, head | {"results": rows})


if __name__ == "__main__":
    main()
