"""Kill training runs for good, resume them, and compare each with the unbroken run bit for bit.

    python tests/stress/kill_resume.py [--kills 50] [--during-writing 20] [--out tests/stress/results/kill-resume.json]

A run of 3 epochs on small synthetic images, by the method with per-sample state, an average of the weights and
AdamW; it saves after every step, or every so often, in turn. Each broken run is a process of its own, ended by
SIGKILL at an instant drawn from the length of the unbroken run, or as soon as the temporary file of a checkpoint is
seen; another process resumes it. Compared are all files of the run folder but `timing.csv`, TensorBoard's and the save
before the last one; of the checkpoints weights, state, optimizer, schedule, position and sums.

Processes are forked from one that has everything imported, as on a busy machine the import takes longer than the run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpaat.config import TrainConfig
from dpaat.provenance import provenance
from dpaat.runs import INFO
from dpaat.storage import read_json, write_json
from dpaat.training import train

PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "train_sums")
SAVE_EVERY = (0.0, 0.002, 10.0)
"""Minutes between saves within an epoch: every step, now and then, never in so short a run."""


def config(save_every: float) -> TrainConfig:
    """A run of a few seconds."""
    return TrainConfig(
        data="synthetic:120",
        image_size=32,
        model="test_resnet",
        stem="original",
        method="dpaat-half",
        steps=1,
        val_steps=1,
        val_eps="8/255",
        epochs=3,
        batch_size=16,
        optimizer="adamw",
        lr=0.01,
        ema_decay=0.9,
        accelerator="cpu",
        save_every=save_every,
    )


def forked(work: Callable[[], object]) -> int:
    """Start work in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a process; returns its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(child: int, seconds: float) -> bool:
    """Kill a process after some time; False if it had ended by then."""
    time.sleep(seconds)
    return _kill(child)


def kill_while_writing(child: int, folder: Path, number: int) -> bool:
    """Kill a process in the middle of a checkpoint, the `number`-th that it writes; False if it ended before."""
    seen: set[int] = set()
    while True:
        for temporary in folder.glob("checkpoints/.*.ckpt.*.tmp"):
            try:
                seen.add(temporary.stat().st_ino)
            except FileNotFoundError:
                continue
            if len(seen) >= number:
                return _kill(child)
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return _kill(child)


def _kill(child: int) -> bool:
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def differences(one: Path, other: Path) -> list[str]:
    """Name what differs between two run folders."""
    found = []
    files = [{path.relative_to(run) for path in _files(run)} for run in (one, other)]
    found += [f"only in one: {path}" for path in sorted(files[0] ^ files[1])]
    for path in sorted(files[0] & files[1]):
        if path.suffix == ".ckpt":
            first, second = (torch.load(run / path, weights_only=True) for run in (one, other))
            found += [f"{path}: {part}" for part in PARTS if not same(first.get(part), second.get(part))]
        elif path.name == INFO:
            first, second = (read_json(run / path) for run in (one, other))
            found += [] if first == second else [f"{path}"]
        elif (one / path).read_bytes() != (other / path).read_bytes():
            found.append(str(path))
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are the same bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(type(one) is type(other) and (one == other or one != one))


def _files(run: Path) -> list[Path]:
    """All files that must be the same; the checkpoint before the last depends on when saves happened."""
    apart = ("timing.csv", "previous.ckpt")
    return [p for p in run.rglob("*") if p.is_file() and p.name not in apart and "tensorboard" not in p.parts]


def main() -> None:
    """Break runs and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50, help="runs killed at random instants")
    parser.add_argument("--during-writing", type=int, default=20, help="runs killed while a checkpoint is written")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(given.seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wholes, lengths = {}, {}
        for save_every in SAVE_EVERY:
            wholes[save_every] = folder / f"whole-{save_every}" / "run"
            begun = time.perf_counter()
            assert ended(forked(lambda s=save_every: train(config(s), wholes[s]))) == 0  # type: ignore[misc]
            lengths[save_every] = time.perf_counter() - begun
        kinds = ["random"] * given.kills + ["writing"] * given.during_writing
        draw.shuffle(kinds)
        trials = []
        for number, kind in enumerate(kinds):
            save_every = 0.0 if kind == "writing" else SAVE_EVERY[number % len(SAVE_EVERY)]
            trial = _trial(kind, save_every, folder / f"{number}" / "run", lengths[save_every], draw)
            trial["differences"] = (
                [f"exit code {trial['exit_code']}"]
                if trial["exit_code"]
                else differences(folder / f"{number}" / "run", wholes[save_every])
            )
            trials.append(trial)
            print(f"{number + 1}/{len(kinds)}", trial, flush=True)
            if given.out:
                write_json(given.out, summary(trials, given.seed, time.perf_counter() - started))
    result = summary(trials, given.seed, time.perf_counter() - started)
    for kind in ("random", "writing"):
        print(f"{kind}: {result['identical'][kind]} of {result['killed'][kind]} bit-identical")
    print(f"{result['seconds']} s, {result['seconds_per_kill']} s for a kill and its resume")
    raise SystemExit(int(result["identical"] != result["killed"]))


def summary(trials: list[dict[str, Any]], seed: int, seconds: float) -> dict[str, Any]:
    """Count what is done so far."""
    kinds = ("random", "writing")
    return {
        **provenance("cpu"),
        "seed": seed,
        "killed": {kind: sum(t["kind"] == kind for t in trials) for kind in kinds},
        "identical": {kind: sum(t["kind"] == kind and not t["differences"] for t in trials) for kind in kinds},
        "seconds": round(seconds, 1),
        "seconds_per_kill": round(statistics.median(t["seconds"] for t in trials), 2) if trials else None,
        "trials": trials,
    }


def _trial(kind: str, save_every: float, run: Path, length: float, draw: random.Random) -> dict[str, Any]:
    """Break one run until the signal has really hit it, then resume it."""
    begun = time.perf_counter()
    while True:
        child = forked(lambda: train(config(save_every), run, resume=True))
        if kind == "writing":
            killed = kill_while_writing(child, run, draw.randint(1, 20))
            # The rename may have come between the look and the kill; then the next process is broken instead.
            killed = killed and any(run.glob("checkpoints/.*.tmp"))
        else:
            killed = kill_at(child, draw.uniform(0, length))
        if killed:
            break
        if read_json(run / INFO)["status"] == "finished":
            for path in sorted(run.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    position = None
    if (run / "checkpoints/last.ckpt").exists():
        position = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    code = ended(forked(lambda: train(config(save_every), run, resume=True)))
    return {
        "kind": kind,
        "save_every": save_every,
        "resumed_at_step": position,
        "exit_code": code,
        "seconds": round(time.perf_counter() - begun, 2),
    }


if __name__ == "__main__":
    main()
