"""Figures of a benchmark: Pareto plot of clean against robust scores, forest plot of distances from fronts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpaat.benchmark.document import Document, front_comparisons, table_title
from dpaat.benchmark.outcomes import AREA
from dpaat.evaluation.fronts import upper_hull
from dpaat.evaluation.statistics import SIGNIFICANT
from dpaat.radii import format_radius
from dpaat.report.drawing import COLOURS, GREY, INK, MAX_LINES, MUTED, STYLE, SVG, USUAL, label_points, look
from dpaat.report.figures import Estimate, draw_pareto

PANEL = (4.2, 3.4)
"""Inches, of the Pareto plot."""
FOREST_PANEL, LINE = 1.45, 0.2
"""Inches: width of a panel of the forest plot, height of a row."""
REACH = 1.6
"""A panel ends at this multiple of its largest difference; against a steep front an interval can be endless."""
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 9, "color": INK}


@dataclass(frozen=True)
class Plane:
    """A clean score against a robust one, by their keys in a row's `scores`, with the labels of the axes."""

    x: str
    y: str
    x_label: str
    y_label: str

    def place(self, row: Document) -> tuple[float, float]:
        """Coordinates of a row of a table."""
        return row["scores"][self.x]["value"], row["scores"][self.y]["value"]


def write_pareto(document: Document, out: Path) -> None:
    """Draw clean balanced accuracy against the area under the robust one, and mAP against mAP under attack, as SVG.

    A row of panels per data and model; mAP is that at the middle radius, or the lower of two. Recipes of a family are
    joined by a line, in the order of their radii, and labelled by them, others by their names; beyond six they are
    grey. The dashed line is the front that others are compared with. Bars are 95 % intervals.
    """
    tables, radii = document["tables"], document["evaluation"]["eps"]
    middle = format_radius(radii[(len(radii) - 1) // 2])
    area = "area under the robust\nbalanced accuracy"
    planes = [
        Plane("balanced_accuracy", AREA, "clean balanced accuracy", area),
        Plane("map", f"map@{middle}", "clean mAP", f"mAP at {middle}"),
    ]
    looks = _looks(tables)
    size = (PANEL[0] * len(planes), PANEL[1] * len(tables) + 0.3)
    with rc_context(STYLE | {"axes.grid.axis": "both"}):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = figure.subplots(len(tables), len(planes), squeeze=False)
        panels = [(grid[k, n], table, plane) for k, table in enumerate(tables) for n, plane in enumerate(planes)]
        handles: dict[str, Any] = {}
        for axes, table, plane in panels:
            pareto_panel(axes, table, plane, looks)
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * len(planes))
        figure.draw_without_rendering()
        for axes, table, plane in panels:
            rows = sorted(table["rows"], key=lambda row: looks[_series(row)]["color"] == GREY)
            grey = [looks[_series(row)]["color"] == GREY for row in rows]
            names = [
                row["recipe"].removeprefix("" if k else f"{row['family']}-") for k, row in zip(grey, rows, strict=True)
            ]
            points = [(name, *plane.place(row)) for name, row in zip(names, rows, strict=True)]
            label_points(axes, points, [looks[_series(row)]["color"].replace(GREY, MUTED) for row in rows])
        figure.savefig(out, **SVG)


def pareto_panel(axes: Axes, table: Document, plane: Plane, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the recipes of a table in a plane, families in a row, with the fronts that others are compared with."""
    series: dict[str, list[tuple[Estimate, Estimate]]] = {}
    for row in table["rows"]:
        x, y = (Estimate(**row["scores"][key]) for key in (plane.x, plane.y))
        series.setdefault(_series(row), []).append((x, y))
    places = {row["recipe"]: plane.place(row) for row in table["rows"]}
    fronts = []
    for family, recipes in {family: front["members"] for _, family, front in front_comparisons(table)}.items():
        hull = upper_hull({each: places[each] for each in recipes})
        fronts.append((looks[family]["color"], [places[each] for each in hull]))
    draw_pareto(axes, series, fronts, looks)
    axes.set_title(table_title(table), **TITLE)
    axes.set(xlabel=plane.x_label, ylabel=plane.y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))


def _series(row: Document) -> str:
    return str(row["family"] or row["recipe"])


def write_forest(document: Document, out: Path) -> bool:
    """Draw every comparison with a front, a panel per metric: the difference with its 95 % interval.

    A mark is filled where the difference is beyond chance after Holm's adjustment. An arrow is where an
    interval leaves the panel. Returns whether there is any such comparison; else there is no file.
    """
    rows: list[tuple[str, Mapping[str, Any]]] = []  # label and contrasts by metric; none in a title of the rows below
    for table in document["tables"]:
        if found := front_comparisons(table):
            rows.append((table_title(table), {}))
            rows += [(f"{recipe} vs {family}", front["differences"]) for recipe, family, front in found]
    if not rows:
        out.unlink(missing_ok=True)
        return False
    metrics = [metric for metric in rows[1][1] if not metric.startswith("accuracy")]  # the table has these as well
    size = (2.3 + FOREST_PANEL * len(metrics), 0.9 + LINE * len(rows))
    with rc_context(STYLE | {"axes.grid.axis": "x"}):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            contrasts = {place: each[metric] for place, (_, each) in enumerate(rows) if each}
            _forest_panel(axes, contrasts)
            axes.set_title(metric.replace("map@", "mAP at "), **TITLE)
        panels[0].set_yticks(range(len(rows)), [label for label, _ in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        for tick, (_, differences) in zip(panels[0].get_yticklabels(), rows, strict=True):
            tick.set_color(MUTED if differences else INK)
        text = f"points above the front at the recipe's own clean score, 95 % interval; filled: p < {SIGNIFICANT} after"
        figure.supxlabel(f"{text} Holm", fontsize=8, color=MUTED)
        figure.savefig(out, **SVG)
    return True


def _looks(tables: Sequence[Document]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every series: usual ones and families first; all beyond the sixth are grey.

    Only families have a place in the legend, as the names of others are beside them.
    """
    rows = [row for table in tables for row in table["rows"]]
    order = sorted(rows, key=lambda r: (r["recipe"] not in USUAL, r["family"] is None, -r["scores"][AREA]["value"]))
    found: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(dict.fromkeys(map(_series, order))):
        found[name] = look(k) if k < MAX_LINES else {"color": GREY, "marker": "o"}
        found[name]["label"] = name if k < MAX_LINES and any(row["family"] == name for row in rows) else "_"
    return found


def _forest_panel(axes: Axes, contrasts: Mapping[int, Mapping[str, Any]]) -> None:
    axes.axvline(0, color=MUTED, linewidth=1)
    for place, contrast in contrasts.items():
        axes.plot([100 * end for end in contrast["interval"]], [place, place], color=COLOURS[0], linewidth=1.2)
        fill = COLOURS[0] if contrast["p_adjusted"] < SIGNIFICANT else "white"
        axes.plot(100 * contrast["difference"], place, "o", color=COLOURS[0], markerfacecolor=fill)
    reach = REACH * max(abs(100 * contrast["difference"]) for contrast in contrasts.values()) or 1.0
    axes.set_xlim(-reach, reach)
    for place, contrast in contrasts.items():
        for end, side, marker in zip(contrast["interval"], (-1, 1), "<>", strict=True):
            if side * 100 * end > reach:
                axes.plot(side * reach, place, marker, color=COLOURS[0], markersize=4, clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
