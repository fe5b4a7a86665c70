"""Report section: classes, operating points and subgroups."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dpaat.evaluation.entries import Entry
from dpaat.evaluation.tables import condition, of_labels, operating_points_table
from dpaat.radii import format_radius, radius_name
from dpaat.report import drawing as draw
from dpaat.report.blocks import Block, Figures, Fold, Text, first_open, register_section
from dpaat.report.comparison import Comparison, Report
from dpaat.report.drawing import MAX_ROWS, Plot
from dpaat.report.figures import Estimate, whisker_plot
from dpaat.report.verdict import under_attack
from dpaat.tables import Cell, Column, Row, Table, score_cell

MAX_WRITTEN = 12
"""Classes whose shares still fit into the cells of a confusion matrix; and confusions told in words."""
EXCESS = (
    "Groups differ in their mix of diagnoses. The excess is by how much a group is classified better than its "
    "mix of classes would have it, in percentage points with 95 % intervals; groups of fewer than 10 images are "
    "left out."
)


@register_section("groups", "Which classes and groups does it serve?", order=50)
def subgroups(report: Report) -> list[Block]:
    """Recall per class, confusions, operating points and subgroups."""
    blocks: list[Block] = []
    for number, comparison in enumerate(report.comparisons):
        recalls = [plot for name in comparison.runs if (plot := _recall(comparison, name))]
        confusions = [plot for name in comparison.runs for plot in _confusions(comparison, name)]
        shown: list[Block] = [Figures(recalls)] if recalls else []
        several = any(of_labels(each) for results in comparison.results.values() for each in results)
        if confusions:
            shown.append(Fold("Which classes are taken for which", [Figures(confusions)]))
        elif several and recalls:
            note = "Recall is the sensitivity of each label. Confusions are of one class per image."
            shown.append(Text(note, "note"))
        elif recalls:
            shown.append(Text("No confusion matrices: the runs have no predictions.parquet any more.", "note"))
        if found := comparison.first("operating_points"):
            only = {condition for entry in found.values() for condition in _conditions(comparison, entry)}
            title = "Sensitivity and specificity at the thresholds of a clinic"
            shown.append(Fold(title, [operating_points_table(found, only)]))
        shown += _subgroups(comparison)
        if shown:
            blocks += first_open(number, f"Classes: {comparison.title}", shown)
    return blocks or [Text("Nothing has been evaluated that could tell.", "note")]


def cut(classes: int) -> str:
    """What to add to a caption where not all classes fit."""
    return f", the {MAX_ROWS} most frequent of {classes} classes" if classes > MAX_ROWS else ""


@draw.STYLED
def _recall(comparison: Comparison, name: str) -> Plot | None:
    """Recall per class, clean and at the reference radius, as two ends of a bar."""
    entry, attacked = comparison.clean.get(name), comparison.at_reference(name)
    if entry is None or attacked is None:
        return None
    before = entry["metrics"]["per_class_recall"]
    after = attacked["metrics"]["per_class_recall"]
    present = [c for c, n in comparison.support.items() if n]
    names = present[:MAX_ROWS]
    rows = np.arange(len(names))
    axes = draw.axes_of(0.9 + 0.27 * len(names))
    ends = [[recalls[c] for c in names] for recalls in (before, after)]
    axes.hlines(rows, ends[1], ends[0], color=draw.RULE, linewidth=5, zorder=1)
    axes.scatter(ends[0], rows, s=34, color=draw.COLOURS[0], label="clean", zorder=3)
    axes.scatter(ends[1], rows, s=34, color=draw.COLOURS[1], marker="s", label=condition(attacked), zorder=2)
    draw.name_rows(axes, names)
    axes.set(xlim=(-0.03, 1.03), xlabel="recall")
    draw.percent_axis(axes.xaxis)
    draw.legend(axes)
    told = "; ".join(f"{c} {before[c]:.0%} clean, {after[c]:.0%} attacked" for c in names)
    caption = f"{name}: recall per class, clean and attacked{cut(len(present))}."
    data = [(c, before[c], after[c]) for c in present]
    return draw.finish(axes, caption, f"{told}.", ["class", "clean", condition(attacked)], data)


def _confusions(comparison: Comparison, name: str) -> list[Plot]:
    plots = []
    for entry in (comparison.clean.get(name), comparison.at_reference(name)):
        frame = None if entry is None else comparison.runs[name].predictions(entry)
        if entry and frame is not None and len(frame) and not of_labels(entry):
            clean = entry["attack"] == "clean"
            what = "on clean images" if clean else f"{under_attack(entry['label'])}, {entry['eps_text']}"
            plots.append(_confusion(frame, [*comparison.support], f"{name}: answers {what}"))
    return plots


@draw.STYLED
def _confusion(frame: pd.DataFrame, classes: Sequence[str], title: str) -> Plot:
    """The shares of each true class that are answered, darker where larger, in percent where the numbers fit."""
    counts = pd.crosstab(frame["label"], frame["predicted"])
    order = [c for c in classes if c in counts.index]
    answered = [c for c in classes if c in counts.columns and c not in order]
    counts = counts.reindex(index=order, columns=[*order, *answered], fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)
    wrong = [(float(shares.loc[a, b]), str(a), str(b)) for a in counts.index for b in counts.columns if a != b]
    told = [f"{a} taken for {b} {share:.0%}" for share, a, b in sorted(wrong, reverse=True)[:MAX_WRITTEN] if share]

    shown = shares.iloc[:MAX_ROWS, :MAX_ROWS]
    rows, columns = [*map(str, shown.index)], [*map(str, shown.columns)]
    axes = draw.axes_of(0.95 + (0.34 if len(rows) < 9 else 0.26) * len(rows))
    axes.imshow(shown.to_numpy(dtype=float), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    draw.name_rows(axes, rows)
    axes.set_xticks(np.arange(len(columns)), [draw.short(name, 12) for name in columns])
    if max(map(len, columns)) * len(columns) > 48:
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(axis="x", labelcolor=draw.INK)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="answered", ylabel="true class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for (row, column), share in np.ndenumerate(shown.to_numpy()) if len(columns) <= MAX_WRITTEN else ():
        colour = "white" if share > 0.55 else draw.INK
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    right = ", ".join(f"{c} {shares.loc[c, c]:.0%}" for c in shown.index)
    alt = f"Right: {right}. Most frequent confusions: {', '.join(told) or 'none'}."
    caption = f"{title}, percent of each true class{cut(len(order))}."
    return draw.finish(axes, caption, alt, ["true class", *counts.columns], [*counts.itertuples()])


def _conditions(comparison: Comparison, entry: Entry) -> dict[str, Entry]:
    """Clean, and the reference radius where the entry has it, else its last condition."""
    eps, names = comparison.reference, list(entry["conditions"])
    texts = () if eps is None else (format_radius(eps), radius_name(eps))  # the latter in older files
    chosen = (names[0], next((name for name in names if name in texts), names[-1]))
    return {name: entry["conditions"][name] for name in chosen}


def _subgroups(comparison: Comparison) -> list[Block]:
    plots: list[Plot] = []
    tables: list[Table] = []
    for name in comparison.runs:
        for entry in comparison.analyses(name, "subgroups"):
            conditions = _conditions(comparison, entry)
            if any(conditions.values()):
                named = {k if k == "clean" else f"worst case {k}": each for k, each in conditions.items()}
                plots += _excess(name, named)
                tables.append(_subgroup_table(name, named))
    shown: list[Block] = [Text(EXCESS, "note"), *([Figures(plots)] if plots else []), *tables]
    return [Fold("Age, sex, body site and source", shown)] if tables else []


def _excess(name: str, conditions: Mapping[str, Entry]) -> list[Plot]:
    groups = {
        heading: {
            f"{attribute}: {value}": Estimate(each["excess"], each["excess_interval"])
            for attribute, values in found.items()
            for value, each in values.items()
            if "excess" in each
        }
        for heading, found in conditions.items()
    }
    shown = {heading: each for heading, each in groups.items() if each}
    caption = f"{name}: groups classified better or worse than their diagnoses explain, clean and attacked."
    return [whisker_plot(shown, x_label="excess accuracy, percentage points", caption=caption)] if shown else []


def _subgroup_table(name: str, conditions: Mapping[str, Entry]) -> Table:
    rows = []
    for attribute, values in next(iter(conditions.values())).items():
        for value, each in values.items():
            cells = [Cell(f"{each['n']:,}")]
            for here in (found.get(attribute, {}).get(value, {}) for found in conditions.values()):
                cells += [score_cell(here.get("accuracy")), score_cell(here.get("excess"), here.get("excess_interval"))]
            rows.append(Row(f"{attribute}: {value}", cells))
    columns = [Column(text, group=each) for each in conditions for text in ("accuracy", "excess")]
    return Table("percent", [Column("images"), *columns], rows, folded=f"{name}: the numbers")
