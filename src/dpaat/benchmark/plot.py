"""The Pareto plot: what robustness costs in clean balanced accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox

from dpaat.benchmark.document import Document
from dpaat.benchmark.outcomes import AREA
from dpaat.report.drawing import COLOURS, INK, MARKERS, MUTED, STYLE

PANEL = (4.2, 3.4)
"""Inches."""
MAX_COLUMNS = 3
PLACES = ((6, 5), (6, -11), (-6, 5), (-6, -11), (0, 9), (0, -15), (14, -3), (-14, -3), (0, 20), (0, -26))
"""Offsets in points that a label is tried at."""


def write_pareto(document: Document, out: Path) -> None:
    """Draw clean balanced accuracy against the area under the robust balanced accuracy, a panel per data and model.

    Recipes of a family are joined by a line, in the order of their radii, and labelled by them. Bars are 95 %
    intervals.

    Args:
        document: see `make_document`.
        out: SVG file to write.
    """
    tables = document["tables"]
    names = list(dict.fromkeys(row["family"] or row["recipe"] for table in tables for row in table["rows"]))
    looks = {name: _look(k) for k, name in enumerate(names)}
    columns = min(MAX_COLUMNS, len(tables))
    rows = math.ceil(len(tables) / columns)
    legend_rows = math.ceil(len(names) / (2 * columns))
    size = (PANEL[0] * columns, PANEL[1] * rows + 0.22 * legend_rows)
    with rc_context(STYLE | {"axes.grid.axis": "both"}):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, table in zip(panels, tables, strict=False):
            _panel(axes, table, looks)
        for axes in panels[len(tables) :]:
            axes.set_axis_off()
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * columns)
        figure.draw_without_rendering()
        for axes, table in zip(panels, tables, strict=False):
            _label(axes, table)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})


def _look(number: int) -> dict[str, Any]:
    """A colour and a marker; no two of the first 49 series share both."""
    turn, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[(colour + turn) % len(MARKERS)]}


def _panel(axes: Axes, table: Document, looks: Mapping[str, Mapping[str, Any]]) -> None:
    series: dict[str, list[Document]] = {}
    for row in table["rows"]:
        series.setdefault(row["family"] or row["recipe"], []).append(row["scores"])
    for name, members in series.items():
        x, y = ([scores[key] for scores in members] for key in ("balanced_accuracy", AREA))
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
    axes.set_title(f"{table['data']}, {table['model']}", loc="left", fontsize=9, color=INK)
    axes.set_xlabel("clean balanced accuracy")
    axes.set_ylabel("area under the robust\nbalanced accuracy")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.set_major_locator(MaxNLocator(6))


def _bars(scores: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [
        [score["value"] - score["interval"][0] for score in scores],
        [score["interval"][1] - score["value"] for score in scores],
    ]


def _label(axes: Axes, table: Document) -> None:
    """Write the radius beside every point of a family, where it touches neither a point nor another label."""
    places = [(row["scores"]["balanced_accuracy"]["value"], row["scores"][AREA]["value"]) for row in table["rows"]]
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
