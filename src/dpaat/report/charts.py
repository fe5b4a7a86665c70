"""Figures of tables and intervals: matrices, differences with whiskers, reliability, one score against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from dpaat.evaluation.statistics import recall_interval
from dpaat.report.drawing import (
    COLOURS,
    INK,
    MARKERS,
    MAX_LINES,
    MUTED,
    WIDTH,
    Plot,
    canvas_of,
    legend,
    short,
    to_svg,
    write_csv,
)
from dpaat.report.plots import band_look, name_rows

MAX_WRITTEN = 12
"""Columns of a matrix whose numbers still fit into its cells."""
BINS = 10


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, None where there is none."""

    value: float
    interval: Sequence[float] | None = None


def matrix_plot(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
    caption: str,
    alt: str,
    data: str,
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
        data: the numbers behind it, as CSV.
    """
    written = len(columns) <= MAX_WRITTEN
    with canvas_of(WIDTH, 0.95 + max(0.26, 0.34 if len(rows) < 9 else 0.26) * len(rows)) as (canvas, axes):
        axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        name_rows(axes, rows)
        axes.set_xticks(np.arange(len(columns)), [short(name, 12) for name in columns])
        if max(len(name) for name in columns) * len(columns) > 48:
            axes.tick_params(axis="x", labelrotation=90)
        axes.tick_params(axis="x", labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        for row, column in np.ndindex(*values.shape) if written else ():
            if not np.isnan(value := values[row, column]):
                colour = "white" if value > 0.55 else INK
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=8)
        svg = to_svg(canvas)
    return Plot(svg, f"{caption} {alt}", caption, data)


def whisker_plot(
    groups: Mapping[str, Mapping[str, Estimate]], *, x_label: str, caption: str, percent: bool = True
) -> Plot:
    """Draw estimates with their intervals as dots with whiskers around a line at 0.

    Args:
        groups: condition to row name to estimate.
        x_label: what is estimated.
        caption: below the figure.
        percent: estimates are fractions, written in percentage points.
    """
    scale = 100 if percent else 1
    names = list(dict.fromkeys(name for found in groups.values() for name in found))
    step = 0.5 / max(len(groups), 2)
    with canvas_of(WIDTH, 0.9 + (0.2 + 0.1 * len(groups)) * len(names)) as (canvas, axes):
        axes.axvline(0, color=MUTED, linewidth=1)
        for k, (condition, found) in enumerate(list(groups.items())[:MAX_LINES]):
            at = [names.index(name) + step * (k - (len(groups) - 1) / 2) for name in found]
            values = np.array([scale * each.value for each in found.values()])
            ends = np.array([[scale * end for end in each.interval or (each.value,) * 2] for each in found.values()])
            reach = np.abs(ends.reshape(-1, 2) - values[:, None]).T
            look: dict[str, Any] = {"color": COLOURS[k], "marker": MARKERS[k], "markersize": 5, "linewidth": 1.3}
            axes.errorbar(values, at, xerr=reach, linestyle="none", label=short(condition), **look)
        name_rows(axes, names)
        axes.set_xlabel(x_label)
        legend(axes)
        svg = to_svg(canvas)
    told = [
        f"{condition}: "
        + ", ".join(
            f"{name} {scale * each.value:+.1f}"
            + (f" [{scale * each.interval[0]:.1f}, {scale * each.interval[1]:.1f}]" if each.interval else "")
            for name, each in found.items()
        )
        for condition, found in groups.items()
    ]
    rows = [
        (name, condition, each.value, *(each.interval or ("", "")))
        for condition, found in groups.items()
        for name, each in found.items()
    ]
    data = write_csv(["name", "condition", x_label, "lower", "upper"], rows)
    return Plot(svg, f"{caption} {'; '.join(told)}.", caption, data)


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
    with canvas_of(WIDTH, 3.2) as (canvas, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="to be trusted")
        for k, condition in enumerate(conditions):
            x, y, lower, upper = np.array([row[1:5] for row in rows if row[0] == condition]).T
            axes.plot(x, y, color=COLOURS[k], marker=MARKERS[k], label=short(condition))
            axes.fill_between(x, lower, upper, **band_look(k))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("confidence in the answer")
        axes.set_ylabel("right answers")
        legend(axes)
        svg = to_svg(canvas)
    told = [
        f"{condition}: " + ", ".join(f"{r[2]:.0%} right at {r[1]:.0%} ({r[5]})" for r in rows if r[0] == condition)
        for condition in conditions
    ]
    data = write_csv(["condition", "mean confidence", "share right", "lower", "upper", "images"], rows)
    return Plot(svg, f"{caption} {'; '.join(told)}.", caption, data)


def pareto_plot(points: Mapping[str, tuple[Estimate, Estimate]], *, x_label: str, y_label: str, caption: str) -> Plot:
    """Draw one score against another, a mark per run, and the front of those that no other beats in both.

    Args:
        points: run to its two scores, fractions, more is better.
        x_label: the first score.
        y_label: the second.
        caption: below the figure.
    """
    values = {name: (x.value, y.value) for name, (x, y) in points.items()}
    front = sorted(
        (x, y)
        for x, y in values.values()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in values.values())
    )
    with canvas_of(WIDTH, 3.2) as (canvas, axes):
        axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for k, (name, (x, y)) in enumerate(points.items()):
            look: dict[str, Any] = {"color": COLOURS[k % MAX_LINES], "marker": MARKERS[k % MAX_LINES], "markersize": 7}
            reach = [[abs(end - x.value)] for end in x.interval or (x.value, x.value)]
            axes.errorbar([x.value], [y.value], xerr=reach, linestyle="none", linewidth=1, label=short(name), **look)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(visible=True, axis="both")
        axes.margins(x=0.1)
        axes.set_ylim(0, 1.25 * max(y for _, y in values.values()) or 1)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        legend(axes)
        svg = to_svg(canvas)
    told = "; ".join(f"{name}: {100 * x:.1f} % and {100 * y:.1f} %" for name, (x, y) in values.items())
    rows = [(name, x.value, *(x.interval or ("", "")), y.value) for name, (x, y) in points.items()]
    data = write_csv(["run", x_label, "lower", "upper", y_label], rows)
    return Plot(svg, f"{caption} {told}.", caption, data)
