"""What the state of every sample costs, from ten thousand to ten million of them.

    python benchmarks/state_scale.py [--pairs 7] [--device cpu] [--out benchmarks/results/state-scale-cpu.json]

Memory of the state, and time of its update for a batch of 128, with the renewals of the criterion in proportion: one
renewal looks at all N samples and is due every N / 50 visits. Beside it a training step of ResNet-18 (original stem,
64 px, K = 10) on the same device; and the images per second of such steps with the largest and the smallest state, in
turn. `working` is the memory that a renewal needs for a moment on top of the state; for a small one a CPU shows too
little of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dpaat.methods import MethodContext, build_method, find_method
from dpaat.models import build_model
from dpaat.perturbation import AdaptivePerturbation
from dpaat.provenance import provenance
from dpaat.storage import write_json
from step_cost import interleaved, ratio, seconds, take_step

EPS, STEPS, SIZE, BATCH = 8 / 255, 10, 64, 128
UPDATES, RENEWALS = 200, 5
SAMPLES = (10_000, 100_000, 1_000_000, 10_000_000)
CLASSES = (1, 7, 1_000)
STATISTICS = ("mean", "median")


def make_labels(samples: int, classes: int) -> Tensor:
    """Classes of all samples, about equally frequent."""
    return torch.randint(0, classes, (samples,), generator=torch.Generator().manual_seed(0))


def fill(state: AdaptivePerturbation) -> None:
    """As if every sample had been visited, and the next renewal were far away."""
    state.visits.fill_(1)
    state.loss.exponential_(generator=torch.Generator(state.loss.device).manual_seed(0))
    state._renew()
    state.set_extra_state({"until_renewal": 2**62})


def working_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call needs for a moment on top of what was there; None where that cannot be seen."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")  # the peak begins anew at what is resident now
    before = _kilobytes(status, "VmRSS")
    work()
    return 1024 * (_kilobytes(status, "VmHWM") - before)


def _kilobytes(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{field}:"))


def state_cost(samples: int, classes: int, statistic: str, device: torch.device) -> dict[str, Any]:
    """Memory of one state, and seconds of an update for a batch."""
    labels = make_labels(samples, classes) if classes > 1 else None
    state = AdaptivePerturbation(samples, EPS, labels=labels, num_classes=classes, statistic=statistic).to(device)
    del labels
    working = working_memory(lambda: fill(state), device)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, samples, (BATCH,), generator=generator).to(device) for _ in range(UPDATES)]
    losses = torch.rand(BATCH, generator=generator).to(device)
    updates = [partial(state.update, batch, losses, losses) for batch in batches]
    without = statistics.median(seconds(update, device) for update in updates)
    renewal = statistics.median(seconds(state._renew, device) for _ in range(RENEWALS))
    return {
        "samples": samples,
        "classes": classes,
        "statistic": statistic,
        "bytes": sum(buffer.numel() * buffer.element_size() for buffer in state.buffers()),
        "working": working,
        "renewal": renewal,
        "update_without_renewal": without,
        "update": without + renewal * BATCH / state.renew_every,
    }


def training_steps(samples: list[int], classes: int, device: torch.device) -> dict[int, Callable[[], object]]:
    """A step of DPAAT on the same network and images, for states of several sizes; no renewal comes within it."""
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=classes, image_size=SIZE, stem="original").to(device)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    x = torch.rand(BATCH, 3, SIZE, SIZE).to(device).contiguous(memory_format=torch.channels_last)

    def learn_loss(logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y, reduction="none")

    def make(count: int) -> Callable[[], object]:
        labels = make_labels(count, classes)
        context = MethodContext(labels, classes, 30, learn_loss, EPS, STEPS, "linf", 0.5)
        method = build_method(find_method("dpaat-half"), context, {}).to(device)
        state = method.perturbation
        assert isinstance(state, AdaptivePerturbation)
        fill(state)

        def step() -> None:
            index = torch.randint(0, count, (BATCH,))
            y = labels[index].to(device)
            take_step(model, method, optimizer, (index.to(device), x, y))

        return step

    return {count: make(count) for count in samples}


def compare_speed(rows: list[dict[str, Any]], pairs: int, loop: int, device: torch.device) -> dict[str, Any]:
    """Time loops of steps with the smallest and the largest state, in turn, and add the renewals in proportion."""
    extremes = [min(row["samples"] for row in rows), max(row["samples"] for row in rows)]
    classes = max(row["classes"] for row in rows)
    steps = training_steps(extremes, classes, device)

    def looped(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: [step() for _ in range(loop)]

    times = interleaved(pairs, device, *(looped(step) for step in steps.values()))
    step = statistics.median(times[0]) / loop
    found: dict[str, Any] = {"classes": classes, "images_per_second": BATCH / step, "step": step, "pairs": pairs}
    for statistic in dict.fromkeys(row["statistic"] for row in rows):
        cost = {
            row["samples"]: loop * (row["update"] - row["update_without_renewal"])
            for row in rows
            if row["classes"] == classes and row["statistic"] == statistic
        }
        small, large = ([t + cost[count] for t in own] for count, own in zip(extremes, times, strict=True))
        found[f"speed_ratio_{statistic}"] = ratio(small, large)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--pairs", type=int, default=7, help="interleaved loops of training steps of each kind")
    parser.add_argument("--loop", type=int, default=2, help="steps in a loop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    device = torch.device(given.device)
    rows = []
    print(f"{'samples':>12} {'classes':>7} {'statistic':9} {'state':>9} {'working':>9} {'renewal':>9} {'update':>9}")
    for samples in given.samples:
        for classes in given.classes:
            for statistic in STATISTICS:
                row = state_cost(samples, classes, statistic, device)
                rows.append(row)
                working = "" if row["working"] is None else f"{row['working'] / 1e6:.1f} MB"
                print(
                    f"{samples:12,} {classes:7,} {statistic:9} {row['bytes'] / 1e6:6.1f} MB {working:>9} "
                    f"{row['renewal']:7.3f} s {1000 * row['update']:6.3f} ms",
                    flush=True,
                )
    speed = compare_speed(rows, given.pairs, given.loop, device)
    for row in rows:
        row["share_of_step"] = row["update"] / speed["step"]
    dearest, largest = max(row["share_of_step"] for row in rows), max(row["bytes"] for row in rows)
    print(f"step {speed['step']:.3f} s; update at most {dearest:.3%} of it; state at most {largest / 1e6:.1f} MB")
    for statistic in STATISTICS:
        found = speed[f"speed_ratio_{statistic}"]
        print(
            f"images per second with the largest state over those with the smallest, {statistic}: median "
            f"{found['median']:.4f}, {found['min']:.4f} to {found['max']:.4f}"
        )
    if given.out:
        setting = {"model": "resnet18", "stem": "original", "image_size": SIZE, "batch": BATCH, "steps": STEPS}
        head = provenance(given.device) | {"command": " ".join(["python", *sys.argv]), "setting": setting}
        write_json(given.out, head | {"states": rows, "speed": speed})


if __name__ == "__main__":
    main()
