"""What the finished evaluations of a cell say, image by image, read from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from dpaat.benchmark.cells import CellRun
from dpaat.benchmark.plans import Plans, attacks_of, ranked_attack
from dpaat.errors import UserError
from dpaat.evaluation.cascade import Cascade
from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.metrics import Metrics, classification_metrics, curve_area, one_answer, verdict_metrics
from dpaat.evaluation.plan import Plan
from dpaat.evaluation.replicates import Fold, Predictions, find_fold
from dpaat.evaluation.results import PREDICTIONS_FOLDER, check_results, read_evaluation, require_present
from dpaat.evaluation.specs import CLEAN, AttackSpec
from dpaat.radii import format_radius

METRICS = ("accuracy", "balanced_accuracy", "map")
AREA = "area"
"""The area under the robust balanced accuracy, up to the largest radius."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A run on one set of images.

    Attributes:
        clean: on the images as they are.
        verdicts: the worst case over all attacks that were made on these images, by radius; without precision.
        ranked: under the attack whose outputs are ranked, by radius.
    """

    clean: Fold
    verdicts: Mapping[float, Fold]
    ranked: Mapping[float, Fold]


@dataclass(frozen=True, eq=False)
class CellOutcome:
    """A finished cell.

    Attributes:
        facts: ready for JSON: `seconds` spent, `seconds_per_epoch`, `digest` of the recipe, `checkpoint`, `device`,
            `torch_version`, `fingerprint` of the data, `scores`, what the checks for `masking` found, `one_answer`
            where the model gives but one, and `data_warnings` where there are any.
        main: on the images of the main plan.
        draw: on the smaller draw, attacked by both plans; None without one.
    """

    facts: dict[str, Any]
    main: Outcome
    draw: Outcome | None


def read_outcome(cell: CellRun, plans: Plans) -> CellOutcome:
    """Read the predictions of a finished cell.

    Raises:
        UserError: a result of the plans is missing or cannot be read.
    """
    document = read_evaluation(cell.folder)
    if document is None:
        raise UserError(f"{cell.folder}: has no evaluation")
    require_present(cell.folder, document)
    check_results(cell.folder)
    reader = _Reader(cell, document)
    main = reader.answers(plans.main, plans.main)
    draw = None if plans.draw is None else reader.answers(plans.draw, plans.main, plans.draw)
    facts = {
        "seconds": cell.record.get("seconds", {}),
        "seconds_per_epoch": cell.seconds_per_epoch(),
        "digest": document["recipe"],
        "checkpoint": document["checkpoint"],
        "device": document["device"],
        "torch_version": document["torch_version"],
        "fingerprint": document["data_fingerprint"],
        "scores": scores_of(main),
        "masking": _masking(document),
    }
    clean = main.clean
    if answer := one_answer(np.array(clean.classes)[clean.predicted], clean.labels):
        facts["one_answer"] = answer
    if found := document.get("data_warnings"):
        facts["data_warnings"] = found
    return CellOutcome(facts, main.outcome, None if draw is None else draw.outcome)


@dataclass(frozen=True, eq=False)
class Answers:
    """The predictions behind an `Outcome`."""

    clean: Predictions
    verdicts: Mapping[float, Predictions]
    ranked: Mapping[float, Predictions]

    @property
    def outcome(self) -> Outcome:
        """What they come to."""
        verdicts = {eps: find_fold(run) for eps, run in self.verdicts.items()}
        return Outcome(find_fold(self.clean), verdicts, {eps: find_fold(run) for eps, run in self.ranked.items()})


class _Reader:
    def __init__(self, cell: CellRun, document: Document) -> None:
        self.folder, self.document = cell.folder, document
        self.number = {name: k for k, name in enumerate(document["classes"])}
        counts = {split: sum(classes.values()) for split, classes in cell.info["split_counts"].items()}
        self.sizes = counts | {"all": sum(counts.values())}

    def answers(self, images: Plan, *attackers: Plan) -> Answers:
        """The images of one plan, attacked by several, each of which has all of them among its own."""
        clean = self.predictions(images, CLEAN, 0.0)
        cascade = Cascade(clean.labels, clean.predicted)
        everything = np.arange(len(clean.ids))
        for plan in attackers:
            for spec in attacks_of(plan):
                for eps in plan.radii:
                    predicted = self.frame(plan, spec, eps)["predicted"].reindex(clean.ids).map(self.number)
                    if predicted.isna().any():
                        raise self.lacks(plan, spec, eps)
                    cascade.note(spec.label, everything, predicted.to_numpy(dtype=np.int64), eps)
        ranked = ranked_attack(images)
        return Answers(
            clean,
            {eps: _verdicts(clean, cascade.at(eps)[0]) for eps in images.radii},
            {eps: self.predictions(images, ranked, eps) for eps in images.radii},
        )

    def predictions(self, plan: Plan, spec: AttackSpec, eps: float) -> Predictions:
        frame = self.frame(plan, spec, eps)
        return Predictions(
            ids=frame.index.to_numpy(dtype=str),
            labels=frame["label"].map(self.number).to_numpy(dtype=np.int64, copy=True),
            groups=frame["group"].to_numpy(dtype=str),
            predicted=frame["predicted"].map(self.number).to_numpy(dtype=np.int64, copy=True),
            probabilities=np.stack(frame["probabilities"].to_list()),
            classes=self.document["classes"],
        )

    def frame(self, plan: Plan, spec: AttackSpec, eps: float) -> pd.DataFrame:
        """The predictions of one result, by image id in ascending order."""
        entry = self.entry(plan, spec, eps)
        part = self.folder / PREDICTIONS_FOLDER / Path(entry.get("predictions") or "?").name
        columns = ["id", "label", "group", "predicted", "probabilities"]
        try:
            frame: pd.DataFrame = pq.read_table(part, columns=columns).to_pandas()
        except (OSError, ValueError) as error:
            raise UserError(f"{part}: cannot be read ({error}); delete it and the cell's cell.json") from None
        return frame.set_index("id").sort_index()

    def entry(self, plan: Plan, spec: AttackSpec, eps: float) -> Entry:
        images = min(plan.max_samples or self.sizes[plan.split], self.sizes[plan.split])
        for entry in self.document["results"]:
            if (
                (entry["fingerprint"], entry["split"]) == (self.document["data_fingerprint"], plan.split)
                and entry["n"] == images
                and (entry["attack"], entry["steps"]) == (spec.name, spec.steps)
                and abs(entry["eps"] - eps) < 1e-9
                and entry["norm"] in (None, spec.norm)
            ):
                return dict(entry)
        raise self.lacks(plan, spec, eps)

    def lacks(self, plan: Plan, spec: AttackSpec, eps: float) -> UserError:
        return UserError(
            f"{self.folder}: its evaluation lacks {spec.label} at {eps:g} on the images of split {plan.split!r}; "
            "delete the cell's cell.json to evaluate it again"
        )


def scores_of(answers: Answers) -> dict[str, float | None]:
    """Score one run on one set of images, in the names of `dpaat.benchmark.summary.conditions`."""
    labels, classes = torch.from_numpy(answers.clean.labels), answers.clean.classes

    def ranked(run: Predictions) -> Metrics:
        assert run.probabilities is not None
        return classification_metrics(torch.from_numpy(run.probabilities), labels, classes)

    clean = ranked(answers.clean)
    scores = {"accuracy": clean["accuracy"], "balanced_accuracy": clean["balanced_accuracy"], "map": clean["map"]}
    curve = [clean["balanced_accuracy"]]
    for eps, run in answers.verdicts.items():
        at = format_radius(eps)
        verdicts = verdict_metrics(torch.from_numpy(run.predicted), labels, classes)
        scores[f"accuracy@{at}"] = verdicts["accuracy"]
        scores[f"balanced_accuracy@{at}"] = verdicts["balanced_accuracy"]
        scores[f"map@{at}"] = ranked(answers.ranked[eps])["map"]
        curve.append(verdicts["balanced_accuracy"])
    return scores | {AREA: curve_area([0.0, *answers.verdicts], curve)}


def _verdicts(clean: Predictions, predicted: np.ndarray) -> Predictions:
    return Predictions(clean.ids, clean.labels, clean.groups, predicted, None, clean.classes)


def _masking(document: Document) -> list[dict[str, Any]]:
    """What the masking checks concluded, with their evidence; empty where none was made."""
    return [
        {
            "verdict": entry["verdict"],
            "summary": entry["summary"],
            "evidence": {check["name"]: check["evidence"] for check in entry["checks"] if check["verdict"] != "pass"},
        }
        for entry in document["analyses"].get("masking", [])
        if entry["fingerprint"] == document["data_fingerprint"]
    ]
