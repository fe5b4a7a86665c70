"""What the standard and the quick suite cost beside the reference implementation of AutoAttack, and what each finds.

    python benchmarks/suite_cost.py NAME=RUN ... [--images 200] [--pairs 7] --out FILE.json

Needs `pip install pyautoattack==0.2.0`, the authors' own code, in an environment of its own. It asks for nine targets
and so fails below ten classes; here it gets K - 1. It is called once for each radius, with the same budgets, images and
batches. In every pair all sides run in turn, in an order that changes from pair to pair. Times are seconds of the
processor on one thread; passes are images through the network forward, one more where their gradient is taken. Pair 1
of all models comes before pair 2 of any. What FILE holds is not measured again, so that the same command goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics  # noqa: F401 - so that no side is timed while it is imported
from torch import nn

from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.elsewhere import target_of_folder
from dpaat.evaluation.images import RowView, stratified_draw
from dpaat.evaluation.specs import is_worst_case
from dpaat.evaluation.suite import Result, run_standard
from dpaat.provenance import provenance
from dpaat.radii import format_radius
from dpaat.storage import write_json

RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
ONE = 4 / 255  #: The radius at which the suites are also run alone
STEPS = {"apgd-ce": 50, "apgd-t": 50, "fab-t": 50, "square": 500}

Standing = dict[str, str]
"""By radius, a 1 for every image that stands and a 0 for every other one."""
Pair = dict[str, dict[str, Any]]
"""What each side took and found, on one model."""


def reference(attacker: Attacker, eps: float) -> Standing:
    """Run AutoAttack at one radius."""
    from pyautoattack import AutoAttack  # type: ignore[import-not-found]

    x, y = attacker.load(np.arange(len(attacker)))
    attack = AutoAttack(attacker.model, norm="Linf", eps=eps, version="standard", seed=attacker.seed)
    targets = min(9, attacker.num_classes - 1)
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
    for part, name in ((attack.apgd, "apgd-ce"), (attack.apgd_targeted, "apgd-t"), (attack.fab, "fab-t")):
        part.n_iter = part.n_iter_orig = STEPS[name]
    attack.square.n_queries = STEPS["square"]
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=attacker.batch_size)
    with torch.no_grad():
        inside = (x_adv - x).abs().flatten(1).amax(1) <= eps + 1e-6
        fooled = (attacker.model(x_adv).argmax(1) != y) & inside | (attacker.model(x).argmax(1) != y)
    return {format_radius(eps): as_text(~fooled.numpy())}


def suite(attacker: Attacker, radii: tuple[float, ...], *, quick: bool) -> Standing:
    """Run one of our suites, whole: also what it scores on all images, and the security curve."""
    names = [str(number) for number in range(attacker.num_classes)]
    found = run_standard(attacker, radii, names, steps=STEPS, quick=quick)
    worst = [result for result in found if isinstance(result, Result) and is_worst_case(result.spec.name)]
    return {format_radius(r.eps): as_text(r.predicted == attacker.labels) for r in worst}


def as_text(stands: np.ndarray) -> str:
    """A 1 for every image that stands, a 0 for every other one."""
    return "".join("01"[each] for each in stands.astype(int))


def exceeding(one: str, other: str) -> int:
    """Number of images that stand in the first and not in the second."""
    return sum(pair == ("1", "0") for pair in zip(one, other, strict=True))


def count_passes(model: nn.Module) -> list[int]:
    """Count passes through a network and its later copies, in place."""
    passes = [0]

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        passes[0] += len(inputs[0]) * (1 + (inputs[0].requires_grad and torch.is_grad_enabled()))

    model.register_forward_pre_hook(count)
    return passes


def sides(attacker: Attacker) -> dict[str, Callable[[], Standing]]:
    """What is timed, by name."""
    theirs: dict[str, Callable[[], Standing]] = {
        f"reference {format_radius(eps)}": partial(reference, attacker, eps) for eps in RADII
    }
    ours: dict[str, Callable[[], Standing]] = {
        f"{name}{' ' + format_radius(ONE) if len(radii) == 1 else ''}": partial(suite, attacker, radii, quick=quick)
        for name, quick in (("standard", False), ("quick", True))
        for radii in (RADII, (ONE,))
    }
    return theirs | ours


def ratios(pairs: list[list[Pair]]) -> dict[str, Any]:
    """Time and passes of each suite as a share of the reference's, for each pair in the sum over its models."""
    one = format_radius(ONE)
    found: dict[str, Any] = {"pairs": len(pairs)}
    for name in ("standard", "quick"):
        for key, side, parts in (
            ("all radii", name, [f"reference {format_radius(eps)}" for eps in RADII]),
            ("one radius", f"{name} {one}", [f"reference {one}"]),
        ):
            for unit in ("seconds", "passes"):
                of = [sum(m[side][unit] for m in pair) / sum(m[p][unit] for m in pair for p in parts) for pair in pairs]
                about = {"median": statistics.median(of), "range": [min(of), max(of)]} if of else None
                found[f"{name}, {key}, {unit}"] = about
    return found


def differences(pairs: list[Pair]) -> dict[str, Any]:
    """Numbers of images that the reference breaks in its own pair and a suite does not, and the other way round.

    Also those that the reference breaks in the next pair, from other random starts, and not in this one.
    """
    found: dict[str, Any] = {}
    starts = {}
    for radius in map(format_radius, RADII):
        stands = [pair[f"reference {radius}"]["standing"][radius] for pair in pairs]
        starts[radius] = [exceeding(*both) for both in zip(stands, stands[1:] + stands[:1], strict=True)]
    found["reference, broken from other starts only"] = starts
    for name in ("standard", "quick"):
        missing, gained = {}, {}
        for radius in map(format_radius, RADII):
            both = [[p[side]["standing"][radius] for side in (name, f"reference {radius}")] for p in pairs]
            missing[radius] = [exceeding(mine, theirs) for mine, theirs in both]
            gained[radius] = [exceeding(theirs, mine) for mine, theirs in both]
        found[f"{name}, broken by the reference only"] = missing
        found[f"{name}, broken by it only"] = gained
    return found


def summarize(content: dict[str, Any], whole: int) -> None:
    """Write the summaries of the first `whole` pairs, of each model and of all together, into the document."""
    pairs = [model["pairs"][:whole] for model in content["models"].values()]
    for model, own in zip(content["models"].values(), pairs, strict=True):
        model["summary"] = ratios([[pair] for pair in own]) | differences(own)
    content["summary"] = ratios([list(pair) for pair in zip(*pairs, strict=False)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write, or to go on with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"images": arguments.images, "seed": arguments.seed, "radii": RADII, "steps": STEPS}
    content: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    if content and content["setting"] != json.loads(json.dumps(setting)):
        sys.exit(f"{arguments.out}: measured otherwise; name another file")
    content = {**provenance("cpu"), "setting": setting, "models": content.get("models", {})}
    subjects = {name: subject(Path(run), arguments) for name, _, run in (run.partition("=") for run in arguments.runs)}
    passes = {name: count_passes(model) for name, (model, *_) in subjects.items()}
    for number in range(arguments.pairs):
        for name, (network, images, labels, options) in subjects.items():
            attacker = Attacker(network, images, labels, seed=arguments.seed + number, **options)
            pairs = content["models"].setdefault(name, {"pairs": []})["pairs"]
            pairs += [{}] * (number == len(pairs))
            measure(attacker, pairs[number], passes[name], number, partial(write_json, arguments.out, content), name)
        summarize(content, number + 1)
        write_json(arguments.out, content)
        print(json.dumps(content["summary"], indent=1), flush=True)


def subject(run: Path, arguments: argparse.Namespace) -> tuple[nn.Module, RowView, np.ndarray, dict[str, Any]]:
    """A run's network, its drawn test images and their labels, and what an `Attacker` has to know beside them."""
    target = target_of_folder(run, data=None, device="cpu", progress=False)
    rows = target.rows("test")
    rows = rows[stratified_draw(target.view(target.data, rows)[1], arguments.images, seed=arguments.seed)]
    return target.model.eval(), *target.view(target.data, rows), {"num_classes": len(target.classes), "progress": False}


def measure(
    attacker: Attacker, pair: Pair, passes: list[int], number: int, save: Callable[[], object], name: str
) -> None:
    """Run what is still missing of a pair, in the order of its number, and save after each side."""
    order = list(sides(attacker).items())
    for side, work in order[number % len(order) :] + order[: number % len(order)]:
        if side not in pair:
            start, before = time.process_time(), passes[0]
            standing = work()
            seconds, used = time.process_time() - start, passes[0] - before
            pair[side] = {"seconds": seconds, "passes": used, "standing": standing}
            save()
            print(f"{name} {number} {side}: {seconds:.1f} s, {used:,} passes", flush=True)


if __name__ == "__main__":
    main()
