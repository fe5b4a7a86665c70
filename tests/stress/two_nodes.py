"""Train on two machines with two processes each, and compare with one machine and its four processes, bit for bit.

    sudo python tests/stress/two_nodes.py [--out tests/stress/results/two-nodes.json]

The machines are network namespaces with one cable between them (Linux, root): each has a network of its own and knows
the other by its address only. They share the disk, as machines of a run must. Compared are the run folders, with
weights, optimizer, metrics and the per-sample state after every epoch; what may differ is what was asked for. Exit code
1 if anything else does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpaat.provenance import provenance
from dpaat.runs import CONFIG, INFO
from dpaat.storage import write_json
from kill_resume import differences

ADDRESSES = {"dpaat-a": "10.211.55.1", "dpaat-b": "10.211.55.2"}
CABLE = "dpaat-cable"
OPTIONS = {
    "data": "synthetic:240",
    "image-size": 32,
    "model": "test_resnet",
    "stem": "original",
    "steps": 2,
    "val-steps": 1,
    "val-eps": "8/255",
    "epochs": 3,
    "batch-size": 24,
    "accelerator": "cpu",
    "strategy": "ddp",
}
TRAIN = ["train", *(f"--{name}={value}" for name, value in OPTIONS.items())]


def ip(*words: str) -> None:
    """Call the tool that manages networks."""
    subprocess.run(["ip", *words], check=True)


@contextmanager
def machines() -> Iterator[None]:
    """Two namespaces with a cable between them, for as long as they are needed."""
    try:
        for name in ADDRESSES:
            ip("netns", "add", name)
        one, other = ADDRESSES
        ip("link", "add", CABLE, "netns", one, "type", "veth", "peer", "name", CABLE, "netns", other)
        for name, address in ADDRESSES.items():
            ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            ip("-n", name, "link", "set", CABLE, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in ADDRESSES:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def launch(prefix: list[str], launcher: list[str], train: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start one machine's share of a run."""
    command = [*prefix, sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "dpaat", *train]
    places = {"OMP_NUM_THREADS": "1", "DPAAT_CACHE": str(folder / "cache")}
    return subprocess.Popen(command, env=os.environ | places | ({"GLOO_SOCKET_IFNAME": CABLE} if prefix else {}))


def main() -> int:
    """Run both and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dpaat-nodes-") as name:
        folder = Path(name)
        one, two = folder / "one", folder / "two"
        alone = ["--standalone", "--nproc-per-node", "4"]
        ends = [launch([], alone, [*TRAIN, "--devices", "4", "--out", str(one)], folder).wait()]
        with machines():
            shares = []
            for rank, machine in enumerate(ADDRESSES):
                leader = ["--master-addr", next(iter(ADDRESSES.values())), "--master-port", "29511"]
                place = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "2", *leader]
                train = [*TRAIN, "--num-nodes", "2", "--devices", "2", "--out", str(two)]
                shares.append(launch(["ip", "netns", "exec", machine], place, train, folder))
            ends += [share.wait() for share in shares]
        found = ["a launcher failed"] if any(ends) else differences(one, two)
    found = [each for each in found if each not in (CONFIG, INFO)]
    result = {"exit_codes": ends, "differences": found, "seconds": round(time.monotonic() - began, 1)}
    print(result)
    if given.out:
        write_json(given.out, provenance("cpu") | result)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
