"""Report section: scores on clean images, and calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dpaat.evaluation.entries import note_of
from dpaat.evaluation.metrics import one_answer
from dpaat.evaluation.tables import SCORES, constant_row, score_cells
from dpaat.report.blocks import Block, Figures, Heading, Section, Text
from dpaat.report.charts import reliability_plot
from dpaat.report.comparisons import Comparison
from dpaat.report.drawing import Plot
from dpaat.report.view import RunView
from dpaat.tables import Column, Row, Table, score_cell

NOTE = (
    "Percent, 95 % intervals in brackets, which respect that images come in lesions. Balanced accuracy is the mean "
    "recall over the classes; mAP the one-vs-rest average precision and AUROC the one-vs-rest area under the ROC "
    "curve, each averaged over the classes. The first row is the constant that answers the most frequent class of the "
    "training set whatever the image. Each row is one training run; another seed would give another number."
)


def accuracy_section(runs: Sequence[RunView], comparisons: Sequence[Comparison]) -> Section:
    """Scores on clean images with intervals, and calibration."""
    blocks: list[Block] = [Text(f"Left out: {text}.", "warn") for run in runs for text in run.outdated]
    if missing := [run.name for run in runs if run.evaluation is None]:
        text = f"Not evaluated yet: {', '.join(missing)}. `dpaat evaluate RUN` measures a run; then write this again."
        blocks.append(Text(text, "warn"))
    for comparison in comparisons:
        note = NOTE if comparison is comparisons[0] else ""
        blocks += [Heading(f"Clean images: {comparison.title}"), _clean_table(comparison, note)]
        for name, entry in comparison.clean.items():
            frame = comparison.runs[name].predictions(entry)
            if frame is not None and (answer := one_answer(frame["predicted"].to_numpy(), frame["label"].to_numpy())):
                blocks.append(Text(f"{name} {answer}.", "warn"))
        for name, results in comparison.results.items():
            notes = dict.fromkeys(note for entry in results if (note := note_of(entry)))
            blocks += [Text(f"{name}: {note}.", "warn") for note in notes]
        blocks += _calibration(comparison)
    return Section("accuracy", "Is it accurate", blocks)


def _clean_table(comparison: Comparison, note: str) -> Table:
    rows = []
    if constant := comparison.constant:
        rows.append(constant_row(constant, SCORES))
    rows += [Row(name, score_cells(entry, SCORES)) for name, entry in comparison.clean.items()]
    return Table("percent", list(SCORES.values()), rows, note=note)


def _calibration(comparison: Comparison) -> list[Block]:
    found = {name: comparison.analyses(name, "calibration") for name in comparison.runs}
    plots = [plot for name in comparison.runs if (plot := _reliability(comparison, name))]
    blocks: list[Block] = []
    if any(found.values()) or plots:
        blocks.append(Heading("Can its probabilities be taken at their word"))
    if any(found.values()):
        conditions = list(dict.fromkeys(c for entries in found.values() for e in entries for c in e["conditions"]))
        columns = [Column(text, group=condition) for condition in conditions for text in ("as it is", "scaled")]
        rows = []
        for name, entries in found.items():
            for entry in entries:
                at = [entry["conditions"].get(condition, {}) for condition in conditions]
                rows.append(Row(name, [score_cell(each.get(key)) for each in at for key in ("ece", "ece_scaled")]))
        note = (
            "Expected calibration error in percent: how far confidence and share of right answers lie apart, clean and "
            "under APGD-CE; as the model is, and with the temperature that fits the clean validation images best."
        )
        blocks.append(Table("percent", columns, rows, note=note))
    return [*blocks, Figures(plots)] if plots else blocks


def _reliability(comparison: Comparison, name: str) -> Plot | None:
    entries = {"clean": comparison.clean.get(name), "attacked": comparison.at_reference(name, "apgd-ce")}
    if entries["attacked"] is None and comparison.attacks:
        entries["attacked"] = comparison.at_reference(name)
    conditions = {}
    for condition, entry in entries.items():
        if entry is None or (frame := comparison.runs[name].predictions(entry)) is None:
            continue
        if len(frame) and frame["probabilities"].notna().all():
            heading = condition if condition == "clean" else f"{entry['label']} {entry['eps_text']}"
            conditions[heading] = _confidence(frame)
    if not conditions:
        return None
    caption = f"{name}: right answers against confidence; below the broken line it is too sure of itself."
    return reliability_plot(conditions, caption=caption)


def _confidence(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    confidence = np.array([np.max(each) for each in frame["probabilities"]])
    right = (frame["label"] == frame["predicted"]).to_numpy()
    return confidence, right, frame["group"].to_numpy(dtype=str)
