"""Report section: scores under attack, differences between runs, and corruptions."""

from collections.abc import Sequence

from dpaat.evaluation.compare import METRICS, difference_cell
from dpaat.evaluation.entries import Entry
from dpaat.evaluation.specs import WORST_CASE
from dpaat.evaluation.tables import condition, constant_row, corruptions_table, of_labels, score_cells, spared
from dpaat.radii import format_radius
from dpaat.report.blocks import Block, Figures, Fold, Heading, Text, first_open, register_section
from dpaat.report.comparison import Comparison, Report
from dpaat.report.drawing import Plot
from dpaat.report.figures import Estimate, estimate, line_plot, pareto_plot
from dpaat.report.verdict import under_attack
from dpaat.tables import Cell, Column, Row, Table, percent

DIFFERENCES = (
    "Percentage points, 95 % intervals; p by a paired test, adjusted by Holm's method over all comparisons of a "
    "metric. In bold where the interval does not hold 0. Differences are paired: two intervals of the table above "
    "may overlap and the difference still be clear."
)
BALANCED = "balanced_accuracy"
SCORES = {"accuracy": "acc.", BALANCED: "bal.", "map": "mAP"}
KINDS = {"curve": "security curve", "quick": "quick suite", "masking": "masking checks"}
CURVES = {BALANCED: "balanced accuracy", "map": "mean average precision"}


@register_section("robustness", "Is it robust?", order=30)
def robustness(report: Report) -> list[Block]:
    """Scores under attack, curves, the front of several runs, differences, and corruptions."""
    blocks: list[Block] = []
    for number, comparison in enumerate(report.comparisons):
        shown = [*_attacked(comparison), *_spared(comparison), *_differences(comparison)]
        if left_out := comparison.other_norm:
            names = ", ".join(KINDS.get(kind, kind.replace("_", " ")) for kind in left_out)
            text = f"Left out, as they are not in the norm of the attack above: {names}."
            shown.append(Text(text, "note"))
        if found := comparison.first("corruptions"):
            shown.append(Fold("Everyday faults of images", [corruptions_table(found)]))
        if shown:
            attack = f"{comparison.attacks[0]}: " if comparison.attacks else ""
            title = f"{attack[:1].upper()}{attack[1:]}{comparison.title}{comparison.in_norm}"
            blocks += first_open(number, title, shown)
    if not any(comparison.attacks for comparison in report.comparisons):
        blocks.append(Text("No run has been attacked yet: `dpaat evaluate RUN --suite standard` does it.", "warn"))
    return blocks


def _attacked(comparison: Comparison) -> list[Block]:
    if not comparison.attacks:
        return []
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
    balanced, *ranked = _curves(comparison, first)
    more = [*ranked, *_security_curve(comparison)]
    blocks: list[Block] = [table, Figures([balanced, *_pareto(comparison)])]
    if more:
        blocks.append(Fold("Mean average precision and larger radii", [Figures(more)]))
    return [*blocks, Fold("Each attack alone", [_others(comparison, others)])] if others else blocks


def _spared(comparison: Comparison) -> list[Block]:
    """What the suites left out, in words that a model card has as well."""
    curves = [(n, e) for n in comparison.runs for kind in ("curve", "quick") for e in comparison.analyses(n, kind)]
    found = dict.fromkeys(f"{name}: {left_out}." for name, entry in curves if (left_out := spared(entry)))
    return [Text(text, "note") for text in found]


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
                x_label=f"radius ({(comparison.norm or 'linf').capitalize()})",
                y_label=label,
                caption=f"{label.capitalize()} {under_attack(attack)}{known}.",
                level=(f"always {constant['predicts']}", constant["metrics"][key]) if constant else None,
                bands=bands,
                radii=True,
            )
        )
    return plots


def _security_curve(comparison: Comparison) -> list[Plot]:
    curves = comparison.first("curve")
    if not curves:
        return []
    lines = {name: list(zip(entry["eps"], entry[BALANCED], strict=True)) for name, entry in curves.items()}
    caption = f"Security curve{comparison.in_norm}: balanced accuracy in the worst case over radii that double."
    for name, entry in curves.items():
        if entry[BALANCED][-1] > 0:
            several = any(map(of_labels, comparison.results[name]))
            classes = 0 if several else sum(n > 0 for n in comparison.support.values())
            caption += f" {name} ends at {_not_zero(entry, classes)}"
    return [line_plot(lines, x_label="radius", y_label=CURVES[BALANCED], caption=caption, radii=True, even=True)]


def _not_zero(entry: Entry, classes: int) -> str:
    """Why a security curve does not fall to 0; `classes` are 0 for several labels an image."""
    radius, left = entry["eps"][-1], entry[BALANCED][-1]
    found = f"{percent(left)} %, not at 0:"
    if not classes:
        text = f"{found} the curve is flat where images fell at a smaller radius, as these are attacked no further."
        stand = [at.get("", 0) for at in entry.get("fallen_to", [])[-1:]]
        return text + "".join(f" Of {entry['n']:,} images {n:,} stand at {format_radius(radius)}." for n in stand)
    if entry.get("norm") == "l2" or radius < 0.5:
        return f"{found} larger radii were not tried."
    limit = f"{percent(1 / classes)} %"
    if left > 1 / classes:
        return f"{found} at most {limit} is possible at 0.5, where all images can be made one grey. The attack failed."
    return f"{found} at 0.5 one class can still be right, as for any constant answer (at most {limit})."


def _pareto(comparison: Comparison) -> list[Plot]:
    points = {
        name: (estimate(entry), Estimate(area))
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
    conditions, contrasts, refusal = comparison.pairs
    if refusal:
        return [Heading("Differences, image by image"), Text(f"None are shown: {refusal}.", "note")]
    if not conditions:
        return []
    worst = {each["label"] for each in conditions if each["attack"] in ("clean", WORST_CASE)}
    rows = [
        Row(
            f"{names}, {condition(each)}",
            [difference_cell(found[metric], "p = ") if metric in found else Cell("-") for metric in METRICS],
        )
        for each in conditions
        if len(worst) < 2 or each["label"] in worst
        for names, found in each["differences"].items()
    ]
    reference = ", ".join(contrasts[0].reference)
    table = Table("percent", list(METRICS.values()), rows, note=DIFFERENCES)
    return [Fold(f"Differences from {reference}, image by image", [table])]
