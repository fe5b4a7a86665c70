"""Figures of a benchmark: Pareto plot of clean against robust scores, forest plot of what stands above a front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from dpaat.benchmark.document import Document, front_comparisons, table_title
from dpaat.benchmark.outcomes import AREA
from dpaat.evaluation.fronts import upper_hull
from dpaat.evaluation.statistics import SIGNIFICANT
from dpaat.radii import format_radius
from dpaat.report.figures import Estimate, draw_pareto
from dpaat.report.drawing import COLOURS, INK, MUTED, STYLE, SVG, look

PANEL = (4.2, 3.4)
"""Inches, of the Pareto plot."""
PLACES = ((6, 5), (6, -11), (-6, 5), (-6, -11), (0, 9), (0, -15), (14, -3), (-14, -3), (0, 20), (0, -26))
"""Offsets in points that a label is tried at."""
FOREST_PANEL, LINE = 1.45, 0.2
"""Inches: width of a panel of the forest plot, height of a row."""
REACH = 1.6
"""A panel ends at this multiple of its largest difference; against a steep front an interval can be endless."""
Row = tuple[str, Mapping[str, Mapping[str, Any]] | None]
"""A label, and contrasts by metric; without these it is the title of the rows below."""


@dataclass(frozen=True)
class Plane:
    """A clean score against a robust one, by their keys in a row's `scores`, with the labels of the axes."""

    x: str
    y: str
    x_label: str
    y_label: str


def planes(radii: Sequence[float]) -> list[Plane]:
    """The planes that a benchmark's rows are drawn in.

    Args:
        radii: of the evaluation, ascending, above 0; mAP is shown at the middle one, or the lower of two.
    """
    middle = format_radius(radii[(len(radii) - 1) // 2])
    return [
        Plane("balanced_accuracy", AREA, "clean balanced accuracy", "area under the robust\nbalanced accuracy"),
        Plane("map", f"map@{middle}", "clean mAP", f"mAP at {middle}"),
    ]


def write_pareto(document: Document, out: Path) -> None:
    """Draw clean balanced accuracy against the area under the robust one, and mAP against mAP under attack.

    A row of panels per data and model. Recipes of a family are joined by a line, in the order of their radii, and
    labelled by them; the dashed line is the front that others are compared with. Bars are 95 % intervals.

    Args:
        document: see `make_document`.
        out: SVG file to write.
    """
    tables, shown = document["tables"], planes(document["evaluation"]["eps"])
    names = dict.fromkeys(row["family"] or row["recipe"] for table in tables for row in table["rows"])
    looks = {name: look(k) for k, name in enumerate(names)}
    columns = len(shown)
    size = (PANEL[0] * columns, PANEL[1] * len(tables) + 0.22 * -(-len(names) // (2 * columns)))
    with rc_context(STYLE | {"axes.grid.axis": "both"}):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = figure.subplots(len(tables), columns, squeeze=False)
        places = [(table, plane) for table in tables for plane in shown]
        panels = [(axes, *place) for axes, place in zip(grid.flat, places, strict=True)]
        handles: dict[str, Any] = {}
        for axes, table, plane in panels:
            pareto_panel(axes, table, plane, looks)
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * columns)
        figure.draw_without_rendering()
        for axes, table, plane in panels:
            _label(axes, table, plane)
        figure.savefig(out, **SVG)


def pareto_panel(axes: Axes, table: Document, plane: Plane, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the recipes of a table in a plane, families in a row, with the fronts that others are compared with."""
    series: dict[str, list[tuple[Estimate, Estimate]]] = {}
    for row in table["rows"]:
        x, y = (Estimate(**row["scores"][key]) for key in (plane.x, plane.y))
        series.setdefault(row["family"] or row["recipe"], []).append((x, y))
    places = {row["recipe"]: _place(row, plane) for row in table["rows"]}
    members = {family: front["members"] for _, family, front in front_comparisons(table)}
    fronts = []
    for family, recipes in members.items():
        hull = upper_hull({each: places[each] for each in recipes})
        fronts.append((looks[family]["color"], [places[each] for each in hull]))
    draw_pareto(axes, series, fronts, looks)
    axes.set_title(table_title(table), loc="left", fontsize=9, color=INK)
    axes.set_xlabel(plane.x_label)
    axes.set_ylabel(plane.y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))


def _place(row: Document, plane: Plane) -> tuple[float, float]:
    return row["scores"][plane.x]["value"], row["scores"][plane.y]["value"]


def _label(axes: Axes, table: Document, plane: Plane) -> None:
    """Write the radius beside every point of a family, where it touches neither a point nor another label."""
    places = [_place(row, plane) for row in table["rows"]]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform(places)]
    for row, place in zip(table["rows"], places, strict=True):
        if row["family"] is None:
            continue
        text = row["recipe"].removeprefix(f"{row['family']}-")
        for offset in PLACES:
            label = axes.annotate(
                text, place, xytext=offset, textcoords="offset points", ha="center", fontsize=7, color=MUTED
            )
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def write_forest(document: Document, out: Path) -> bool:
    """Draw every comparison with a front, a panel per metric: the difference with its 95 % interval.

    A mark is filled where the difference is beyond chance after Holm's adjustment. Intervals that are too wide for a
    panel leave it.

    Args:
        document: see `make_document`.
        out: SVG file to write.

    Returns:
        Whether there is any such comparison; else there is no file.
    """
    rows = _rows(document["tables"])
    if not rows:
        out.unlink(missing_ok=True)
        return False
    metrics = next(list(contrasts) for _, contrasts in rows if contrasts)
    size = (2.3 + FOREST_PANEL * len(metrics), 0.9 + LINE * len(rows))
    with rc_context(STYLE | {"axes.grid.axis": "x"}):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _forest_panel(axes, rows, metric)
            axes.set_title(metric.replace("map@", "mAP at "), loc="left", fontsize=9, color=INK)
        panels[0].set_yticks(range(len(rows)), [label for label, _ in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        for tick, (_, found) in zip(panels[0].get_yticklabels(), rows, strict=True):
            tick.set_color(MUTED if found else INK)
        figure.supxlabel(
            "points above the front at the recipe's own clean score, 95 % interval; "
            f"filled: p < {SIGNIFICANT} after Holm",
            fontsize=8,
            color=MUTED,
        )
        figure.savefig(out, **SVG)
    return True


def _rows(tables: Sequence[Document]) -> list[Row]:
    rows: list[Row] = []
    for table in tables:
        found = front_comparisons(table)
        if found:
            rows.append((table_title(table), None))
        rows += [(f"{recipe} vs {family}", front["differences"]) for recipe, family, front in found]
    return rows


def _forest_panel(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    axes.axvline(0, color=MUTED, linewidth=1)
    found = [(place, contrasts[metric]) for place, (_, contrasts) in enumerate(rows) if contrasts]
    for place, contrast in found:
        value, ends = 100 * contrast["difference"], [100 * end for end in contrast["interval"]]
        axes.plot(ends, [place, place], color=COLOURS[0], linewidth=1.2)
        filled = contrast["p_adjusted"] < SIGNIFICANT
        axes.plot(value, place, "o", color=COLOURS[0], markerfacecolor=COLOURS[0] if filled else "white")
    reach = REACH * max(abs(100 * contrast["difference"]) for _, contrast in found) or 1.0
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
