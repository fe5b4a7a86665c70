"""Report section: classes, operating points and subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dpaat.evaluation.entries import Entry
from dpaat.radii import format_radius
from dpaat.report.blocks import Block, Figures, Heading, Section, Text
from dpaat.report.charts import Estimate, matrix_plot, whisker_plot
from dpaat.report.comparisons import Comparison, under_attack
from dpaat.report.drawing import MAX_ROWS, Plot
from dpaat.report.plots import recall_plot
from dpaat.tables import Cell, Column, Row, Table, score_cell

MAX_TOLD = 12
"""Confusions told in words."""


def subgroups_section(comparisons: Sequence[Comparison]) -> Section:
    """Recall per class, confusions, operating points and subgroups."""
    blocks: list[Block] = []
    for comparison in comparisons:
        per_class = [plot for name in comparison.runs if (plot := _recall(comparison, name))]
        confusions = [plot for name in comparison.runs for plot in _confusions(comparison, name)]
        if per_class or confusions:
            blocks += [Heading(f"Classes: {comparison.title}"), Figures([*per_class, *confusions])]
        if per_class and not confusions:
            blocks.append(Text("No confusion matrices: the runs have no predictions.parquet any more.", "note"))
        blocks += _operating_points(comparison)
        blocks += _subgroups(comparison)
    if not blocks:
        blocks.append(Text("Nothing has been evaluated that could tell.", "note"))
    return Section("people", "For whom", blocks)


def _recall(comparison: Comparison, name: str) -> Plot | None:
    entry, attacked = comparison.clean.get(name), comparison.at_reference(name)
    if entry is None or attacked is None:
        return None
    clean = entry["metrics"]
    present = sorted((c for c, n in clean["support"].items() if n), key=lambda c: -clean["support"][c])
    return recall_plot(
        {c: clean["per_class_recall"][c] for c in present},
        {c: attacked["metrics"]["per_class_recall"][c] for c in present},
        condition=f"{attacked['label']} {attacked['eps_text']}",
        caption=f"{name}: recall per class, clean and attacked{cut(len(present))}.",
    )


def cut(classes: int) -> str:
    """What to add to a caption where not all classes fit."""
    return f", the {MAX_ROWS} most frequent of {classes} classes" if classes > MAX_ROWS else ""


def _confusions(comparison: Comparison, name: str) -> list[Plot]:
    run, plots = comparison.runs[name], []
    for entry in (comparison.clean.get(name), comparison.at_reference(name)):
        frame = None if entry is None else run.predictions(entry)
        if entry is None or frame is None or frame.empty:
            continue
        clean = entry["attack"] == "clean"
        what = "on clean images" if clean else f"{under_attack(entry['label'])}, {entry['eps_text']}"
        plots.append(_confusion(frame, f"{name}: answers {what}"))
    return plots


def _confusion(frame: pd.DataFrame, title: str) -> Plot:
    counts = pd.crosstab(frame["label"], frame["predicted"])
    order = frame["label"].value_counts(sort=True).index.tolist()
    answered = [c for c in frame["predicted"].value_counts().index if c not in order]
    rows, columns = order[:MAX_ROWS], [*order, *answered][:MAX_ROWS]
    table = counts.reindex(index=order, columns=[*order, *answered], fill_value=0)
    shares = table.div(table.sum(axis=1), axis=0)
    wrong = [(float(shares.loc[a, b]), str(a), str(b)) for a in table.index for b in table.columns if a != b]
    worst = sorted(wrong, reverse=True)[:MAX_TOLD]
    told = [f"{true} taken for {given} {share:.0%}" for share, true, given in worst if share]
    right = [f"{c} {shares.loc[c, c]:.0%}" for c in rows]
    return matrix_plot(
        shares.loc[rows, columns].to_numpy(dtype=float),
        rows=[str(c) for c in rows],
        columns=[str(c) for c in columns],
        x_label="answered",
        y_label="true class",
        caption=f"{title}, percent of each true class{cut(len(order))}.",
        alt=f"Right: {', '.join(right)}. Most frequent confusions: {', '.join(told) or 'none'}.",
        data=(["true class", *table.columns], [(c, *map(int, table.loc[c])) for c in order]),
    )


def _conditions(comparison: Comparison, entry: Entry) -> list[str]:
    """Clean, and the reference radius where the entry has it, else its last condition."""
    reference = "" if comparison.reference is None else format_radius(comparison.reference)
    names = list(entry["conditions"])
    return list(dict.fromkeys([names[0], reference if reference in names else names[-1]]))


def _operating_points(comparison: Comparison) -> list[Block]:
    found = comparison.first("operating_points")
    if not found:
        return []
    rows: list[Row] = []
    columns: list[Column] = []
    for name, entry in found.items():
        conditions = _conditions(comparison, entry)
        headings = ["clean" if condition == "clean" else f"APGD-CE {condition}" for condition in conditions]
        columns = [Column(text, group=each) for each in headings for text in ("sensitivity", "specificity")]
        for number, first in enumerate(entry["conditions"][conditions[0]]):
            cells: list[Cell] = []
            for condition in conditions:
                point = entry["conditions"][condition][number]
                for key in ("sensitivity", "specificity"):
                    cells.append(score_cell(point[key], point[f"{key}_interval"], kind="key" if cells == [] else ""))
            prefix = f"{name}: " if len(found) > 1 else ""
            rows.append(Row(f"{prefix}{first['task']}, specificity {first['specificity_wanted']:.0%}", cells))
    note = (
        "A question with two answers, asked with the threshold that gives the specificity named on clean validation "
        "images. Under attack the threshold stays where it is."
    )
    return [Heading("At the thresholds of a clinic"), Table("percent", columns, rows, note=note)]


def _subgroups(comparison: Comparison) -> list[Block]:
    plots: list[Plot] = []
    tables: list[Table] = []
    for name in comparison.runs:
        for entry in comparison.analyses(name, "subgroups"):
            conditions = {each: entry["conditions"][each] for each in _conditions(comparison, entry)}
            if any(conditions.values()):
                plots += _excess(name, conditions)
                tables.append(_subgroup_table(name, conditions))
    if not tables:
        return []
    text = Text(
        "Groups differ in their mix of diagnoses. The excess is by how much a group is classified better than its "
        "mix of classes would have it, in percentage points with 95 % intervals; groups of fewer than 10 images are "
        "left out.",
        "note",
    )
    return [Heading("Age, sex, body site and source"), text, *([Figures(plots)] if plots else []), *tables]


def _excess(name: str, conditions: Mapping[str, Mapping[str, Mapping[str, Entry]]]) -> list[Plot]:
    groups = {
        condition: {
            f"{attribute}: {value}": Estimate(each["excess"], each["excess_interval"])
            for attribute, values in found.items()
            for value, each in values.items()
            if "excess" in each
        }
        for condition, found in conditions.items()
    }
    shown = {_worst(condition): each for condition, each in groups.items() if each}
    caption = f"{name}: who is served better or worse than their diagnoses explain, clean and attacked."
    return [whisker_plot(shown, x_label="excess accuracy, percentage points", caption=caption)] if shown else []


def _subgroup_table(name: str, conditions: Mapping[str, Mapping[str, Mapping[str, Entry]]]) -> Table:
    first = next(iter(conditions.values()))
    rows = []
    for attribute, values in first.items():
        for value, each in values.items():
            cells = [Cell(f"{each['n']:,}")]
            for found in conditions.values():
                here = found.get(attribute, {}).get(value, {})
                cells += [score_cell(here.get("accuracy")), score_cell(here.get("excess"), here.get("excess_interval"))]
            rows.append(Row(f"{attribute}: {value}", cells))
    columns = [Column("images")]
    columns += [Column(text, group=_worst(each)) for each in conditions for text in ("accuracy", "excess")]
    return Table("percent", columns, rows, folded=f"{name}: the numbers")


def _worst(condition: str) -> str:
    return condition if condition == "clean" else f"worst case {condition}"
