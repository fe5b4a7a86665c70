"""Report section: scores under attack, differences between runs, and corruptions."""

from collections.abc import Sequence

import numpy as np

from dpaat.errors import UserError
from dpaat.evaluation.compare import METRICS, compare_runs, difference_cell
from dpaat.evaluation.tables import condition, constant_row, score_cells
from dpaat.radii import format_radius
from dpaat.report.blocks import Block, Figures, Heading, Text, register_section
from dpaat.report.drawing import Plot
from dpaat.report.figures import Estimate, line_plot, pareto_plot
from dpaat.report.view import Comparison, Report, under_attack
from dpaat.tables import Cell, Column, Row, Table, percent, score_cell

DIFFERENCES = (
    "Percentage points, 95 % intervals; p by a paired test, adjusted by Holm's method over all comparisons of a "
    "metric. In bold where the interval does not hold 0. Differences are paired: two intervals of the table above "
    "may overlap and the difference still be clear."
)
BALANCED = "balanced_accuracy"
SCORES = {"accuracy": "acc.", BALANCED: "bal.", "map": "mAP"}
CURVES = {BALANCED: "balanced accuracy", "map": "mean average precision"}


@register_section("robustness", "Is it robust", order=30)
def robustness(report: Report) -> list[Block]:
    """Scores under attack, curves, the front of several runs, differences, and corruptions."""
    blocks: list[Block] = []
    for comparison in report.comparisons:
        if comparison.attacks:
            blocks += _attacked(comparison)
    if not blocks:
        blocks.append(Text("No run has been attacked yet: `dpaat evaluate RUN --suite standard` does it.", "warn"))
    for comparison in report.comparisons:
        blocks += [*_differences(comparison), *_corruptions(comparison)]
    return blocks


def _attacked(comparison: Comparison) -> list[Block]:
    first, *others = comparison.attacks
    found = comparison.under(first)
    radii = sorted({eps for entries in found.values() for eps in entries if eps})
    attacked = [e for entries in found.values() for eps, e in entries.items() if eps]
    keys = [key for key in SCORES if any(e["metrics"][key] is not None for e in attacked)]
    columns = [Column(SCORES[key], group=format_radius(eps)) for eps in radii for key in keys]
    rows = [constant_row(comparison.constant, keys, times=len(radii))] if comparison.constant else []
    rows += [Row(n, [c for eps in radii for c in score_cells(entries.get(eps), keys)]) for n, entries in found.items()]
    note = "Percent, 95 % intervals in brackets. Every run is attacked at the same radii, in units of a [0, 1] image."
    table = Table("percent", columns, rows, note=note)
    plots = [*_curves(comparison, first), *_security_curve(comparison), *_pareto(comparison)]
    blocks: list[Block] = [Heading(f"{first[0].upper()}{first[1:]}: {comparison.title}"), table, Figures(plots)]
    return [*blocks, Heading("Each attack alone"), _others(comparison, others)] if others else blocks


def _others(comparison: Comparison, attacks: Sequence[str]) -> Table:
    radii = sorted({e["eps"] for results in comparison.results.values() for e in results if e["label"] in attacks})
    rows = [
        Row(
            f"{attack}, {name}" if len(comparison.runs) > 1 else attack,
            [score_cells(entries.get(eps), [BALANCED])[0] for eps in radii],
        )
        for attack in attacks
        for name, entries in comparison.under(attack).items()
        if any(eps in entries for eps in radii)
    ]
    return Table("balanced accuracy", [format_radius(eps) for eps in radii], rows)


def _curves(comparison: Comparison, attack: str) -> list[Plot]:
    constant = comparison.constant
    plots = []
    for key, label in CURVES.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        bands: dict[str, dict[float, Sequence[float]]] = {}
        for name, entries in comparison.under(attack).items():
            scored = {eps: e for eps, e in entries.items() if e["metrics"][key] is not None}
            if scored:
                lines[name] = [(eps, e["metrics"][key]) for eps, e in scored.items()]
                bands[name] = {eps: ends for eps, e in scored.items() if (ends := (e.get("intervals") or {}).get(key))}
        if not any(eps for each in lines.values() for eps, _ in each):
            continue  # the worst case has verdicts, no scores
        known = ", with 95 % intervals" if any(bands.values()) else ""
        plots.append(
            line_plot(
                lines,
                x_label=f"radius ({'L2' if attack.endswith('L2') else 'Linf'})",
                y_label=label,
                caption=f"{label.capitalize()} {under_attack(attack)}{known}.",
                level=(f"always {constant['predicts']}", constant["metrics"][key]) if constant else None,
                bands=bands,
                radii=True,
            )
        )
    return plots


def _security_curve(comparison: Comparison) -> list[Plot]:
    lines = {
        name: list(zip(entry["eps"], entry[BALANCED], strict=True))
        for name in comparison.runs
        for entry in comparison.analyses(name, "curve")
    }
    caption = "Security curve: balanced accuracy in the worst case over radii that double; it must fall to 0."
    if not lines:
        return []
    return [line_plot(lines, x_label="radius", y_label=CURVES[BALANCED], caption=caption, radii=True, even=True)]


def _pareto(comparison: Comparison) -> list[Plot]:
    points = {
        name: (Estimate(entry["metrics"][BALANCED], (entry.get("intervals") or {}).get(BALANCED)), Estimate(area))
        for name, entry in comparison.clean.items()
        if (area := comparison.area(name)) is not None
    }
    if len(points) < 2:
        return []
    caption = (
        "Accuracy against robustness: balanced accuracy on clean images, and its mean over the radii "
        f"{under_attack(comparison.attacks[0])}. On the broken line no other run is better in both."
    )
    x_label, y_label = "clean balanced accuracy", "area under the robust curve"
    return [pareto_plot(points, x_label=x_label, y_label=y_label, caption=caption)]


def _differences(comparison: Comparison) -> list[Block]:
    if len(comparison.runs) < 2:
        return []
    try:
        document = compare_runs([run.path for run in comparison.runs.values()])
    except UserError as error:
        return [Heading("Differences, image by image"), Text(f"None are shown: {error}.", "note")]
    called = {run.path.resolve().name: name for name, run in comparison.runs.items()}
    recipes, reference = document["recipes"], document["reference"]
    names = {recipe: ", ".join(called.get(each, each) for each in folders) for recipe, folders in recipes.items()}
    about = comparison.population
    wanted = (about.data, about.split, about.n * len(recipes[reference]))
    conditions = [each for each in document["conditions"] if (each["data"], each["split"], each["n"]) == wanted]
    if not conditions:
        return []  # the runs share a larger draw of these images, and are compared on it
    worst = {"clean", "worst case", "worst case L2"} & {each["label"] for each in conditions}
    rows = [
        Row(
            f"{names[name]}, {condition(each)}",
            [difference_cell(found[metric], "p = ") if metric in found else Cell("-") for metric in METRICS],
        )
        for each in conditions
        if len(worst) < 2 or each["label"] in worst
        for name, found in each["differences"].items()
    ]
    table = Table("percent", list(METRICS.values()), rows, note=DIFFERENCES)
    return [Heading(f"Differences from {names[reference]}, image by image"), table]


def _corruptions(comparison: Comparison) -> list[Block]:
    entries = comparison.first("corruptions")
    if not entries:
        return []
    scores = [entry[BALANCED] for entry in entries.values()]
    columns = [
        Column(text, group=name if len(entries) > 1 else "")
        for name in entries
        for text in ("mild", "medium", "strong", "mean")
    ]
    rows = []
    for corruption in dict.fromkeys(name for each in scores for name in each if name != "clean"):
        cells: list[Cell] = []
        for found in (each.get(corruption) for each in scores):
            shown = [found[0], found[2], found[4], float(np.mean(found))] if found else [None] * 4
            cells += [*map(score_cell, shown[:3]), score_cell(shown[3], kind="key")]
        rows.append(Row(corruption, cells))
    errors = {name: entry["balanced_error"] for name, entry in entries.items()}
    summary = "; ".join(
        f"{name} {percent(1 - error['clean_error'])} clean, {percent(1 - error['mean_corruption_error'])}"
        for name, error in errors.items()
    )
    note = (
        "Balanced accuracy in percent on images with everyday faults of mild (1), medium (3) and strong (5) severity, "
        f"and the mean over all five. Over all corruptions: {summary}."
    )
    return [Heading(f"Everyday faults of images: {comparison.title}"), Table("corruption", columns, rows, note=note)]
