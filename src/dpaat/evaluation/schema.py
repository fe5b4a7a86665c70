"""The parts of `evaluation.json` that other commands rely on, checked when it is read."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from dpaat.validation import Int, Share, many, maybe, misfit, named, record


def _whole(metrics: dict[str, Any]) -> dict[str, Any]:
    recall, support = metrics["per_class_recall"], metrics["support"]
    if recall.keys() != support.keys() or any(recall[name] is None for name, n in support.items() if n):
        raise ValueError
    return metrics


def _even(curve: dict[str, Any]) -> dict[str, Any]:
    if len({len(curve[name]) for name in ("eps", "accuracy", "balanced_accuracy")}) > 1:
        raise ValueError
    return curve


def _each(conditions: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if "clean" not in conditions or len({len(points) for points in conditions.values()}) > 1:
        raise ValueError
    return conditions


Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Score = float | None
METRICS: Any = Annotated[
    record(
        **dict.fromkeys(("accuracy", "balanced_accuracy"), Share),
        **dict.fromkeys(("map", "auroc"), Share | None),
        per_class_recall=dict[str, Share | None],
        support=dict[str, Int],
    ),
    AfterValidator(_whole),
]
IMAGES = {
    "data": str,
    "fingerprint": str,
    "split": str,
    "n": Annotated[Int, Field(ge=0)],
    **dict.fromkeys(("draw", "learned"), maybe(Annotated[Int, Field(ge=0)])),
    "checkpoint": maybe(str),
    "left_out": maybe(record(learned=Int, related=Int, by=str)),
}
SUBJECT = record(**IMAGES, norm=maybe(str))
RESULT = record(
    **IMAGES,
    **dict.fromkeys(("attack", "label", "eps_text"), str),
    norm=str | None,
    steps=Int | None,
    eps=Annotated[float, Field(ge=0, lt=1e6)],
    source=maybe(str | None),
    budgets=maybe(dict[str, Int] | None),
    **dict.fromkeys(("predictions", "one_answer"), maybe(str)),
    metrics=METRICS,
    intervals=record(balanced_accuracy=maybe(Interval), map=maybe(Interval)) | None,
)
CONSTANT = record(**IMAGES, norm=maybe(str), predicts=str, metrics=METRICS)
EVALUATION = record(results=many(RESULT), constant=many(CONSTANT), analyses=maybe(named(many(SUBJECT))))
POINT = record(
    task=str,
    specificity_wanted=float,
    **dict.fromkeys(("sensitivity", "specificity"), Score),
    **dict.fromkeys(("sensitivity_interval", "specificity_interval"), list[float] | None),
)
CURVE = record(
    **dict.fromkeys(("eps", "accuracy", "balanced_accuracy"), list[float]),
    **dict.fromkeys(("area", "accuracy_area", "balanced_accuracy_area"), float),
    spared=maybe(dict[str, Int]),
    budgets=maybe(dict[str, Int]),
)
CALIBRATED = record(ece=Score, ece_scaled=Score, temperature=float)
CORRUPTIONS = record(
    balanced_accuracy=dict[str, float | list[Any]],
    balanced_error=record(clean_error=float, mean_corruption_error=float),
)
NOISE = record(sigma=float, accuracy=Share, abstains=Share, voted=Share, certified=list[Share], attacked=list[Share])
ANALYSES = record(
    curve=maybe(many(CURVE, AfterValidator(_even))),
    quick=maybe(many(CURVE, AfterValidator(_even))),
    certified=maybe(many(record(eps=list[float], draws=Int, alpha=float, noise=many(NOISE)))),
    calibration=maybe(many(record(conditions=named(CALIBRATED, Field(min_length=1))))),
    operating_points=maybe(many(record(conditions=named(many(POINT), AfterValidator(_each))))),
    masking=maybe(many(record(summary=str, checks=many(record(name=str, verdict=str, evidence=str))))),
    corruptions=maybe(many(CORRUPTIONS)),
)
COMPARED = record(
    data_fingerprint=str,
    classes=list[str],
    **dict.fromkeys(("recipe", "fold", "method", "model"), str | None),
    training_seed=Int | None,
    data_warnings=maybe(list[str]),
)
"""Top-level fields that comparing runs needs on top."""


def damage(document: dict[str, Any]) -> str | None:
    """The first place among the results that cannot be what an evaluation wrote; None if there is none."""
    return misfit(document, EVALUATION) or next(_contradictions(document), None)


def _contradictions(document: dict[str, Any]) -> Iterator[str]:
    """Entries of the right types that do not fit each other."""
    entries = [(kind, number, e) for kind in ("results", "constant") for number, e in enumerate(document[kind])]
    for kind, number, entry in entries:
        if entry["metrics"]["support"].keys() != entries[0][2]["metrics"]["support"].keys():
            yield f"{kind}[{number}].metrics"
        if entry.get("checkpoint", document.get("checkpoint")) != document.get("checkpoint"):
            yield f"{kind}[{number}].checkpoint"
