"""The parts of `evaluation.json` that other commands rely on, checked when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dpaat.shapes import Maybe, misfit

NUMBER = int | float
POPULATION = {"data": str, "fingerprint": str, "split": str, "n": int}
SUBJECT = POPULATION | {
    "norm": Maybe(str, absent=True),
    "checkpoint": Maybe(str, absent=True),
    "left_out": Maybe({"learned": int, "related": int, "by": str}, absent=True),
}
SCORES = ("accuracy", "balanced_accuracy", "map", "auroc")
METRICS = {
    "accuracy": NUMBER,
    "balanced_accuracy": NUMBER,
    "map": Maybe(NUMBER),
    "auroc": Maybe(NUMBER),
    "per_class_recall": {str: Maybe(NUMBER)},
    "support": {str: int},
}
RESULT = SUBJECT | {
    "attack": str,
    "label": str,
    "norm": Maybe(str),
    "steps": Maybe(int),
    "eps": NUMBER,
    "eps_text": str,
    "predictions": Maybe(str, absent=True),
    "one_answer": Maybe(str, absent=True),
    "metrics": METRICS,
    "intervals": Maybe({"balanced_accuracy": Maybe([NUMBER], absent=True), "map": Maybe([NUMBER], absent=True)}),
}
CONSTANT = SUBJECT | {"predicts": str, "metrics": METRICS}
POINT = {
    "task": str,
    "specificity_wanted": NUMBER,
    "sensitivity": Maybe(NUMBER),
    "sensitivity_interval": Maybe([NUMBER]),
    "specificity": Maybe(NUMBER),
    "specificity_interval": Maybe([NUMBER]),
}
ANALYSES: dict[str, dict[str, Any]] = {
    "curve": {
        "eps": [NUMBER],
        "accuracy": [NUMBER],
        "balanced_accuracy": [NUMBER],
        "area": NUMBER,
        "accuracy_area": NUMBER,
        "balanced_accuracy_area": NUMBER,
    },
    "calibration": {"conditions": {str: {"ece": Maybe(NUMBER), "ece_scaled": Maybe(NUMBER), "temperature": NUMBER}}},
    "operating_points": {"conditions": {str: [POINT]}},
    "masking": {"summary": str, "checks": [{"name": str, "verdict": str, "evidence": str}]},
    "corruptions": {
        "balanced_accuracy": {str: NUMBER | list},
        "balanced_error": {"clean_error": NUMBER, "mean_corruption_error": NUMBER},
    },
}
COMPARED = {
    "data_fingerprint": str,
    "classes": [str],
    "recipe": Maybe(str),
    "fold": Maybe(str),
    "training_seed": Maybe(int),
    "method": Maybe(str),
    "model": Maybe(str),
    "data_warnings": Maybe([str], absent=True),
}
"""Top-level fields that comparing runs needs on top."""


def damage(document: dict[str, Any]) -> str | None:
    """The first place among the results that cannot be what an evaluation wrote; None if there is none."""
    shape = {"results": [RESULT], "constant": [CONSTANT], "analyses": Maybe({str: [SUBJECT]}, absent=True)}
    return misfit(document, shape) or next(_contradictions(document), None)


def damage_in_analyses(document: dict[str, Any]) -> str | None:
    """The same for what was concluded from the results."""
    analyses = document.get("analyses") or {}
    shape = {name: Maybe([fields], absent=True) for name, fields in ANALYSES.items()}
    return misfit(analyses, shape, "analyses") or next(_uneven(analyses), None)


def _contradictions(document: dict[str, Any]) -> Iterator[str]:
    """Places of the right types that do not fit each other."""
    entries = [(kind, number, e) for kind in ("results", "constant") for number, e in enumerate(document[kind])]
    classes = set(entries[0][2]["metrics"]["support"]) if entries else set()
    for kind, number, entry in entries:
        metrics = entry["metrics"]
        if set(metrics["support"]) != classes or set(metrics["per_class_recall"]) != classes:
            yield f"{kind}[{number}].metrics"
            continue
        if any(metrics["per_class_recall"][name] is None for name in classes if metrics["support"][name]):
            yield f"{kind}[{number}].metrics.per_class_recall"
        scores = [*metrics["per_class_recall"].values(), *(metrics[name] for name in SCORES)]
        if not all(score is None or 0 <= score <= 1 for score in scores):
            yield f"{kind}[{number}].metrics"
        intervals = entry.get("intervals") or {}
        if any(found is not None and len(found) != 2 for found in map(intervals.get, ("balanced_accuracy", "map"))):
            yield f"{kind}[{number}].intervals"
        if entry.get("checkpoint", document.get("checkpoint")) != document.get("checkpoint"):
            yield f"{kind}[{number}].checkpoint"
        if entry["n"] < 0 or not 0 <= entry.get("eps", 0) < 1e6:
            yield f"{kind}[{number}]"


def _uneven(analyses: dict[str, Any]) -> Iterator[str]:
    """Lists that should be of one length, and conditions that should be there."""
    for number, entry in enumerate(analyses.get("curve") or []):
        if len({len(entry[name]) for name in ("eps", "accuracy", "balanced_accuracy")}) > 1:
            yield f"analyses.curve[{number}]"
    for number, entry in enumerate(analyses.get("calibration") or []):
        if not entry["conditions"]:
            yield f"analyses.calibration[{number}].conditions"
    for number, entry in enumerate(analyses.get("operating_points") or []):
        points = entry["conditions"]
        if "clean" not in points or len({len(each) for each in points.values()}) > 1:
            yield f"analyses.operating_points[{number}].conditions"
