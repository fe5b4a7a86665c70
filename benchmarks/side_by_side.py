"""What a second training on the same cores costs the first, while waiting threads spin, sleep, or do both in turn.

    python benchmarks/side_by_side.py [--pairs 7] [--threads 2] --out FILE.json

The command line takes the second policy (OMP_WAIT_POLICY=PASSIVE) unless the variable is set. A short spin is no way
out: as fast as the first for one training, twelve times as long for two (results/side-by-side-spin.json).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from dpaat.provenance import provenance
from dpaat.storage import write_json

LOOP = """
import sys, time, torch
from dpaat.models import build_model
torch.manual_seed(0)
model = build_model("test_resnet", num_classes=7, image_size=32, stem="original")
model = model.to(memory_format=torch.channels_last)
x, y = torch.rand(64, 3, 32, 32), torch.randint(7, (64,))
def step():
    torch.nn.functional.cross_entropy(model(x), y).backward()
step()
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for _ in range(int(sys.argv[1])):
    step()
print(time.perf_counter() - start)
"""
POLICIES = {"unset": {}, "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"}, "short spin": {"GOMP_SPINCOUNT": "10000"}}


def seconds(count: int, policy: str, threads: int, steps: int) -> float:
    """The longest of so many runs that begin together."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("OMP_WAIT_POLICY", None)
    environment |= POLICIES[policy]
    command = [sys.executable, "-c", LOOP, str(steps)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    runs = [subprocess.Popen(command, **pipes) for _ in range(count)]
    for run in runs:
        assert run.stdout is not None
        run.stdout.readline()
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    return max(float(run.communicate()[0]) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
    result: dict[str, Any] = {**provenance("cpu"), "threads": arguments.threads, "load": [], "pairs": found}
    for _ in range(arguments.pairs):
        for policy in POLICIES:
            one, two = (seconds(count, policy, arguments.threads, arguments.steps) for count in (1, 2))
            found[policy].append({"one": one, "two": two, "ratio": two / one})
            result["load"].append(os.getloadavg()[0])  # of others beside
            print(f"{policy}: one {one:.1f} s, two {two:.1f} s, ratio {two / one:.2f}", flush=True)
            result["median"] = {
                name: statistics.median(r["ratio"] for r in rows) for name, rows in found.items() if rows
            }
            write_json(arguments.out, result)


if __name__ == "__main__":
    main()
