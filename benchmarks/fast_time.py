"""How long a training with `dpaat-fast` takes, against one with `dpaat-half`.

    python benchmarks/fast_time.py RUN_DPAAT RUN_FAST [--pairs 7] [--device cpu] [--out FILE.json]

Each run folder gives a configuration and, epoch by epoch, the radii that its images had. A measurement takes one batch
of every epoch through a training step at those radii: augmentation, attack, learning, optimizer, update of the state.
The two are measured in turn. Validation, which is the same for both, is measured with them: its passes on a batch, none
of whose images has fallen yet; the second ratio is that of whole epochs with it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dpaat.attacks import pgd
from dpaat.data.augment import augment
from dpaat.methods import MethodContext, build_method, find_method
from dpaat.methods.base import Standard
from dpaat.models import build_model
from dpaat.perturbation import AdaptivePerturbation
from dpaat.provenance import provenance
from dpaat.radii import format_radius
from dpaat.runs import SPLITS, Run, open_run
from dpaat.storage import write_json
from step_cost import interleaved, ratio, take_step


def radii_of(run: Run) -> tuple[list[Tensor], Tensor]:
    """Radii of all training images `(N,)` in every epoch, and their classes `(N,)`."""
    table = pd.read_parquet(run.path / "perturbation.parquet")
    epochs = [rows.sort_values("id") for _, rows in table.groupby("epoch")]
    labels = pd.factorize(epochs[0]["class"].astype(str), sort=True)[0]
    return [torch.tensor(rows["eps"].to_numpy()) for rows in epochs], torch.tensor(labels)


def training(run: Run, device: torch.device) -> Callable[[], object]:
    """A function that takes one batch of every epoch of the run through a training step."""
    config, (epochs, labels) = run.config, radii_of(run)
    classes = int(labels.max()) + 1
    torch.manual_seed(config.seed)
    model = build_model(config.model, num_classes=classes, image_size=config.image_size, stem=config.stem)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    context = MethodContext(
        labels.to(device),
        classes,
        config.epochs,
        lambda logits, y: cross_entropy(logits, y, reduction="none"),
        config.radius,
        config.steps,
        config.norm,
        config.clean_weight or 0.0,
        config.adv_start or 0.0,
    )
    clean = Standard(context)
    method = build_method(find_method(config.method), context, config.options).to(device)
    state = method.perturbation
    assert isinstance(state, AdaptivePerturbation)
    images = torch.randint(0, 256, (len(labels), 3, config.image_size, config.image_size), dtype=torch.uint8)
    half = config.precision == "bf16-mixed"

    def pass_through() -> None:
        generator = torch.Generator().manual_seed(0)
        for epoch, eps in enumerate(epochs):
            index = torch.randperm(len(labels), generator=generator)[: config.batch_size]
            state.eps[index] = eps[index].to(device)
            method.begin_epoch(epoch)
            x = images[index].to(device).float() / 255
            x = augment(x, config.augmentations).contiguous(memory_format=torch.channels_last)
            objective = clean if epoch < context.first_attack else method
            take_step(model, objective, optimizer, (index.to(device), x, labels[index].to(device)), half=half)

    return pass_through


def validation(run: Run, device: torch.device) -> Callable[[], object]:
    """A function that takes one batch through what validation asks of the network."""
    config = run.config
    classes = len(pd.read_parquet(run.path / "perturbation.parquet", columns=["class"])["class"].unique())
    model = build_model(config.model, num_classes=classes, image_size=config.image_size, stem=config.stem)
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    x = torch.rand(config.batch_size, 3, config.image_size, config.image_size)
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(config.batch_size, device=device) % classes

    def pass_through() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed"), torch.no_grad():
            model(x)
            for eps in config.val_radii:
                model(pgd(model, x, y, eps=eps, steps=config.val_steps))

    return pass_through


def measure(dpaat: Run, fast: Run, pairs: int, device: torch.device) -> dict[str, Any]:
    """Times of both, and their ratio."""
    works = training(dpaat, device), training(fast, device), validation(dpaat, device)
    plain_times, fast_times, validation_times = interleaved(pairs, device, *works)
    config = dpaat.config
    splits = pd.read_csv(dpaat.path / SPLITS)["split"].value_counts()
    # In units of one pass over the epochs: how many validation batches come with one training batch of each.
    share = config.epochs * splits["val"] / splits["train"]
    whole = [
        [a + share * v for a, v in zip(times, validation_times, strict=True)] for times in (plain_times, fast_times)
    ]
    return {
        **provenance(str(device)),
        "setting": {
            "model": config.model,
            "image_size": config.image_size,
            "batch": config.batch_size,
            "steps": config.steps,
            "eps": format_radius(config.radius),
            "epochs": config.epochs,
            "threads": torch.get_num_threads(),
        },
        "pairs": pairs,
        "seconds_a_step": {
            "dpaat": statistics.median(plain_times) / config.epochs,
            "dpaat-fast": statistics.median(fast_times) / config.epochs,
        },
        "fast_over_dpaat": ratio(fast_times, plain_times),
        "with_validation": ratio(whole[1], whole[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dpaat", type=Path, help="run folder")
    parser.add_argument("fast", type=Path, help="run folder")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    result = measure(open_run(arguments.dpaat), open_run(arguments.fast), arguments.pairs, device)
    found, seconds = result["fast_over_dpaat"], result["seconds_a_step"]
    print(f"dpaat {seconds['dpaat']:.3f} s a step, dpaat-fast {seconds['dpaat-fast']:.3f} s")
    print(f"ratio {found['median']:.3f} ({found['min']:.3f} to {found['max']:.3f})")
    found = result["with_validation"]
    print(f"with validation {found['median']:.3f} ({found['min']:.3f} to {found['max']:.3f})")
    if arguments.out:
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
