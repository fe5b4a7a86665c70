"""How often the intervals of `dpaat.evaluation.statistics` cover the truth, by simulation.

    python benchmarks/interval_coverage.py [--draws 1000] [--out benchmarks/results/interval-coverage.json]

Test sets have the lesions of a HAM10000 test split, class by class, and 15 of dermatofibroma. A simulated model gives
an image K logits: one Gaussian part shared by the images of a lesion, one by both models, one of its own; the mean of
the true class's logit is set so that the recall is exactly what the scenario says. The true average precision, at the
prevalences of the test set, comes from 700,000 simulated images.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy import stats
from scipy.optimize import brentq
from scipy.special import softmax

from dpaat.evaluation.means import recall_interval
from dpaat.evaluation.replicates import Predictions
from dpaat.evaluation.statistics import paired_difference
from dpaat.provenance import provenance

LESIONS = {
    "akiec": {1: 32, 2: 11, 3: 4},
    "bcc": {1: 36, 2: 24, 3: 5, 4: 1},
    "bkl": {1: 86, 2: 44, 3: 12, 4: 1, 5: 1},
    "df": {1: 8, 2: 5, 3: 2},
    "mel": {1: 46, 2: 55, 3: 21, 4: 1},
    "nv": {1: 879, 2: 141, 3: 54, 4: 3, 6: 1},
    "vasc": {1: 12, 2: 6, 4: 1},
}
"""Images per lesion to number of lesions, in the default test split; one lesion of df is added, to make 15."""

CLASSES = tuple(LESIONS)
K = len(CLASSES)
LABELS_OF_LESIONS = np.repeat(np.arange(K), [sum(sizes.values()) for sizes in LESIONS.values()])
SIZES = np.concatenate([np.repeat(list(sizes), list(sizes.values())) for sizes in LESIONS.values()])
GROUPS = np.repeat(np.arange(len(SIZES)), SIZES)
LABELS = LABELS_OF_LESIONS[GROUPS]
N = len(LABELS)
MEMBERS = [np.flatnonzero(k == LABELS) for k in range(K)]
IDS = [np.array([f"{fold}-{i}" for i in range(N)]) for fold in range(3)]

TYPICAL = (0.50, 0.70, 0.55, 0.45, 0.50, 0.93, 0.75)
WEAKER = (0.30, 0.55, 0.40, 0.20, 0.45, 0.90, 0.60)
RARE_LOST = (0.95, 0.50, 0.30, 0.02, 0.70, 0.80, 0.10)
RARE_FOUND = (0.02, 0.30, 0.20, 0.95, 0.10, 0.80, 0.05)
ATTACKED = (0.10, 0.05, 0.05, 0.02, 0.02, 0.95, 0.02)


@dataclass(frozen=True)
class Scenario:
    """Two recipes on the same test images.

    Attributes:
        name: what it stands for.
        first: true recalls of the one.
        second: true recalls of the other.
        lesion: correlation of the logits of two images of one lesion.
        shared: correlation of the two models' logits of one image.
        seeds: runs of each recipe per fold.
        folds: test sets.
        training: standard deviation, per class and run, of what training adds to the true class's mean logit.
        scores: whether there are probabilities, for mean average precision.
    """

    name: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    lesion: float = 0.5
    shared: float = 0.5
    seeds: int = 1
    folds: int = 1
    training: float = 0.0
    scores: bool = True


SCENARIOS = (
    Scenario("typical", TYPICAL, WEAKER),
    Scenario("rare lost, rare found", RARE_LOST, RARE_FOUND),
    Scenario("all 0.02, all 0.95", (0.02,) * K, (0.95,) * K),
    Scenario("attacked, equally good", ATTACKED, ATTACKED, shared=0.8),
    Scenario("typical, independent images", TYPICAL, WEAKER, lesion=0.0, scores=False),
    Scenario("rare lost, strong clusters", RARE_LOST, RARE_FOUND, lesion=0.8, scores=False),
    Scenario("all 0.05, all 0.1", (0.05,) * K, (0.1,) * K, shared=0.8, scores=False),
    Scenario("all 0.5, all 0.8", (0.5,) * K, (0.8,) * K, shared=0.8, scores=False),
    Scenario("all 0.95, equally good", (0.95,) * K, (0.95,) * K, shared=0.8, scores=False),
    Scenario("typical, 3 seeds", TYPICAL, WEAKER, seeds=3, training=0.2, scores=False),
    Scenario("typical, 3 folds, steady training", TYPICAL, WEAKER, folds=3, scores=False),
)
LIMITS = (
    Scenario("all 0.02, all 0.05, alike", (0.02,) * K, (0.05,) * K, shared=0.8, scores=False),
    Scenario("typical, 3 folds, noisy training", TYPICAL, WEAKER, folds=3, training=0.2, scores=False),
    Scenario("typical, 2 seeds", TYPICAL, WEAKER, seeds=2, training=0.2, scores=False),
    Scenario("typical, 2 seeds, very noisy training", TYPICAL, WEAKER, seeds=2, training=0.4, scores=False),
    Scenario("typical, 3 folds of 2 seeds", TYPICAL, WEAKER, folds=3, seeds=2, training=0.2, scores=False),
)
"""Few runs, and where the intervals are known to fall short; reported, and left out of the extremes."""


@cache
def mean_logit(recall: float, training: float) -> float:
    """Mean of the true class's logit, of variance 1 + training^2, that beats K - 1 standard normal ones so often."""
    x = np.linspace(-12, 16, 8001)

    def excess(mean: float) -> float:
        density = stats.norm.pdf(x, mean, np.sqrt(1 + training**2))
        return float(np.trapezoid(density * stats.norm.cdf(x) ** (K - 1), x)) - recall

    return float(brentq(excess, -8, 12))


def means_of(recalls: tuple[float, ...], training: float) -> np.ndarray:
    return np.array([mean_logit(recall, training) for recall in recalls])


@cache
def true_precision(recalls: tuple[float, ...], per_class: int = 100_000) -> float:
    """Mean average precision of a model without end of images, at the test set's prevalences."""
    labels = np.repeat(np.arange(K), per_class)
    logits = np.random.default_rng(0).standard_normal((len(labels), K))
    logits[np.arange(len(labels)), labels] += means_of(recalls, 0.0)[labels]
    probabilities = softmax(logits, axis=1)
    weights = (np.bincount(LABELS) / N / per_class)[labels]
    found = []
    for k in range(K):
        order = np.argsort(-probabilities[:, k])
        hits = weights[order] * (labels[order] == k)
        found.append(np.sum(hits * hits.cumsum() / weights[order].cumsum()) / hits.sum())
    return float(np.mean(found))


def noise(lesion: float, rng: np.random.Generator) -> np.ndarray:
    """Logits of mean 0 and variance 1, `(N, K)`, that the images of a lesion have in common up to a correlation."""
    of_lesions = rng.standard_normal((len(SIZES), K))[GROUPS]
    of_images = rng.standard_normal((N, K))
    return np.asarray(np.sqrt(lesion) * of_lesions + np.sqrt(1 - lesion) * of_images)


def simulate(scenario: Scenario, rng: np.random.Generator) -> tuple[list[Predictions], list[Predictions]]:
    """Draw test sets, and what both recipes predict on them."""
    recipes: tuple[list[Predictions], list[Predictions]] = ([], [])
    for fold in range(scenario.folds):
        common = noise(scenario.lesion, rng)
        for runs, recalls in zip(recipes, (scenario.first, scenario.second), strict=True):
            for _ in range(scenario.seeds):
                means = means_of(recalls, scenario.training) + scenario.training * rng.standard_normal(K)
                logits = np.sqrt(scenario.shared) * common
                logits += np.sqrt(1 - scenario.shared) * noise(scenario.lesion, rng)
                logits[np.arange(N), LABELS] += means[LABELS]
                probabilities = softmax(logits, axis=1) if scenario.scores else None
                groups = GROUPS + fold * len(SIZES)
                runs.append(Predictions(IDS[fold], LABELS, groups, logits.argmax(axis=1), probabilities, CLASSES))
    return recipes


def covers(interval: Sequence[float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def measure(scenario: Scenario, draws: int, seed: int) -> dict[str, Any]:
    """Find the coverage of every interval in one scenario."""
    rng = np.random.default_rng(seed)
    sides = {"first": scenario.first, "second": scenario.second}
    truth = {
        side: {
            "balanced_accuracy": float(np.mean(recalls)),
            "accuracy": float(np.mean(np.array(recalls)[LABELS])),
        }
        | ({"map": true_precision(recalls)} if scenario.scores else {})
        for side, recalls in sides.items()
    }
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for _ in range(draws):
        recipes = simulate(scenario, rng)
        for metric, found in paired_difference(*recipes).items():
            difference = truth["first"][metric] - truth["second"][metric]
            hits[metric, "first"].append(covers(found["first"]["interval"], truth["first"][metric]))
            hits[metric, "second"].append(covers(found["second"]["interval"], truth["second"][metric]))
            hits[metric, "difference"].append(covers(found["interval"], difference))
        if len(recipes[0]) > 1:
            continue
        for runs, recalls in zip(recipes, sides.values(), strict=True):
            correct = runs[0].predicted == LABELS
            for k, recall in enumerate(recalls):
                interval = recall_interval(correct[MEMBERS[k]], GROUPS[MEMBERS[k]])
                hits["recall", f"{CLASSES[k]} at {recall:g}"].append(covers(interval, recall))
    itself = paired_difference(recipes[0], recipes[0])
    assert all(found["interval"] == [0.0, 0.0] and found["p_value"] == 1 for found in itself.values())
    coverage: dict[str, dict[str, float]] = defaultdict(dict)
    for (metric, what), outcomes in hits.items():
        coverage[metric][what] = float(np.mean(outcomes))
    return {"scenario": asdict(scenario), "draws": draws, "truth": truth, "coverage": coverage}


def line(row: dict[str, Any]) -> str:
    """Format one row of the table, in percent: first recipe, second, difference; and the worst single recall."""
    parts = [f"{row['scenario']['name']:36}"]
    for metric in ("balanced_accuracy", "accuracy", "map"):
        found = row["coverage"].get(metric)
        parts.append("  ".join(f"{100 * share:5.1f}" for share in found.values()) if found else " " * 19)
    recalls = row["coverage"].get("recall")
    parts.append(f"{100 * min(recalls.values()):5.1f}" if recalls else "")
    return " | ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--draws", type=int, default=1000, help="test sets per scenario, twice as many where there are no scores"
    )
    parser.add_argument("--only", nargs="+", default=[], help="names of scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    start = time.perf_counter()
    print(f"{'coverage of 95 % intervals (%)':36} | {'balanced accuracy':19} | {'accuracy':19} | {'mAP':19} | recall")
    rows = []
    for i, scenario in enumerate(SCENARIOS + LIMITS):
        if arguments.only and scenario.name not in arguments.only:
            continue
        draws = arguments.draws if scenario.scores else 2 * arguments.draws
        rows.append(measure(scenario, draws, arguments.seed + i))
        print(line(rows[-1]), flush=True)
    limits = {scenario.name for scenario in LIMITS}
    counted = [row for row in rows if row["scenario"]["name"] not in limits]
    extremes = {}
    for metric in ("balanced_accuracy", "accuracy", "map", "recall"):
        shares = [share for row in counted for share in row["coverage"].get(metric, {}).values()]
        if not shares:
            continue
        extremes[metric] = {"min": min(shares), "max": max(shares)}
        print(f"{metric}: {100 * min(shares):.1f} to {100 * max(shares):.1f} %")
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s")
    if arguments.out:
        result = {
            **provenance("cpu"),
            "numpy_version": np.__version__,
            "scipy_version": scipy.__version__,
            "command": shlex.join(["python", *sys.argv]),
            "seed": arguments.seed,
            "seconds": round(seconds),
            "coverage": extremes,
            "scenarios": counted,
            "limits": [row for row in rows if row not in counted],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
