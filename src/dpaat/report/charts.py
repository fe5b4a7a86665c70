"""Figures of matrices, intervals, calibration and Pareto fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from dpaat.evaluation.fronts import pareto_front
from dpaat.evaluation.means import recall_interval
from dpaat.report import drawing as draw
from dpaat.report.drawing import Plot

MAX_WRITTEN = 12
"""Columns of a matrix whose numbers still fit into its cells."""
BINS = 10


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, None where there is none."""

    value: float
    interval: Sequence[float] | None = None


@draw.STYLED
def matrix_plot(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
    caption: str,
    alt: str,
    data: tuple[Sequence[str], Sequence[Sequence[object]]],
) -> Plot:
    """Draw a matrix of shares, darker where they are larger, with percents in the cells where they fit.

    Args:
        values: `(len(rows), len(columns))`, in [0, 1]; NaN for an empty cell.
        rows: names beside it.
        columns: names below it.
        x_label: what the columns are.
        y_label: what the rows are.
        caption: below the figure.
        alt: the numbers to be told.
        data: columns and rows of the numbers behind it.
    """
    written = len(columns) <= MAX_WRITTEN
    axes = draw.axes_of(0.95 + max(0.26, 0.34 if len(rows) < 9 else 0.26) * len(rows))
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    draw.name_rows(axes, rows)
    axes.set_xticks(np.arange(len(columns)), [draw.short(name, 12) for name in columns])
    if max(len(name) for name in columns) * len(columns) > 48:
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(axis="x", labelcolor=draw.INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    for row, column in np.ndindex(*values.shape) if written else ():
        if not np.isnan(value := values[row, column]):
            colour = "white" if value > 0.55 else draw.INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    return draw.finish(axes, caption, alt, *data)


@draw.STYLED
def whisker_plot(groups: Mapping[str, Mapping[str, Estimate]], *, x_label: str, caption: str) -> Plot:
    """Draw fractions with intervals, by condition and row name, as dots with whiskers in percentage points around 0."""
    names = list(dict.fromkeys(name for found in groups.values() for name in found))
    step = 0.5 / max(len(groups), 2)
    axes = draw.axes_of(0.9 + (0.2 + 0.1 * len(groups)) * len(names))
    axes.axvline(0, color=draw.MUTED, linewidth=1)
    for k, (condition, found) in enumerate(list(groups.items())[: draw.MAX_LINES]):
        at = [names.index(name) + step * (k - (len(groups) - 1) / 2) for name in found]
        values, reach = [100 * each.value for each in found.values()], 100 * _reach([*found.values()])
        style: dict[str, Any] = {**draw.look(k), "markersize": 5, "linewidth": 1.3}
        axes.errorbar(values, at, xerr=reach, linestyle="none", label=draw.short(condition), **style)
    draw.name_rows(axes, names)
    axes.set_xlabel(x_label)
    draw.legend(axes)
    told = [
        f"{condition}: "
        + ", ".join(
            f"{name} {100 * each.value:+.1f}"
            + (f" [{100 * each.interval[0]:.1f}, {100 * each.interval[1]:.1f}]" if each.interval else "")
            for name, each in found.items()
        )
        for condition, found in groups.items()
    ]
    rows = [
        (name, condition, each.value, *(each.interval or ("", "")))
        for condition, found in groups.items()
        for name, each in found.items()
    ]
    return draw.finish(axes, caption, f"{'; '.join(told)}.", ["name", "condition", x_label, "lower", "upper"], rows)


@draw.STYLED
def reliability_plot(conditions: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], *, caption: str) -> Plot:
    """Draw the share of right answers against the confidence in them, in ten bins of equal width.

    Args:
        conditions: name to the confidence of each answer `(N,)` in [0, 1], whether it is right `(N,)`, and the lesion
            or patient of each image `(N,)`, by which intervals are widened.
        caption: below the figure.
    """
    rows: list[tuple[str, float, float, float, float, int]] = []
    for name, (confidence, right, groups) in conditions.items():
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        for each in np.unique(place):
            here = place == each
            low, high = recall_interval(right[here], groups[here])
            rows.append((name, float(confidence[here].mean()), float(right[here].mean()), low, high, int(here.sum())))
    axes = draw.axes_of(3.2)
    axes.plot([0, 1], [0, 1], color=draw.MUTED, linewidth=1, linestyle=(0, (4, 3)), label="to be trusted")
    for k, condition in enumerate(conditions):
        x, y, lower, upper = np.array([row[1:5] for row in rows if row[0] == condition]).T
        axes.plot(x, y, label=draw.short(condition), **draw.look(k))
        axes.fill_between(x, lower, upper, **draw.band_look(k))
    draw.percent_axis(axes.xaxis, axes.yaxis)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("confidence in the answer")
    axes.set_ylabel("right answers")
    draw.legend(axes)
    told = [
        f"{condition}: " + ", ".join(f"{r[2]:.0%} right at {r[1]:.0%} ({r[5]})" for r in rows if r[0] == condition)
        for condition in conditions
    ]
    columns = ["condition", "mean confidence", "share right", "lower", "upper", "images"]
    return draw.finish(axes, caption, f"{'; '.join(told)}.", columns, rows)


@draw.STYLED
def pareto_plot(points: Mapping[str, tuple[Estimate, Estimate]], *, x_label: str, y_label: str, caption: str) -> Plot:
    """Draw two scores of every run against each other, and the front of those that no other beats in both."""
    values = {name: (x.value, y.value) for name, (x, y) in points.items()}
    axes = draw.axes_of(3.2)
    front = [values[name] for name in pareto_front(values)]
    draw_pareto(axes, {name: [point] for name, point in points.items()}, [(draw.MUTED, front)])
    axes.grid(visible=True, axis="both")
    axes.margins(x=0.1)
    axes.set_ylim(0, 1.25 * max(y for _, y in values.values()) or 1)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    draw.legend(axes)
    told = "; ".join(f"{name}: {100 * x:.1f} % and {100 * y:.1f} %" for name, (x, y) in values.items())
    rows = [(name, x.value, *(x.interval or ("", "")), y.value) for name, (x, y) in points.items()]
    return draw.finish(axes, caption, f"{told}.", ["run", x_label, "lower", "upper", y_label], rows)


def draw_pareto(
    axes: Axes,
    series: Mapping[str, Sequence[tuple[Estimate, Estimate]]],
    fronts: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Draw one score against another, fractions with intervals as bars; a line joins the points of a series.

    Args:
        axes: to draw in.
        series: name to points.
        fronts: colour and corners of each, drawn as broken lines.
        looks: name to colour and marker; by default in the order of the series.
    """
    for k, (name, points) in enumerate(series.items()):
        style = draw.look(k) if looks is None else looks[name]
        reach = zip("xy", map(_reach, zip(*points, strict=True)), strict=True)
        bars: dict[str, Any] = {f"{axis}err": each for axis, each in reach if each.any()}
        axes.errorbar(
            [x.value for x, _ in points],
            [y.value for _, y in points],
            **bars,
            label=name,
            linewidth=1.2,
            elinewidth=0.7,
            ecolor=to_rgba(style["color"], 0.45),
            capsize=0,
            markersize=5.5,
            **style,
        )
    for colour, corners in fronts:
        axes.plot(*zip(*corners, strict=True), color=colour, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    draw.percent_axis(axes.xaxis, axes.yaxis)


def _reach(estimates: Sequence[Estimate]) -> np.ndarray:
    """How far intervals reach below and above their values, `(2, N)`."""
    ends = np.array([each.interval or (each.value, each.value) for each in estimates])
    values = np.array([[each.value] for each in estimates])
    return np.asarray(np.abs(ends - values).T)
