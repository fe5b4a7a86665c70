"""Train with 1, 2 and 4 processes and the same global batch, and compare what comes out.

    python tests/stress/processes.py [--seeds 8] [--images 240] [--out tests/stress/results/processes.json]

Small synthetic images, the method with per-sample state, gloo on the CPU, batches that 2 and 4 do not divide.

a. A planted signal f(index, visit): the state of every process must be that of the single one, bit for bit, also after
   a resume of a run saved by 2 processes with 4 and with 1.
b. GroupNorm, or BatchNorm with frozen statistics, in double precision, one epoch with augmentation: the sizes must lie
   within 1e-6.
c. BatchNorm, 3 epochs: the metrics must lie in the 95 % prediction interval of single runs that differ by the seed, on
   the same split.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

import dpaat.training
from dpaat.config import TrainConfig
from dpaat.methods import StepOutput
from dpaat.methods.dpaat import DPAAT
from dpaat.models import Classifier, build_model
from dpaat.provenance import provenance
from dpaat.storage import write_json
from dpaat.training import train
from dpaat.training.module import TrainingModule
from processes_launch import in_processes

PROCESSES = (1, 2, 4)
METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/balanced_accuracy", "eps/mean")
TOLERANCE = 1e-6
GRADUAL = {"rule": "solve", "eps_min": 0.001}


class GroupNorm(nn.GroupNorm):
    """Takes the place of a timm BatchNorm, with its activation."""

    def __init__(self, replaced: nn.BatchNorm2d) -> None:
        super().__init__(4, replaced.num_features)
        self.act = getattr(replaced, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        activated: Tensor = self.act(super().forward(x))
        return activated


class Run:
    """Trains into a folder by a number of processes; what differs between checks are the patches around it."""

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images = folder, images

    def __call__(self, name: str, processes: int, *, resume: bool = False, **changes: Any) -> Path:
        """Train, or go on; returns the run folder."""
        stop_after = changes.pop("stop_after", None)
        config = TrainConfig(
            **{
                "data": f"synthetic:{self.images}",
                "image_size": 32,
                "model": "test_resnet",
                "stem": "original",
                "method": "dpaat-half",
                "steps": 1,
                "val_eps": "0",
                "epochs": 3,
                "batch_size": 30,
                "lr": 0.02,
                "accelerator": "cpu",
                "devices": processes,
                "strategy": "ddp" if processes > 1 else "auto",
                **changes,
            }
        )
        out = self.folder / name

        def work(rank: int) -> None:
            _note_state(out)
            train(config, out, resume=resume, stop_after=stop_after)

        ends = in_processes(processes, work, self.folder / f"{name}-ends", seconds=3600)
        if any(ends):
            raise SystemExit(f"{name}: {ends}")
        print(f"{name}: done", flush=True)
        return out


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=8, help="single runs that give the interval")
    parser.add_argument("--images", type=int, default=240, help="synthetic images")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), given.images)
        result = {
            **provenance("cpu"),
            "images": given.images,
            "planted": check_planted(run),
            "double": {norm.__name__: check_double(run, norm) for norm in (group_norm, frozen_norm)},
            "batchnorm": check_metrics(run, given.seeds),
        }
    passed = [
        *result["planted"]["identical"].values(),
        *(difference < TOLERANCE for found in result["double"].values() for difference in found.values()),
        *(inside for found in result["batchnorm"]["inside"].values() for inside in found.values()),
    ]
    result |= {"passed": all(passed), "checks": len(passed), "seconds": round(time.perf_counter() - started, 1)}
    print({name: result[name] for name in ("planted", "double", "passed", "checks", "seconds")})
    if given.out:
        write_json(given.out, result)
    raise SystemExit(int(not result["passed"]))


def check_planted(run: Run) -> dict[str, Any]:
    """Whether the state is the same whoever computes it, and however the run is broken."""
    genuine = DPAAT.forward

    def forward(self: DPAAT, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        output = genuine(self, model, index, x, y)
        number = (7919 * index + 104729 * self.perturbation.visits[index]) % 1009
        rows = {"adv_loss": number / 1009, "tracked_loss": (31 * number % 1013) / 1013}
        return dataclasses.replace(output, rows=rows)

    DPAAT.forward = forward  # type: ignore[method-assign]
    try:
        outs = {f"{w} processes": run(f"planted-{w}", w, options=GRADUAL) for w in PROCESSES}
        for w in (4, 1):
            place = f"begun by 2, resumed by {w}"
            run(f"resumed-{w}", 2, options=GRADUAL, stop_after=1)
            outs[place] = run(f"resumed-{w}", w, options=GRADUAL, resume=True)
    finally:
        DPAAT.forward = genuine  # type: ignore[method-assign]
    single = states(outs["1 processes"])[0]
    identical = {name: all(_same(state, single) for state in states(out)) for name, out in outs.items()}
    visits = single["perturbation.visits"].unique().tolist()
    return {"identical": identical, "visits": visits, "sizes": int(single["perturbation.eps"].unique().numel())}


def check_double(run: Run, norm: Callable[[Classifier], None]) -> dict[str, float]:
    """The largest difference of a size, by number of processes, with normalization that no process makes its own."""

    def build(*arguments: Any, **options: Any) -> Classifier:
        model = build_model(*arguments, **options)
        norm(model)
        return model

    dpaat.training.setup.build_model = build  # type: ignore[attr-defined]
    try:
        changes: dict[str, Any] = {"precision": "64-true", "options": GRADUAL, "stop_after": 1}
        outs = {w: run(f"{norm.__name__}-{w}", w, **changes) for w in PROCESSES}
    finally:
        dpaat.training.setup.build_model = build_model  # type: ignore[attr-defined]
    eps = {w: states(out)[0]["perturbation.eps"].double() for w, out in outs.items()}
    return {f"{w} processes": float((eps[w] - eps[1]).abs().max()) for w in PROCESSES[1:]}


def check_metrics(run: Run, seeds: int) -> dict[str, Any]:
    """Whether the metrics of several processes are such as another seed could have given."""
    first = run("batchnorm-1", 1)
    splits = str(first / "splits.csv")
    singles = [first, *(run(f"seed-{seed}", 1, seed=seed, splits=splits) for seed in range(1, seeds))]
    table = pd.DataFrame([_last_row(out) for out in singles])
    width = stats.t.ppf(0.975, seeds - 1) * table.std(ddof=1) * np.sqrt(1 + 1 / seeds)
    low, high = table.mean() - width, table.mean() + width
    found = {f"{w} processes": _last_row(run(f"batchnorm-{w}", w)) for w in PROCESSES[1:]}
    return {
        "seeds": seeds,
        "interval": {name: [float(low[name]), float(high[name])] for name in METRICS},
        "found": found,
        "inside": {
            w: {name: bool(low[name] <= row[name] <= high[name]) for name in METRICS} for w, row in found.items()
        },
    }


def group_norm(model: Classifier) -> None:
    """Put GroupNorm in the place of BatchNorm."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, GroupNorm(child))


def frozen_norm(model: Classifier) -> None:
    """Keep BatchNorm in eval mode for good."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]


def states(out: Path) -> list[dict[str, Tensor]]:
    """The state of the method in every process, as each noted it at the end."""
    return [torch.load(path, weights_only=True) for path in sorted((out / "states").iterdir())]


def _note_state(out: Path) -> None:
    """Let this process write its state down; it is a fork that ends with the run."""
    genuine = TrainingModule.on_train_end

    def on_train_end(self: TrainingModule) -> None:
        (out / "states").mkdir(exist_ok=True)
        if self.global_rank == 0:
            for path in (out / "states").iterdir():
                path.unlink()
        self.trainer.strategy.barrier()
        torch.save(self.method.state_dict(), out / "states" / f"{self.global_rank}")
        genuine(self)

    TrainingModule.on_train_end = on_train_end  # type: ignore[method-assign, assignment]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) if isinstance(a, Tensor) else bool(a == b)

    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


def _last_row(out: Path) -> dict[str, float]:
    row = pd.read_csv(out / "metrics.csv").iloc[-1]
    return {name: row[name] for name in METRICS}


if __name__ == "__main__":
    main()
