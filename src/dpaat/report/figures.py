"""Figures that several sections and the benchmark share: curves, intervals and Pareto fronts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from dpaat.evaluation.entries import Entry
from dpaat.evaluation.fronts import pareto_front
from dpaat.radii import format_radius
from dpaat.report import drawing as draw
from dpaat.report.drawing import Plot

DASHED: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (4, 3))}
Points = Sequence[tuple[float, float]]
Intervals = Mapping[float, Sequence[float]]
"""x to [lower, upper]."""


class Estimate(NamedTuple):
    """A number with its interval, None where there is none."""

    value: float
    interval: Sequence[float] | None = None

    @property
    def row(self) -> tuple[object, ...]:
        """Value, lower and upper end; empty texts where there is no interval."""
        return (self.value, *(self.interval or ("", "")))


def estimate(entry: Entry, key: str = "balanced_accuracy") -> Estimate:
    """A score of a result with its interval."""
    return Estimate(entry["metrics"][key], (entry.get("intervals") or {}).get(key))


@draw.STYLED
def line_plot(
    lines: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    level: tuple[str, float] | None = None,
    bands: Mapping[str, Intervals] | None = None,
    radii: bool = False,
    even: bool = False,
    percent: bool = True,
) -> Plot:
    """Draw one line per name, from points (x, y); those beyond the sixth are grey and share a name.

    `level` is a name and a height to draw across, such as the constant predictor's; `bands` are intervals around lines,
    by x. x is a radius of a [0, 1] image with `radii`, else an epoch; `even` draws its values at even distances, as
    radii that double want it. y is a fraction, written as percent, or with `percent=False` a plain number.
    """
    bands = bands or {}
    ticks = sorted({x for points in lines.values() for x, _ in points})
    place = {x: float(k) for k, x in enumerate(ticks)} if even else {x: x for x in ticks}
    axes = draw.axes_of(2.9)
    ends: list[tuple[str, float, str]] = []
    others = [name for k, name in enumerate(lines) if k >= draw.MAX_LINES]
    for k, (name, points) in enumerate(lines.items()):
        x, y = [place[x] for x, _ in points], [y for _, y in points]
        if name in others:
            axes.plot(x, y, color=draw.GREY, linewidth=0.7, zorder=1)
            continue
        axes.plot(x, y, markevery=max(1, len(x) // 12), **draw.look(k))
        ends.append((name, y[-1], draw.COLOURS[k]))
        if band := bands.get(name):
            low, high = zip(*band.values(), strict=True)
            axes.fill_between([place[x] for x in band], low, high, **draw.band_look(k))
    if level is not None:
        axes.axhline(level[1], color=draw.MUTED, **DASHED)
        ends.append((*level, draw.MUTED))
    if others:
        name = others[0] if len(others) == 1 else f"{len(others)} others, grey"
        ends.append((name, lines[others[0]][-1][1], draw.MUTED))
    axes.set(xlabel=x_label, ylabel=y_label)
    if percent:
        axes.set_ylim(-0.02, 1.02)
        draw.percent_axis(axes.yaxis)
    if even:
        axes.set_xticks(list(place.values()), [format_radius(x) for x in ticks], fontsize=7.5)
    elif radii:
        draw.radius_ticks(axes, ticks)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    draw.label_ends(axes, ends)

    def write(name: str, x: float, y: float) -> str:
        value = f"{100 * y:.1f} %" if percent else f"{y:.3g}"
        return f"{value}{around(bands.get(name, {}).get(x))} at {format_radius(x) if radii else f'epoch {x:.0f}'}"

    told = {name: points if radii or len(points) < 2 else (points[0], points[-1]) for name, points in lines.items()}
    parts = [f"{n}: {', '.join(write(n, *at) for at in points)}" for n, points in told.items()][: draw.MAX_LINES]
    rest = f" and {len(lines) - draw.MAX_LINES} more lines" if len(lines) > draw.MAX_LINES else ""
    rows = [(name, x, y, *bands.get(name, {}).get(x, ("", ""))) for name in lines for x, y in lines[name]]
    rows += [(level[0], "", level[1], "", "")] if level else []
    columns = ["line", "eps" if radii else "epoch", y_label, "lower", "upper"]
    return draw.finish(axes, caption, f"{'; '.join(parts)}{rest}.", columns, rows)


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
        axes.errorbar(values, at, xerr=reach, linestyle="none", label=condition, **style)
    draw.name_rows(axes, names)
    axes.set_xlabel(x_label)
    draw.legend(axes)
    told = [
        f"{condition}: " + ", ".join(f"{n} {100 * e.value:+.1f}{around(e.interval)}" for n, e in found.items())
        for condition, found in groups.items()
    ]
    rows = [(n, condition, *each.row) for condition, found in groups.items() for n, each in found.items()]
    return draw.finish(axes, caption, f"{'; '.join(told)}.", ["name", "condition", x_label, "lower", "upper"], rows)


@draw.STYLED
def pareto_plot(points: Mapping[str, tuple[Estimate, Estimate]], *, x_label: str, y_label: str, caption: str) -> Plot:
    """Draw two scores of every run against each other, and the front of those that no other beats in both.

    Of more runs than there are colours, the usual ones come first, then the front, then those with the largest y.
    """
    values = {name: (x.value, y.value) for name, (x, y) in points.items()}
    axes = draw.axes_of(3.2)
    front = pareto_front(values)
    named = {
        *sorted(values, key=lambda name: (name not in draw.USUAL, name not in front, -values[name][1]))[
            : draw.MAX_LINES
        ]
    }
    looks = {name: draw.look(k) for k, name in enumerate(name for name in values if name in named)}
    looks |= {name: {"color": draw.GREY, "marker": "o"} for name in values if name not in named}
    draw_pareto(axes, {n: [point] for n, point in points.items()}, [(draw.MUTED, [values[n] for n in front])], looks)
    axes.grid(visible=True, axis="both")
    axes.margins(x=0.1)
    axes.set(ylim=(0, 1.25 * max(y for _, y in values.values()) or 1), xlabel=x_label, ylabel=y_label)
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    order = sorted(values, key=lambda name: name not in named)
    colours = [looks[name]["color"] if name in named else draw.MUTED for name in order]
    draw.label_points(axes, [(draw.short(name), *values[name]) for name in order], colours)
    told = "; ".join(f"{name}: {100 * x:.1f} % and {100 * y:.1f} %" for name, (x, y) in values.items())
    rows = [(name, *x.row, y.value) for name, (x, y) in points.items()]
    return draw.finish(axes, caption, f"{told}.", ["run", x_label, "lower", "upper", y_label], rows)


def draw_pareto(
    axes: Axes,
    series: Mapping[str, Sequence[tuple[Estimate, Estimate]]],
    fronts: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Draw one score against another, fractions with intervals as bars; a line joins the points of a series.

    `fronts` are colour and corners of broken lines; `looks` name to colour and marker, else in the order of the series.
    """
    for k, (name, points) in enumerate(series.items()):
        style = draw.look(k) if looks is None else looks[name]
        xs, ys = zip(*points, strict=True)
        style = {**style, "linewidth": 1.2, "elinewidth": 0.7, "ecolor": to_rgba(style["color"], 0.45), "capsize": 0}
        style |= {f"{axis}err": reach for axis, each in (("x", xs), ("y", ys)) if (reach := _reach(each)).any()}
        style.setdefault("label", name)
        axes.errorbar([x.value for x in xs], [y.value for y in ys], markersize=5.5, **style)
    for colour, corners in fronts:
        axes.plot(*zip(*corners, strict=True), color=colour, zorder=1, **DASHED | {"linewidth": 0.9})
    draw.percent_axis(axes.yaxis)
    draw.percent_axis(axes.xaxis, prune="lower")


def _reach(estimates: Sequence[Estimate]) -> np.ndarray:
    """How far intervals reach below and above their values, `(2, N)`."""
    ends = np.array([each.interval or (each.value, each.value) for each in estimates])
    values = np.array([[each.value] for each in estimates])
    return np.asarray(np.abs(ends - values).T)


def around(interval: Sequence[float] | None) -> str:
    """An interval of a fraction behind its value in percent; nothing for None."""
    return f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
