"""What a training step costs, against the least it could cost.

    python benchmarks/step_cost.py [--pairs 7] [--device cpu] [--out benchmarks/results/step-cost-cpu.json]

ResNet-18, original stem, 64 px, batch 64, K = 10. The floor of PGD adversarial training is K forward passes with
input gradients and one full forward-backward, timed in the same run, alternating with what is compared to it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dpaat.data.augment import augment
from dpaat.data.loading import KeyedBatchSampler, SplitDataset
from dpaat.methods import Method, MethodContext, StepOutput, build_method, find_method
from dpaat.models import build_model
from dpaat.provenance import provenance

BATCH, SIZE, STEPS, CLASSES, SAMPLES = 64, 64, 10, 7, 7000
AUGMENTATIONS = ("flip", "turn", "crop", "jitter")


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, finished on the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleaved(pairs: int, device: torch.device, *works: Callable[[], object]) -> list[list[float]]:
    """Times of each work, called in turn `pairs` times after one call to warm up."""
    for work in works:
        seconds(work, device)
    rounds = [[seconds(work, device) for work in works] for _ in range(pairs)]
    return [list(times) for times in zip(*rounds, strict=True)]


def floor_step(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """The least a PGD training step can cost: so many input gradients, and one forward and backward pass."""
    model.eval()
    for _ in range(steps):
        probe = x.detach().requires_grad_()
        torch.autograd.grad(cross_entropy(model(probe), y, reduction="sum"), probe)
    model.train()
    cross_entropy(model(x), y).backward()
    model.zero_grad()


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median, least and largest ratio of pairs."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}


def take_step(
    model: nn.Module,
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    half: bool = False,
) -> StepOutput:
    """One training step on numbers, images and labels, with the update of the method's state."""
    index, x, y = batch
    model.train()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        output: StepOutput = method(model, index, x, y)
    output.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    method.after_step(output)
    return output


class Cost:
    """Forward and backward passes of a call, per kind, weighted by their batch size in units of one batch."""

    def __init__(self, model: nn.Module) -> None:
        self.forward = self.input_gradients = 0.0
        model.register_forward_pre_hook(self._count_forward)

    def _count_forward(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.forward += len(inputs[0]) / BATCH
        if inputs[0].requires_grad:
            inputs[0].register_hook(self._count_gradient)

    def _count_gradient(self, gradient: Tensor) -> None:
        self.input_gradients += len(gradient) / BATCH


def in_memory(count: int) -> SplitDataset:
    """Make random uint8 images behind the loader that training uses."""
    dataset = SplitDataset.__new__(SplitDataset)
    generator = torch.Generator().manual_seed(0)
    dataset.images = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8).numpy()
    dataset.labels = torch.randint(0, CLASSES, (count,), generator=generator)
    dataset.rows = torch.arange(count).numpy()
    return dataset


def measure(pairs: int, device: torch.device) -> dict[str, Any]:
    """Time everything and put the ratios together."""
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=CLASSES, image_size=SIZE, stem="original")
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    dataset = in_memory(SAMPLES)
    labels = dataset.labels
    index, images, y = (part.to(device) for part in dataset.__getitems__(list(range(BATCH))))
    x = (images.float() / 255).contiguous(memory_format=torch.channels_last)

    def make(name: str, clean_weight: float) -> Callable[[], StepOutput]:
        info = find_method(name)
        learn_loss = lambda logits, y: cross_entropy(logits, y, reduction="none")  # noqa: E731
        context = MethodContext(labels, CLASSES, 30, learn_loss, 8 / 255, STEPS, "linf", clean_weight)
        method = build_method(info, context, {}).to(device)

        def step() -> StepOutput:
            return take_step(model, method, optimizer, (index, x, y))

        step.method = method  # type: ignore[attr-defined]
        return step

    floor = partial(floor_step, model, x, y, STEPS)

    batches = iter(KeyedBatchSampler(labels, BATCH, seed=0, epoch=0))

    def load_and_augment() -> Tensor:
        _, raw, _ = dataset.__getitems__(next(batches))
        return augment(raw.to(device).float() / 255, AUGMENTATIONS)

    pgd_step, dpaat_step, standard_step = make("pgd", 0.0), make("dpaat-half", 0.0), make("standard", 0.0)
    pgd_times, floor_times, dpaat_times = interleaved(pairs, device, pgd_step, floor, dpaat_step)
    data_times, standard_times = interleaved(max(pairs, 15), device, load_and_augment, standard_step)

    output = dpaat_step()
    update_times = interleaved(50, device, lambda: dpaat_step.method.after_step(output))[0]  # type: ignore[attr-defined]
    update = statistics.median(update_times) / statistics.median(dpaat_times)

    counts: dict[str, dict[str, float]] = {}
    for name in ("pgd", "dpaat-half"):
        for weight in (0.0, 0.5):
            step = make(name, weight)
            cost = Cost(model)
            step()
            counts[f"{name}, clean weight {weight:g}"] = {
                "forward": cost.forward,
                "input_gradients": cost.input_gradients,
            }
    return {
        **provenance(str(device)),
        "setting": {"model": "resnet18", "stem": "original", "image_size": SIZE, "batch": BATCH, "steps": STEPS},
        "pairs": pairs,
        "seconds": {
            "pgd_step": statistics.median(pgd_times),
            "dpaat_step": statistics.median(dpaat_times),
            "floor": statistics.median(floor_times),
            "standard_step": statistics.median(standard_times),
            "load_and_augment": statistics.median(data_times),
            "update": statistics.median(update_times),
        },
        "pgd_over_floor": ratio(pgd_times, floor_times),
        "dpaat_over_pgd": ratio(dpaat_times, pgd_times),
        "data_over_standard": ratio(data_times, standard_times),
        "update_share": update,
        "passes_per_step": counts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="interleaved measurements of each kind")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    result = measure(arguments.pairs, torch.device(arguments.device))
    for name in ("pgd_over_floor", "dpaat_over_pgd", "data_over_standard"):
        print(f"{name}: median {result[name]['median']:.3f}, {result[name]['min']:.3f} to {result[name]['max']:.3f}")
    for name, count in result["passes_per_step"].items():
        print(f"{name}: {count['forward']:g} forward, {count['input_gradients']:g} input gradients")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"pgd_over_floor={result['pgd_over_floor']['median']:.3f} update_share={result['update_share']:.6f} "
        f"data_share={result['data_over_standard']['median']:.4f}"
    )


if __name__ == "__main__":
    main()
