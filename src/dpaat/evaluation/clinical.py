"""Clinical analyses: thresholds, calibration and subgroups, clean and under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dpaat.evaluation.calibration import calibration, fit_temperature, log_probabilities
from dpaat.evaluation.operating_points import choose_thresholds, operating_points
from dpaat.evaluation.specs import WORST_CASE
from dpaat.evaluation.subgroups import subgroups
from dpaat.evaluation.suite import Result
from dpaat.radii import format_radius

SCORED_BY = "apgd-ce"
"""The attack whose outputs on all images are ranked: outputs of several attacks cannot be."""


def clinical_analyses(
    results: Sequence[Result],
    *,
    validation: tuple[np.ndarray, np.ndarray] | None,
    labels: np.ndarray,
    groups: np.ndarray,
    frame: pd.DataFrame,
    tasks: Mapping[str, Sequence[str]],
    classes: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Conclude from the results of the standard suite.

    Args:
        results: the suite's.
        validation: clean logits `(M, K)` and labels `(M,)` of the model's own validation images, on which thresholds
            and temperature are chosen; None where they are not at hand, which leaves both out.
        labels: of the evaluated images `(N,)`.
        groups: lesion or patient of each `(N,)`.
        frame: what is known about each image, see `subgroups`.
        tasks: binary questions, name to positive classes.
        classes: K class names.

    Returns "subgroups" for clean images and the worst case at each radius; "calibration" and "operating_points" for
    clean images and APGD-CE at each radius. Each maps a condition, such as "clean" or "8/255", to its values.
    """
    verdicts = {_condition(r): r for r in results if r.spec.name in ("clean", WORST_CASE)}
    found: dict[str, dict[str, Any]] = {
        "subgroups": {
            name: subgroups(frame, result.predicted == labels, labels, groups, classes)
            for name, result in verdicts.items()
        }
    }
    if validation is None:
        return found
    logits, answers = validation
    temperature = fit_temperature(logits, answers)
    known = {name: chosen for name, chosen in tasks.items() if set(chosen) < set(classes)}
    thresholds = choose_thresholds(logits, answers, tasks=known, classes=classes, temperature=temperature)
    scored = {
        _condition(r): log_probabilities(r.probabilities.numpy())
        for r in results
        if r.spec.name in ("clean", SCORED_BY) and r.probabilities is not None
    }
    found["calibration"] = {name: calibration(each, labels, temperature) for name, each in scored.items()}
    if thresholds:
        found["operating_points"] = {
            name: operating_points(thresholds, each, labels, classes=classes, groups=groups)
            for name, each in scored.items()
        }
    return found


def _condition(result: Result) -> str:
    return format_radius(result.eps) if result.eps else "clean"
