"""Many short runs in one process, and one long run: does memory grow, does a file stay open or lie about?

    python tests/stress/soak.py [--runs 200] [--epochs 300] [--out tests/stress/results/soak.json]

A short run trains, evaluates and reports through the entry point of the command line. After each, the resident memory,
open file handles, threads and temporary files of this process are noted; in the long run every half second. Growth is
the median of the last tenth over the median of the first tenth after warm-up, which is the first quarter. More than 1 %
of memory, or a handle, thread or temporary file more than after warm-up, is a leak and exit code 1. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bad_input_data import folder_set
from bad_input_runs import TRAIN

ALLOWED = 0.01
"""Growth of memory after warm-up that is no leak."""


@dataclass(frozen=True)
class Sample:
    """What the process holds at a moment: MB of memory, and numbers of handles, threads and temporary files."""

    seconds: float
    memory_mb: float
    handles: int
    threads: int
    temporary: int


class Watch:
    """Takes samples.

    Args:
        temporary: the folder for temporary files of this process.
    """

    def __init__(self, temporary: Path) -> None:
        self.temporary, self.samples = temporary, list[Sample]()
        self._began = time.monotonic()

    def look(self) -> None:
        """Take one sample."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.samples.append(
            Sample(
                round(time.monotonic() - self._began, 2),
                pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                len(os.listdir("/proc/self/fd")),  # noqa: PTH208
                threading.active_count(),
                sum(1 for _ in self.temporary.rglob("*")),
            )
        )

    @contextlib.contextmanager
    def looking(self, every: float) -> Iterator[None]:
        """Take samples from another thread, so many seconds apart."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(every):
                self.look()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def verdict(self) -> dict[str, Any]:
        """Compare the end with the time after warm-up."""
        settled = self.samples[len(self.samples) // 4 :]
        tenth = max(1, len(settled) // 10)
        first, last = settled[:tenth], settled[-tenth:]
        memory = [statistics.median(sample.memory_mb for sample in part) for part in (first, last)]
        growth = memory[1] / memory[0] - 1
        more = {
            name: min(getattr(sample, name) for sample in last) - max(getattr(sample, name) for sample in first)
            for name in ("handles", "threads", "temporary")
        }
        return {
            "samples": len(self.samples),
            "seconds": self.samples[-1].seconds,
            "memory_mb": [round(value, 1) for value in memory],
            "memory_growth": round(growth, 5),
            "more": more,
            "leaks": growth > ALLOWED or any(value > 0 for value in more.values()),
            "every_tenth": [asdict(sample) for sample in self.samples[:: max(1, len(self.samples) // 10)]],
        }


def run(*arguments: str) -> None:
    """Call the entry point, without what it prints."""
    from dpaat.cli import main

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        code = main(list(arguments))
    if code:
        raise SystemExit(f"{' '.join(arguments)} ended with {code}")


def short_runs(count: int, work: Path, temporary: Path) -> dict[str, Any]:
    """Train, evaluate and report so often."""
    data = folder_set(work / "images", ("a", "b", "c"))
    watch = Watch(temporary)
    for number in range(count):
        out = work / "run"
        run(*TRAIN, f"--data=folder:{data}", f"--out={out}", f"--method={('dpaat', 'pgd', 'standard')[number % 3]}")
        run("evaluate", str(out), "--device=cpu", "--attack=fgsm", "--eps=2/255,8/255")
        run("report", str(out), f"--out={work / 'report.html'}")
        shutil.rmtree(out)
        gc.collect()
        watch.look()
    return watch.verdict()


def long_run(epochs: int, work: Path, temporary: Path) -> dict[str, Any]:
    """Train for so many epochs."""
    data = folder_set(work / "images", ("a", "b", "c"))
    watch = Watch(temporary)
    with watch.looking(0.5):
        run(*TRAIN, f"--epochs={epochs}", f"--data=folder:{data}", f"--out={work / 'long'}")
    watch.samples.pop()  # torn down
    return watch.verdict()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="short runs in a row")
    parser.add_argument("--epochs", type=int, default=300, help="length of the long run")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dpaat-soak-") as folder:
        work, temporary = Path(folder) / "work", Path(folder) / "temporary"
        temporary.mkdir()
        os.environ |= {"TMPDIR": str(temporary), "DPAAT_CACHE": str(Path(folder) / "cache")}
        tempfile.tempdir = None
        result = {"short_runs": short_runs(arguments.runs, work, temporary)}
        if arguments.epochs:
            result["long_run"] = long_run(arguments.epochs, work, temporary)
        tempfile.tempdir = None
    from dpaat.provenance import provenance

    result = provenance("cpu") | result
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return int(any(result[name]["leaks"] for name in ("short_runs", "long_run") if name in result))


if __name__ == "__main__":
    sys.exit(main())
