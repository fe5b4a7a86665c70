"""The parts of `evaluation.json` that other commands rely on, checked when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from dpaat.validation import Int, Share, misfit

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _LeftOut(TypedDict):
    learned: Int
    related: Int
    by: str


class _Images(TypedDict):
    data: str
    fingerprint: str
    split: str
    n: Count
    checkpoint: NotRequired[str | None]
    left_out: NotRequired[_LeftOut | None]


class _Metrics(TypedDict):
    accuracy: Share
    balanced_accuracy: Share
    map: Share | None
    auroc: Share | None
    per_class_recall: dict[str, Share | None]
    support: dict[str, Int]


def _whole(metrics: _Metrics) -> _Metrics:
    recall = metrics["per_class_recall"]
    if recall.keys() != metrics["support"].keys() or any(recall[k] is None for k, n in metrics["support"].items() if n):
        raise ValueError
    return metrics


class _Intervals(TypedDict):
    balanced_accuracy: NotRequired[Interval | None]
    map: NotRequired[Interval | None]


class _Subject(_Images):
    norm: NotRequired[str | None]


class _Constant(_Subject):
    predicts: str
    metrics: Annotated[_Metrics, AfterValidator(_whole)]


class _Result(_Images):
    attack: str
    label: str
    norm: str | None
    steps: Int | None
    eps: Annotated[float, Field(ge=0, lt=1e6)]
    eps_text: str
    predictions: NotRequired[str | None]
    one_answer: NotRequired[str | None]
    metrics: Annotated[_Metrics, AfterValidator(_whole)]
    intervals: _Intervals | None


class _Evaluation(TypedDict):
    results: list[_Result]
    constant: list[_Constant]
    analyses: NotRequired[dict[str, list[_Subject]] | None]


class Compared(TypedDict):
    """Top-level fields that comparing runs needs on top."""

    data_fingerprint: str
    classes: list[str]
    recipe: str | None
    fold: str | None
    training_seed: Int | None
    method: str | None
    model: str | None
    data_warnings: NotRequired[list[str] | None]


class _Curve(TypedDict):
    eps: list[float]
    accuracy: list[float]
    balanced_accuracy: list[float]
    area: float
    accuracy_area: float
    balanced_accuracy_area: float


class _Calibrated(TypedDict):
    ece: float | None
    ece_scaled: float | None
    temperature: float


class _Calibration(TypedDict):
    conditions: Annotated[dict[str, _Calibrated], Field(min_length=1)]


class _Point(TypedDict):
    task: str
    specificity_wanted: float
    sensitivity: float | None
    sensitivity_interval: list[float] | None
    specificity: float | None
    specificity_interval: list[float] | None


class _Points(TypedDict):
    conditions: dict[str, list[_Point]]


class _Check(TypedDict):
    name: str
    verdict: str
    evidence: str


class _Masking(TypedDict):
    summary: str
    checks: list[_Check]


class _BalancedError(TypedDict):
    clean_error: float
    mean_corruption_error: float


class _Corruptions(TypedDict):
    balanced_accuracy: dict[str, float | list[Any]]
    balanced_error: _BalancedError


def _even(curve: _Curve) -> _Curve:
    if len({len(curve["eps"]), len(curve["accuracy"]), len(curve["balanced_accuracy"])}) > 1:
        raise ValueError
    return curve


def _each(points: _Points) -> _Points:
    found = points["conditions"]
    if "clean" not in found or len({len(each) for each in found.values()}) > 1:
        raise ValueError
    return points


class _Analyses(TypedDict):
    curve: NotRequired[list[Annotated[_Curve, AfterValidator(_even)]] | None]
    calibration: NotRequired[list[_Calibration] | None]
    operating_points: NotRequired[list[Annotated[_Points, AfterValidator(_each)]] | None]
    masking: NotRequired[list[_Masking] | None]
    corruptions: NotRequired[list[_Corruptions] | None]


def damage(document: dict[str, Any]) -> str | None:
    """The first place among the results that cannot be what an evaluation wrote; None if there is none."""
    return misfit(document, _Evaluation) or next(_contradictions(document), None)


def damage_in_analyses(document: dict[str, Any]) -> str | None:
    """The same for what was concluded from the results."""
    where = misfit(document.get("analyses") or {}, _Analyses)
    return where and f"analyses.{where}"


def _contradictions(document: dict[str, Any]) -> Iterator[str]:
    """Entries of the right types that do not fit each other."""
    entries = [(kind, number, e) for kind in ("results", "constant") for number, e in enumerate(document[kind])]
    for kind, number, entry in entries:
        if entry["metrics"]["support"].keys() != entries[0][2]["metrics"]["support"].keys():
            yield f"{kind}[{number}].metrics"
        if entry.get("checkpoint", document.get("checkpoint")) != document.get("checkpoint"):
            yield f"{kind}[{number}].checkpoint"
