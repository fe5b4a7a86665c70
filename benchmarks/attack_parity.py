"""Whether our attacks get as far as the same attacks of five other libraries.

    python benchmarks/attack_parity.py [--classes 10 7] [--attacks pgd apgd-t ...] [--out FILE]

Needs an environment of its own, see benchmarks/README.md. The same network, images, radii and budgets for all; an
image counts only if it is misclassified in single precision and lies inside ball and box. Ends with exit code 1 where
our robust accuracy is more than 1.0 point above a counterpart's and the paired McNemar test gives p <= 0.05.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpaat.provenance import provenance
from dpaat.storage import write_json
from parity_subject import BATCH, EPOCHS, IMAGES, SIZE, TRAINING_EPS, Subject, compare, make_subject, seed_everything
from parity_subject import standing as judge

if TYPE_CHECKING:
    from parity_attacks import Run

PEERS = {
    "torchattacks": "torchattacks",
    "adversarial-robustness-toolbox": "art",
    "foolbox": "foolbox",
    "adv-lib": "adv_lib",
    "secml-torch": "secmlt",
}
RADII = {"linf": (0.11, 0.14, 0.17), "l2": (0.85, 1.05, 1.25)}
COLUMNS = "{:20} {:4} {:>5} {:>3}  {:16} {:>6} {:>6} {:>6} {:>9} {:>7} {:>7}  {}"


def timed(run: Run, subject: Subject, eps: float, norm: str) -> tuple[Tensor, float]:
    """Adversarial images of one attack, and the seconds of the processor that it took."""
    seed_everything(subject.seed)
    start = time.process_time()
    x_adv = run(subject, eps, norm).detach()
    return x_adv, time.process_time() - start


def rows(subject: Subject, attacks: list[str]) -> Iterator[dict[str, Any]]:
    """Compare every attack with every counterpart at every radius; ours runs once for all its counterparts."""
    from parity_attacks import COUNTERPARTS, MINIMAL, OURS

    ours = cache(lambda attack, eps, norm: timed(OURS[attack], subject, eps, norm))
    for peer in COUNTERPARTS:
        if peer.attack not in attacks:
            continue
        for norm in peer.norms:
            minimal = None
            for eps in RADII[norm]:
                row = {
                    "attack": peer.attack,
                    "norm": norm,
                    "eps": eps,
                    "classes": subject.classes,
                    "counterpart": peer.library,
                }
                our_images, our_seconds = ours(peer.attack, inf if peer.attack in MINIMAL else eps, norm)
                try:
                    found = minimal or timed(peer.run, subject, inf if peer.minimal else eps, norm)
                except Exception as error:  # whatever a library stumbles over is a result
                    yield {**row, "cannot": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]}
                    continue
                minimal = found if peer.minimal else None
                verdicts = [judge(subject, images, eps, norm) for images in (our_images, found[0])]
                yield {**row, **compare(*verdicts), "our_seconds": our_seconds, "their_seconds": found[1]}


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    start = (row["attack"], row["norm"], f"{row['eps']:g}", row["classes"], row["counterpart"])
    if "cannot" in row:
        return COLUMNS.format(*start, *["-"] * 6, f"cannot: {row['cannot']}")
    numbers = (f"{row[name]:.1f}" for name in ("ours", "theirs", "difference"))
    seconds = (f"{row[name]:.2f}" for name in ("our_seconds", "their_seconds"))
    return COLUMNS.format(*start, *numbers, f"{row['p']:.2g}", *seconds, "WEAKER" if row["violation"] else "ok")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 7], help="digits below this number are used")
    parser.add_argument("--attacks", nargs="+", help="only these attacks of ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    absent = [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]
    if absent:
        parser.error(f"not installed here: {', '.join(absent)}; benchmarks/README.md says how")
    from parity_attacks import BUDGETS, OURS

    warnings.simplefilter("ignore")  # the libraries' own, of divisions by zero and the like
    torch.set_num_threads(1)
    start = time.perf_counter()
    results, clean = [], {}
    print(COLUMNS.format("attack", "norm", "eps", "K", "counterpart", "ours", "theirs", "diff", "p", "s", "s", ""))
    for classes in arguments.classes:
        subject = make_subject(classes, arguments.seed)
        clean[classes] = 100 - 100 * (~judge(subject, subject.x, 0.0, "linf")).float().mean().item()
        print(f"K = {classes}: clean accuracy {clean[classes]:.1f} % of {len(subject.x)} images", flush=True)
        for row in rows(subject, arguments.attacks or list(OURS)):
            print(line(row), flush=True)
            results.append(row)
    violations = sum(row.get("violation", False) for row in results)
    cannot = sum("cannot" in row for row in results)
    seconds = time.perf_counter() - start
    if arguments.out:
        content = {
            **provenance("cpu"),
            "command": shlex.join(["python", *sys.argv]),
            "seed": arguments.seed,
            "versions": {name: version(name) for name in (*PEERS, "torch", "numpy", "scipy", "scikit-learn")},
            "setting": {
                "data": "scikit-learn digits without their frame, resized bilinearly; "
                "the attacked images are among those trained on",
                "images": IMAGES,
                "image_size": SIZE,
                "training": f"{EPOCHS} epochs in batches of {BATCH} on PGD images of Linf radius {TRAINING_EPS:g}",
                "clean_accuracy": clean,
                "budgets": BUDGETS,
            },
            "seconds": seconds,
            "comparisons": len(results),
            "violations": violations,
            "cannot": cannot,
            "results": results,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, content)
    print(f"comparisons={len(results)} violations={violations} cannot={cannot} seconds={seconds:.0f}")
    return int(violations > 0)


if __name__ == "__main__":
    raise SystemExit(main())
