"""A disk that fills up at any write: one clear line, earlier results intact, and going on works once there is room.

    sudo python tests/stress/disk_full.py [--steps 24] [--out FILE.json]

Needs to mount a small file system in memory (Linux, root). Each command is run with room for less and less than it
writes. It must end with exit code 2 and one line on stderr that names the trouble; what stood in the folder before must
be as it was; and once there is room, the same command must end with the results of a run that never lacked room.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bad_input import Ending, in_process, verdict
from bad_input_data import folder_set
from bad_input_runs import TRAIN

SIZE = 256 * 2**20
"""Bytes of the file system; all but the room wanted is taken by one large file."""


@contextmanager
def small_disk() -> Iterator[Path]:
    """Mount a file system of `SIZE` bytes in memory."""
    with tempfile.TemporaryDirectory(prefix="dpaat-disk-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            gc.collect()  # memory maps of images keep the disk busy
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def room(disk: Path, size: int) -> Iterator[None]:
    """Leave so many bytes free for a while."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - size))
    try:
        yield
    finally:
        ballast.unlink()


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        name: for the counts.
        source: a folder that stands in the place of the run before; None for an empty disk.
        arguments: of the command line.
        result: what the run's folder must hold in the end; None if that does not matter.
        needed: about how many bytes it writes.
    """

    name: str
    source: Path | None
    arguments: list[str]
    result: Path | None
    needed: int


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but for logs of times, temporary places, and the save before the last one."""
    skipped = {"timing.csv", "tensorboard", "evaluation.partial", "run.json", "previous.ckpt"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not skipped & set(path.relative_to(folder).parts)
    }


def used(folder: Path) -> int:
    """Bytes that the files below a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def difference(one: Path, other: Path) -> str:
    """The first file in which two folders differ; of checkpoints, which also hold paths, the weights count."""
    first, second = contents(one), contents(other)
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            return name
        if name.endswith(".ckpt"):
            states = [torch.load(folder / name, weights_only=True)["state_dict"] for folder in (one, other)]
            if states[0].keys() != states[1].keys():
                return name
            if not all(
                torch.equal(value, states[1][key]) for key, value in states[0].items() if torch.is_tensor(value)
            ):
                return name
        elif first[name] != second[name]:
            return name
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24, help="amounts of room for each command")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    out = arguments.out.resolve() if arguments.out else None
    with small_disk() as disk, tempfile.TemporaryDirectory(prefix="dpaat-disk-full-") as folder:
        result = measure(disk, Path(folder), arguments.steps)
    print(json.dumps(result, indent=1))
    if out:
        from dpaat.provenance import provenance

        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(provenance("cpu") | result, indent=1) + "\n")
    return 1 if result["failures"] else 0


def measure(disk: Path, elsewhere: Path, steps: int) -> dict[str, Any]:
    """Run every command with every amount of room."""
    os.environ["DPAAT_CACHE"] = str(elsewhere / "cache")
    data = folder_set(elsewhere / "images", ("a", "b", "c"))
    train = [*TRAIN, "--epochs=2", f"--data=folder:{data}"]
    evaluate = ["--device=cpu", "--attack=fgsm", "--eps=2/255,8/255"]
    trained, evaluated, run = elsewhere / "trained" / "run", elsewhere / "evaluated" / "run", disk / "run"
    sound([*train, f"--out={trained}"])
    shutil.copytree(trained, evaluated)
    sound(["evaluate", str(evaluated), *evaluate])
    commands = [
        Command("train", None, [*train, f"--out={run}"], trained, used(trained)),
        Command("evaluate", trained, ["evaluate", str(run), *evaluate], evaluated, used(evaluated) - used(trained)),
        Command("report", evaluated, ["report", str(run), f"--out={disk / 'r.html'}"], evaluated, 200_000),
        Command(
            "predict",
            evaluated,
            ["predict", "--device=cpu", str(run), str(data), f"--out={disk / 'p.csv'}"],
            evaluated,
            4096,
        ),
        Command(
            "decode",
            None,
            [*train, f"--cache={disk / 'run'}", f"--out={elsewhere / 'new'}", "--stop-after=1"],
            None,
            60_000,
        ),
    ]
    counts: dict[str, dict[str, int]] = {}
    failures: list[dict[str, Any]] = []
    for command in commands:
        for step in range(steps):
            wrong, kind = squeeze(command, disk, run, step * command.needed // max(1, steps - 1))
            shutil.rmtree(elsewhere / "new", ignore_errors=True)
            counts.setdefault(command.name, {}).setdefault(kind, 0)
            counts[command.name][kind] += 1
            if wrong:
                failures.append({"command": command.name, "step": step, "found": wrong})
                print(command.name, step, wrong, file=sys.stderr, flush=True)
    return {"steps": steps, "counts": counts, "failures": failures}


def squeeze(command: Command, disk: Path, run: Path, size: int) -> tuple[str, str]:
    """Run a command with so much room, then again with enough; what is wrong, and how it ended."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if command.source:
        shutil.copytree(command.source, run)
    before = contents(run)
    with room(disk, size):
        ending = in_process(command.arguments)
    wrong = judge(ending, before, contents(run))
    if not wrong and ending.code == 2:
        resume = command.name == "train" and (run / "config.yaml").is_file()
        again = in_process(["train", "--resume", f"--out={run}"] if resume else command.arguments)
        wrong = "" if again.code == 0 else f"going on ended with {again.code}: {again.errors}{again.raised}"
    if not wrong and command.result:
        differing = difference(command.result, run)
        wrong = f"{differing} is not that of an unbroken run" if differing else ""
    leftover = [str(path.relative_to(disk)) for path in disk.rglob("*.tmp")]
    wrong = wrong or (f"left behind: {leftover[0]}" if leftover else "")
    return wrong, "failed" if wrong else "refused, then finished" if ending.code == 2 else "had room"


def judge(ending: Ending, before: dict[str, bytes], after: dict[str, bytes]) -> str:
    """What is wrong with how a command ended that lacked room, if anything."""
    found = verdict(ending, [], "")
    if found not in ("refused", "handled"):
        return found
    lost = [name for name, content in before.items() if after.get(name) != content and name != "evaluation.json"]
    return f"changed {lost[0]}" if lost else ""


def sound(arguments: list[str]) -> None:
    """Run a command that has all it needs."""
    ending = in_process(arguments)
    if ending.code != 0:
        raise SystemExit(f"{arguments[0]} failed: {ending.errors}{ending.raised}")


if __name__ == "__main__":
    sys.exit(main())
