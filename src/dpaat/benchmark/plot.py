"""The Pareto plot: what robustness costs in clean balanced accuracy, and in clean mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox

from dpaat.benchmark.contrasts import upper_hull
from dpaat.benchmark.document import Document, front_comparisons, table_title
from dpaat.benchmark.outcomes import AREA
from dpaat.radii import format_radius
from dpaat.report.drawing import COLOURS, INK, MARKERS, MUTED, STYLE, SVG

PANEL = (4.2, 3.4)
"""Inches."""
PLACES = ((6, 5), (6, -11), (-6, 5), (-6, -11), (0, 9), (0, -15), (14, -3), (-14, -3), (0, 20), (0, -26))
"""Offsets in points that a label is tried at."""


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
    tables = document["tables"]
    names = list(dict.fromkeys(row["family"] or row["recipe"] for table in tables for row in table["rows"]))
    looks = {name: _look(k) for k, name in enumerate(names)}
    shown = planes(document["evaluation"]["eps"])
    columns = len(shown)
    legend_rows = -(-len(names) // (2 * columns))
    size = (PANEL[0] * columns, PANEL[1] * len(tables) + 0.22 * legend_rows)
    with rc_context(STYLE | {"axes.grid.axis": "both"}):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = figure.subplots(len(tables), columns, squeeze=False)
        panels = [
            (axes, table, plane)
            for table, row in zip(tables, grid, strict=True)
            for axes, plane in zip(row, shown, strict=True)
        ]
        for axes, table, plane in panels:
            _panel(axes, table, plane, looks)
        handles = {
            label: handle
            for axes, _, _ in panels
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * columns)
        figure.draw_without_rendering()
        for axes, table, plane in panels:
            _label(axes, table, plane)
        figure.savefig(out, **SVG)


def _look(number: int) -> dict[str, Any]:
    """A colour and a marker; no two of the first 49 series share both."""
    turn, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[(colour + turn) % len(MARKERS)]}


def _panel(axes: Axes, table: Document, plane: Plane, looks: Mapping[str, Mapping[str, Any]]) -> None:
    series: dict[str, list[Document]] = {}
    for row in table["rows"]:
        series.setdefault(row["family"] or row["recipe"], []).append(row["scores"])
    for name, members in series.items():
        x, y = ([scores[key] for scores in members] for key in (plane.x, plane.y))
        axes.errorbar(
            [score["value"] for score in x],
            [score["value"] for score in y],
            xerr=_bars(x),
            yerr=_bars(y),
            label=name,
            linewidth=1.2,
            elinewidth=0.7,
            ecolor=to_rgba(looks[name]["color"], 0.45),
            capsize=0,
            markersize=5.5,
            **looks[name],
        )
    scores = {row["recipe"]: row["scores"] for row in table["rows"]}
    fronts = {family: front["members"] for _, family, front in front_comparisons(table)}
    for family, recipes in fronts.items():
        places = {each: (scores[each][plane.x]["value"], scores[each][plane.y]["value"]) for each in recipes}
        hull = [places[each] for each in upper_hull(places)]
        axes.plot(
            *zip(*hull, strict=True), color=looks[family]["color"], linewidth=0.9, linestyle=(0, (4, 3)), zorder=1
        )
    axes.set_title(table_title(table), loc="left", fontsize=9, color=INK)
    axes.set_xlabel(plane.x_label)
    axes.set_ylabel(plane.y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axis.set_major_locator(MaxNLocator(6))


def _bars(scores: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [
        [score["value"] - score["interval"][0] for score in scores],
        [score["interval"][1] - score["value"] for score in scores],
    ]


def _label(axes: Axes, table: Document, plane: Plane) -> None:
    """Write the radius beside every point of a family, where it touches neither a point nor another label."""
    places = [tuple(row["scores"][key]["value"] for key in (plane.x, plane.y)) for row in table["rows"]]
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
