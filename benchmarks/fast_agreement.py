"""Whether the fast path and the plain path agree, from one checkpoint on.

    python benchmarks/fast_agreement.py [--data ham10000:DIR] [--device cpu] [--out benchmarks/results/fast-cpu.json]

Plain is float32 with images and weights in PyTorch's own memory layout. Fast is what the package offers: the
channels-last layout, which training and evaluation always use, and bfloat16, asked for by `--precision bf16-mixed` in
training (the attack, the forward and the backward pass under autocast; weights, perturbations, radii and their state in
float32) and by `--precision bf16` in evaluation (attacks search in it, verdicts are float32). Nothing is compiled.

A DPAAT run is trained and stopped. Compared are robust accuracy under APGD-CE-20 with the run's network, and the radii
after one more epoch from its checkpoint, with the same batches and draws. Training magnifies any rounding, so float32
in the fast layout stands beside both: it tells how much of a difference is bfloat16's. Exit code 1 where robust
accuracy differs by more than 0.3 points or fewer than 95 % of the radii moved the same way.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dpaat.config import TrainConfig
from dpaat.data import PreparedData
from dpaat.evaluation.attacking import Attacker, Precision
from dpaat.evaluation.specs import CLEAN, attack_spec
from dpaat.provenance import provenance
from dpaat.radii import parse_radius
from dpaat.runs import LAST, Run, open_run
from dpaat.storage import write_json
from dpaat.training import train
from dpaat.training.setup import build, make_datamodule
from dpaat.training.trainer import make_trainer, quiet

PATHS = {"plain": ("32", False), "float32, channels last": ("32", True), "fast": ("bf16", True)}
"""Precision and whether the layout is channels last."""
POINTS, SAME_WAY = 0.3, 0.95


def use_contiguous(model: nn.Module) -> nn.Module:
    """Put weights and all images that come in into PyTorch's own layout."""
    model.to(memory_format=torch.contiguous_format)
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return model


def robust_accuracy(run: Run, data: PreparedData, rows: np.ndarray, eps: float, path: str, device: str) -> np.ndarray:
    """Whether each image stands against APGD-CE-20 `(N,)`, bool."""
    precision, channels_last = PATHS[path]
    model = run.load_model(device=device)
    model = model.to(memory_format=torch.channels_last) if channels_last else use_contiguous(model)
    attacker = Attacker(
        model,
        data.images[rows],
        data.labels[rows],
        num_classes=len(data.classes),
        device=device,
        precision=cast(Precision, precision),
        progress=False,
    )
    standing: np.ndarray = attacker.outputs(CLEAN).predicted == attacker.labels
    left = np.flatnonzero(standing)
    fallen = attacker.outputs(attack_spec("apgd-ce", steps=20), eps, left).predicted != attacker.labels[left]
    standing[left[fallen]] = False
    return standing


def one_more_epoch(run: Run, data: PreparedData, path: str, folder: Path) -> Tensor:
    """Go on from the run's last checkpoint for one epoch; radii of all samples after it `(N,)`."""
    precision, channels_last = PATHS[path]
    config = dataclasses.replace(run.config, precision="bf16-mixed" if precision == "bf16" else "32-true")
    folder.mkdir()
    trainer = make_trainer(config, folder, data, stop_after=1, console=None)
    module = build(config, data, begun=run)
    if not channels_last:
        use_contiguous(module.model)
    with quiet():
        trainer.fit(module, make_datamodule(config, data), ckpt_path=run.path / LAST, weights_only=True)
    assert module.perturbation is not None
    return module.perturbation.eps.cpu()


def share_moved_alike(before: Tensor, one: Tensor, other: Tensor) -> float:
    """Share of the samples whose radius grew in both, shrank in both, or stayed in both.

    Args:
        before: radii `(N,)` at the checkpoint.
        one: radii `(N,)` after an epoch.
        other: radii `(N,)` after the other epoch.
    """
    return float(((one - before).sign() == (other - before).sign()).float().mean())


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train, and compare the paths."""
    config = TrainConfig(
        data=given.data,
        image_size=given.image_size,
        model=given.model,
        stem="original",
        method="dpaat-half",
        steps=given.steps,
        val_eps="4/255",
        epochs=given.epochs,
        batch_size=given.batch_size,
        seed=given.seed,
        accelerator=given.device,
        devices=1,
    )
    run = open_run(train(config, folder / "run", stop_after=given.stop_after))
    data = run.prepare(progress=False)
    device = "cuda:0" if given.device == "gpu" else "cpu"
    # Images that were not trained on come first.
    rows = np.concatenate([data.rows(split) for split in ("test", "val", "train")])[: given.images]
    eps = parse_radius(given.eps, "eps")
    standing, seconds = {}, {}
    for path in PATHS:
        start = time.perf_counter()
        standing[path] = robust_accuracy(run, data, rows, eps, path, device)
        seconds[path] = time.perf_counter() - start
        print(f"{path}: {standing[path].mean():.2%} of {len(rows)} stand, {seconds[path]:.1f} s", flush=True)
    state = torch.load(run.path / LAST, map_location="cpu", weights_only=True)["state_dict"]
    before = state["method.perturbation.eps"]
    after = {path: one_more_epoch(run, data, path, folder / path) for path in PATHS}
    compared = {
        path: {
            "robust_accuracy_points": 100 * float(standing[path].mean() - standing["plain"].mean()),
            "verdicts_alike": float((standing[path] == standing["plain"]).mean()),
            "moved_alike": share_moved_alike(before, after[path], after["plain"]),
            "mean_eps_difference": float((after[path] - after["plain"]).mean()),
        }
        for path in PATHS
        if path != "plain"
    }
    return {
        **provenance(device),
        "command": " ".join(["python", *sys.argv]),
        "config": dataclasses.asdict(run.config),
        "images": len(rows),
        "eps": eps,
        "robust_accuracy": {path: float(found.mean()) for path, found in standing.items()},
        "attack_seconds": seconds,
        "samples": len(before),
        "moved": {path: float((after[path] != before).float().mean()) for path in PATHS},
        "against_plain": compared,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic:4000")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--steps", type=int, default=10, help="of the attack in training")
    parser.add_argument("--epochs", type=int, default=10, help="that the run is planned for")
    parser.add_argument("--stop-after", type=int, default=4, help="epochs before the comparison")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=2000, help="how many to attack")
    parser.add_argument("--eps", default="2/255", help="radius of APGD-CE-20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given, Path(folder))
    for path, row in found["against_plain"].items():
        print(
            f"{path} against plain: robust accuracy {row['robust_accuracy_points']:+.2f} points, "
            f"{row['verdicts_alike']:.2%} of the verdicts alike; {row['moved_alike']:.2%} of the radii moved alike"
        )
    if given.out:
        write_json(given.out, found)
    fast = found["against_plain"]["fast"]
    sys.exit(int(abs(fast["robust_accuracy_points"]) > POINTS or fast["moved_alike"] < SAME_WAY))


if __name__ == "__main__":
    main()
