"""Report section: scores under attack, differences between runs, and corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dpaat.errors import UserError
from dpaat.evaluation.compare import METRICS, compare_runs, difference_cell
from dpaat.evaluation.entries import Entry
from dpaat.evaluation.tables import condition, constant_row, score_cells
from dpaat.radii import format_radius
from dpaat.report.blocks import Block, Figures, Heading, Section, Text
from dpaat.report.charts import Estimate, pareto_plot
from dpaat.report.comparisons import Comparison, under_attack
from dpaat.report.drawing import Plot
from dpaat.report.plots import line_plot
from dpaat.tables import Cell, Column, Row, Table, percent, score_cell

SCORES = {"accuracy": "acc.", "balanced_accuracy": "bal.", "map": "mAP"}
CURVES = {"balanced_accuracy": "balanced accuracy", "map": "mean average precision"}


def robustness_section(comparisons: Sequence[Comparison]) -> Section:
    """Scores under attack, curves, the front of several runs, differences, and corruptions."""
    blocks: list[Block] = []
    for comparison in comparisons:
        if comparison.attacks:
            blocks += _attacked(comparison)
    if not any(comparison.attacks for comparison in comparisons):
        blocks.append(Text("No run has been attacked yet: `dpaat evaluate RUN --suite standard` does it.", "warn"))
    for comparison in comparisons:
        blocks += _differences(comparison)
        blocks += _corruptions(comparison)
    return Section("robustness", "Is it robust", blocks)


def _attack_table(comparison: Comparison, attack: str) -> Table:
    found = comparison.under(attack)
    radii = sorted({eps for entries in found.values() for eps in entries if eps})
    attacked = [e for entries in found.values() for eps, e in entries.items() if eps]
    keys = [key for key in SCORES if any(e["metrics"][key] is not None for e in attacked)]
    columns = [Column(SCORES[key], group=format_radius(eps)) for eps in radii for key in keys]
    rows = []
    if constant := comparison.constant:
        rows.append(constant_row(constant, keys, times=len(radii)))
    for name, entries in found.items():
        rows.append(Row(name, [cell for eps in radii for cell in score_cells(entries.get(eps), keys)]))
    note = "Percent, 95 % intervals in brackets. Every run is attacked at the same radii, in units of a [0, 1] image."
    return Table("percent", columns, rows, note=note)


def _attacked(comparison: Comparison) -> list[Block]:
    first, *others = comparison.attacks
    blocks: list[Block] = [
        Heading(f"{first[0].upper()}{first[1:]}: {comparison.title}"),
        _attack_table(comparison, first),
    ]
    plots = _curves(comparison, first) + _full_curve(comparison) + _pareto(comparison)
    blocks.append(Figures(plots))
    if others:
        blocks += [Heading("Each attack alone"), _others(comparison, others)]
    return blocks


def _curves(comparison: Comparison, attack: str) -> list[Plot]:
    constant = comparison.constant
    plots = []
    for key, label in CURVES.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        bands: dict[str, dict[float, Sequence[float]]] = {}
        for name, entries in comparison.under(attack).items():
            scored = {eps: e for eps, e in entries.items() if e["metrics"][key] is not None}
            lines[name] = [(eps, e["metrics"][key]) for eps, e in scored.items()]
            intervals = {eps: (e.get("intervals") or {}).get(key) for eps, e in scored.items()}
            bands[name] = {eps: ends for eps, ends in intervals.items() if ends}
        if not any(eps for each in lines.values() for eps, _ in each):
            continue  # the worst case has verdicts, no scores
        known = ", with 95 % intervals" if any(bands.values()) else ""
        plots.append(
            line_plot(
                {name: each for name, each in lines.items() if each},
                x_label=f"radius ({'L2' if attack.endswith('L2') else 'Linf'})",
                y_label=label,
                caption=f"{label.capitalize()} {under_attack(attack)}{known}.",
                level=(f"always {constant['predicts']}", constant["metrics"][key]) if constant else None,
                bands=bands,
                radii=True,
            )
        )
    return plots


def _full_curve(comparison: Comparison) -> list[Plot]:
    lines = {
        name: list(zip(entry["eps"], entry["balanced_accuracy"], strict=True))
        for name in comparison.runs
        for entry in comparison.analyses(name, "curve")
    }
    if not lines:
        return []
    caption = "Security curve: balanced accuracy in the worst case over radii that double; it must fall to 0."
    return [line_plot(lines, x_label="radius", y_label="balanced accuracy", caption=caption, radii=True, even=True)]


def _pareto(comparison: Comparison) -> list[Plot]:
    points = {
        name: (_estimate(entry), Estimate(area))
        for name, entry in comparison.clean.items()
        if (area := comparison.area(name)) is not None
    }
    if len(points) < 2:
        return []
    return [
        pareto_plot(
            points,
            x_label="clean balanced accuracy",
            y_label="area under the robust curve",
            caption=f"Accuracy against robustness: balanced accuracy on clean images, and its mean over the radii "
            f"{under_attack(comparison.attacks[0])}. On the broken line no other run is better in both.",
        )
    ]


def _estimate(entry: Entry) -> Estimate:
    interval = (entry.get("intervals") or {}).get("balanced_accuracy")
    return Estimate(entry["metrics"]["balanced_accuracy"], interval)


def _others(comparison: Comparison, attacks: Sequence[str]) -> Table:
    radii = sorted({e["eps"] for results in comparison.results.values() for e in results if e["label"] in attacks})
    rows = []
    for attack in attacks:
        for name, entries in comparison.under(attack).items():
            cells = [score_cells(entries.get(eps), ["balanced_accuracy"])[0] for eps in radii]
            if any(eps in entries for eps in radii):
                rows.append(Row(f"{attack}, {name}" if len(comparison.runs) > 1 else attack, cells))
    return Table("balanced accuracy", [format_radius(eps) for eps in radii], rows)


def _differences(comparison: Comparison) -> list[Block]:
    if len(comparison.runs) < 2:
        return []
    heading = "Differences, image by image"
    try:
        document = compare_runs([run.path for run in comparison.runs.values()])
    except UserError as error:
        return [Heading(heading), Text(f"None are shown: {error}.", "note")]
    called = {run.path.resolve().name: name for name, run in comparison.runs.items()}
    names = {
        recipe: ", ".join(called.get(folder, folder) for folder in folders)
        for recipe, folders in document["recipes"].items()
    }
    about = comparison.population
    n = about.n * len(document["recipes"][document["reference"]])
    wanted = (about.data, about.split, n)
    conditions = [each for each in document["conditions"] if (each["data"], each["split"], each["n"]) == wanted]
    if not conditions:
        return []  # the runs share a larger draw of these images, and are compared on it
    return [Heading(f"Differences from {names[document['reference']]}, image by image"), _table(conditions, names)]


def _table(conditions: Sequence[Entry], names: Mapping[str, str]) -> Table:
    labels = {each["label"] for each in conditions}
    worst = {"clean", "worst case", "worst case L2"} & labels
    rows = []
    for each in conditions:
        if len(worst) > 1 and each["label"] not in worst:
            continue
        for name, found in each["differences"].items():
            cells = [difference_cell(found[metric], "p = ") if metric in found else Cell("-") for metric in METRICS]
            rows.append(Row(f"{names[name]}, {condition(each)}", cells))
    note = (
        "Percentage points, 95 % intervals; p by a paired test, adjusted by Holm's method over all comparisons of a "
        "metric. In bold where the interval does not hold 0. Differences are paired: two intervals of the table above "
        "may overlap and the difference still be clear."
    )
    return Table("percent", list(METRICS.values()), rows, note=note)


def _corruptions(comparison: Comparison) -> list[Block]:
    entries = comparison.first("corruptions")
    if not entries:
        return []
    names = list(dict.fromkeys(c for e in entries.values() for c in e["balanced_accuracy"] if c != "clean"))
    columns = [
        Column(text, group=name if len(entries) > 1 else "")
        for name in entries
        for text in ("mild", "medium", "strong", "mean")
    ]
    rows = []
    for corruption in names:
        cells: list[Cell] = []
        for entry in entries.values():
            scores = entry["balanced_accuracy"].get(corruption)
            shown = [scores[0], scores[2], scores[4], float(np.mean(scores))] if scores else [None] * 4
            cells += [score_cell(score, kind="key" if k == 3 else "") for k, score in enumerate(shown)]
        rows.append(Row(corruption, cells))
    summary = []
    for name, entry in entries.items():
        error = entry["balanced_error"]
        summary.append(
            f"{name} {percent(1 - error['clean_error'])} clean, {percent(1 - error['mean_corruption_error'])}"
        )
    note = (
        "Balanced accuracy in percent on images with everyday faults of mild (1), medium (3) and strong (5) severity, "
        f"and the mean over all five. Over all corruptions: {'; '.join(summary)}."
    )
    return [Heading(f"Everyday faults of images: {comparison.title}"), Table("corruption", columns, rows, note=note)]
