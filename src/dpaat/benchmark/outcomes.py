"""Outcomes of a cell, image by image, read from its predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from dpaat.benchmark.contrasts import combine
from dpaat.benchmark.jobs import JobRun
from dpaat.benchmark.plans import attacks_of, ranked_attack
from dpaat.errors import UserError
from dpaat.evaluation.cascade import Cascade
from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.labels import named
from dpaat.evaluation.metrics import area_weights, one_answer
from dpaat.evaluation.replicates import Fold, Predictions, find_fold, find_moments, merge_seeds
from dpaat.evaluation.results import check_results, read_evaluation, require_present
from dpaat.evaluation.specs import CLEAN, AttackSpec
from dpaat.evaluation.stored import read_predictions
from dpaat.measurement import EvaluateConfig
from dpaat.radii import format_radius

METRICS = ("accuracy", "balanced_accuracy", "map")
REMEDY = "delete it and the cell's cell.json"
AREA = "area"
"""The area under the robust balanced accuracy, up to the largest radius."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A run on one set of images."""

    clean: Fold
    verdicts: Mapping[float, Fold]  # the worst case over all attacks made on these images, by radius; without precision
    ranked: Mapping[float, Fold]  # under the attack whose outputs are ranked, by radius


@dataclass(frozen=True, eq=False)
class JobOutcome:
    """A finished cell: on the images of the main plan, and on the smaller draw, attacked by both plans.

    `facts` is ready for JSON: `seconds` spent, `seconds_per_epoch`, `digest` of the recipe, `checkpoint`, `device`,
    `torch_version`, `fingerprint` of the data, `scores`, what the checks for `masking` found, `one_answer` where
    the model gives but one, and `data_warnings` where there are any.
    """

    facts: dict[str, Any]
    main: Outcome
    draw: Outcome | None


def read_outcome(run: JobRun) -> JobOutcome:
    """Read the predictions of a finished cell; raises UserError where a result is missing or cannot be read."""
    document, plans = read_evaluation(run.folder), run.cell.plans
    if document is None:
        raise UserError(f"{run.folder}: has no evaluation")
    require_present(run.folder, document)
    check_results(run.folder)
    reader = _Reader(run, document)
    main = reader.outcome(plans.main, plans.main)
    draw = None if plans.draw is None else reader.outcome(plans.draw, plans.main, plans.draw)
    facts = {
        "seconds": run.record.get("seconds", {}),
        "seconds_per_epoch": run.seconds_per_epoch(),
        "digest": document["recipe"],
        "checkpoint": document["checkpoint"],
        "device": document["device"],
        "torch_version": document["torch_version"],
        "fingerprint": document["data_fingerprint"],
        "scores": scores_of(main, plans.main.radii),
        "masking": reader.masking(),
    }
    clean = main.clean.images
    if answer := one_answer(*(named(each, clean.classes) for each in (clean.predicted, clean.labels))):
        facts["one_answer"] = answer
    if found := document.get("data_warnings"):
        facts["data_warnings"] = found
    return JobOutcome(facts, main, draw)


class _Reader:
    def __init__(self, run: JobRun, document: Document) -> None:
        self.folder, self.plans, self.document = run.folder, run.cell.plans, document
        counts = {split: sum(classes.values()) for split, classes in run.info["split_counts"].items()}
        counts |= run.info.get("split_sizes") or {}
        self.sizes = counts | {"all": sum(counts.values())}

    def outcome(self, images: EvaluateConfig, *attackers: EvaluateConfig) -> Outcome:
        """The images of one plan, attacked by several, each of which has all of them among its own."""
        clean = self.predictions(images, CLEAN, 0.0)
        cascade = Cascade(clean.labels, clean.predicted)
        everything = np.arange(len(clean.ids))
        for plan in attackers:
            for spec in attacks_of(plan):
                for eps in plan.radii:
                    found = self.predictions(plan, spec, eps)
                    places = pd.Index(found.ids).get_indexer(pd.Index(clean.ids))
                    if (places < 0).any():
                        raise self.lacks(plan, spec, eps)
                    cascade.note(spec.label, everything, found.predicted[places], eps)
        ranked = ranked_attack(images)
        return Outcome(
            find_fold(clean),
            {eps: find_fold(replace(clean, predicted=cascade.at(eps)[0], probabilities=None)) for eps in images.radii},
            {eps: find_fold(self.predictions(images, ranked, eps)) for eps in images.radii},
        )

    def predictions(self, plan: EvaluateConfig, spec: AttackSpec, eps: float) -> Predictions:
        return read_predictions(self.folder, self.document, self.entry(plan, spec, eps), remedy=REMEDY)

    def entry(self, plan: EvaluateConfig, spec: AttackSpec, eps: float) -> Entry:
        images = self.count(plan)
        for entry in self.document["results"]:
            if (
                (entry["fingerprint"], entry["split"]) == (self.document["data_fingerprint"], plan.split)
                and entry["n"] == images
                and (entry["attack"], entry["steps"]) == (spec.name, spec.steps)
                and entry.get("budgets") in (None, dict(spec.budgets))
                and abs(entry["eps"] - eps) < 1e-9
                and entry["norm"] in (None, spec.norm)
                and self.is_of(plan, entry)
            ):
                return dict(entry)
        raise self.lacks(plan, spec, eps)

    def masking(self) -> list[dict[str, Any]]:
        """What the masking checks of the cell's plans concluded, with their evidence; empty where none was made."""
        plans, found = [plan for plan in self.plans.all if "masking" in plan.suites], []
        for entry in self.document["analyses"].get("masking", []):
            own = entry["fingerprint"] == self.document["data_fingerprint"]
            if own and any(self.checked_by(plan, entry) for plan in plans):
                evidence = {check["name"]: check["evidence"] for check in entry["checks"] if check["verdict"] != "pass"}
                found.append({"verdict": entry["verdict"], "summary": entry["summary"], "evidence": evidence})
        return found

    def checked_by(self, plan: EvaluateConfig, entry: Entry) -> bool:
        about = (plan.split, self.count(plan), plan.norm)
        return (entry["split"], entry["n"], entry.get("norm", plan.norm)) == about and self.is_of(plan, entry)

    def count(self, plan: EvaluateConfig) -> int:
        """How many images a plan is about."""
        size = int(self.sizes[plan.split])
        return min(plan.max_samples or size, size)

    def is_of(self, plan: EvaluateConfig, entry: Entry) -> bool:
        """Whether an entry is about a plan's draw, and computed with its seed, batches and precision."""
        draw = plan.seed if self.count(plan) < self.sizes[plan.split] else 0
        if entry.get("draw", draw) != draw:
            return False
        # Of two plans about the same images, the later may have made an attack anew.
        own = [each for each in self.plans.all if (each.split, self.count(each)) == (plan.split, self.count(plan))]
        return entry.get("norm") is None or any(_has_settings(entry, each) for each in (plan, *own))

    def lacks(self, plan: EvaluateConfig, spec: AttackSpec, eps: float) -> UserError:
        return UserError(
            f"{self.folder}: its evaluation lacks {spec.label} at {eps:g} on the images of split {plan.split!r}; "
            "delete the cell's cell.json to evaluate it again"
        )


def _has_settings(entry: Entry, plan: EvaluateConfig) -> bool:
    """Whether an entry was computed with a plan's seed, batches and precision; what it does not say counts as so."""
    settings: dict[str, Any] = {"seed": plan.seed, "batch_size": plan.batch_size}
    if plan.precision != "auto":
        settings["precision"] = plan.precision
    return all(entry.get(name, now) == now for name, now in settings.items())


@dataclass(frozen=True)
class Condition:
    """Outcomes of one recipe under one condition, one per set of images, and what their metrics are called."""

    folds: list[Fold]
    names: dict[str, str]


def conditions(outcomes: Sequence[Outcome], radii: Sequence[float]) -> list[Condition]:
    """Take a recipe's runs as clean images, verdicts and ranked outputs per radius, and the area under the curve.

    Metrics are called "accuracy", "balanced_accuracy" and "map" on clean images, "accuracy@2/255" under attack, and
    "area" for the area under the robust balanced accuracy; with several labels an image "auroc" stands beside "map".
    Outcomes are one per fold and seed, in the same order for all recipes; radii ascend from above 0.
    """
    clean = merge_seeds([outcome.clean for outcome in outcomes])
    ranks = ("map",) if clean[0].resampled is None else ("map", "auroc")
    found = [Condition(clean, {name: name for name in (*METRICS[:2], *ranks)})]
    curve = [clean]
    for eps in radii:
        at = f"@{format_radius(eps)}"
        verdicts = merge_seeds([outcome.verdicts[eps] for outcome in outcomes])
        ranked = merge_seeds([outcome.ranked[eps] for outcome in outcomes])
        curve.append(verdicts)
        found.append(Condition(verdicts, {name: name + at for name in METRICS[:2]}))
        found.append(Condition(ranked, {name: name + at for name in ranks}))
    area = combine(list(zip(area_weights([0.0, *radii]), curve, strict=True)))
    return [*found, Condition(area, {"balanced_accuracy": AREA})]


def scores_of(outcome: Outcome, radii: Sequence[float]) -> dict[str, float]:
    """Score one run on one set of images, in the names of `conditions`."""
    return {
        name: find_moments(condition.folds, paired=False)[metric].value
        for condition in conditions([outcome], radii)
        for metric, name in condition.names.items()
    }
