"""Figures of curves, classes and radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from dpaat.radii import format_radius
from dpaat.report import drawing as draw
from dpaat.report.drawing import Plot

Points = Sequence[tuple[float, float]]
Intervals = Mapping[float, Sequence[float]]
"""x to [lower, upper]."""


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
    """Draw one line per name.

    Args:
        lines: name to points (x, y); lines beyond the seventh are drawn thin and grey, without a name.
        x_label: of the x axis.
        y_label: of the y axis.
        caption: below the figure.
        level: a name and a height to draw across, such as the constant predictor's.
        bands: name to intervals, drawn as a band around the line.
        radii: x is a radius of a [0, 1] image, and written as one; else an epoch.
        even: draw the x values at even distances, as radii that double want it.
        percent: y is a fraction, and written as percent; else a plain number.
    """
    bands = bands or {}
    ticks = sorted({x for points in lines.values() for x, _ in points})
    place = {x: float(k) for k, x in enumerate(ticks)} if even else {x: x for x in ticks}
    axes = draw.axes_of(2.9)
    for k, (name, points) in enumerate(lines.items()):
        x, y = [place[x] for x, _ in points], [y for _, y in points]
        if k >= draw.MAX_LINES:
            axes.plot(x, y, color="#b3b9c1", linewidth=0.7, zorder=1)
            continue
        axes.plot(x, y, label=draw.short(name), markevery=max(1, len(x) // 12), **draw.look(k))
        if band := bands.get(name):
            low, high = zip(*band.values(), strict=True)
            axes.fill_between([place[x] for x in band], low, high, **draw.band_look(k))
    if level is not None:
        axes.axhline(level[1], color=draw.MUTED, linewidth=1, linestyle=(0, (4, 3)), label=draw.short(level[0]))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if percent:
        axes.set_ylim(-0.02, 1.02)
        draw.percent_axis(axes.yaxis)
    if even:
        axes.set_xticks(list(place.values()), [format_radius(x) for x in ticks], fontsize=7.5)
    elif radii:
        draw.radius_ticks(axes, ticks)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    draw.legend(axes)
    rows = [
        (name, x, y, *bands.get(name, {}).get(x, ("", ""))) for name, points in lines.items() for x, y in points
    ] + ([(level[0], "", level[1], "", "")] if level else [])
    columns = ["line", "eps" if radii else "epoch", y_label, "lower", "upper"]
    return draw.finish(axes, caption, _told(lines, bands, radii=radii, percent=percent), columns, rows)


@draw.STYLED
def recall_plot(clean: Mapping[str, float], attacked: Mapping[str, float], *, condition: str, caption: str) -> Plot:
    """Draw recall per class, clean and under `condition`, as two ends of a bar; classes in the order of `clean`."""
    names = list(clean)[: draw.MAX_ROWS]
    rows = np.arange(len(names))
    before, after = np.array([clean[n] for n in names]), np.array([attacked[n] for n in names])
    axes = draw.axes_of(0.9 + 0.27 * len(names))
    axes.hlines(rows, after, before, color=draw.RULE, linewidth=5, zorder=1)
    axes.scatter(before, rows, s=34, color=draw.COLOURS[0], label="clean", zorder=3)
    axes.scatter(after, rows, s=34, color=draw.COLOURS[1], marker="s", label=condition, zorder=2)
    draw.name_rows(axes, names)
    axes.set_xlim(-0.03, 1.03)
    draw.percent_axis(axes.xaxis)
    axes.set_xlabel("recall")
    draw.legend(axes)
    values = "; ".join(f"{n} {clean[n]:.0%} clean, {attacked[n]:.0%} attacked" for n in names)
    shares = [(n, clean[n], attacked[n]) for n in clean]
    return draw.finish(axes, caption, f"{values}.", ["class", "clean", condition], shares)


@draw.STYLED
def radius_map(frame: pd.DataFrame, *, eps_max: float, caption: str) -> Plot:
    """Draw how the radii of each class are distributed: a row per class, darker where more of its images are.

    `frame` has columns `class` and `eps`, one row per training image; `eps_max` is the largest radius possible.
    """
    names = frame["class"].value_counts().index[: draw.MAX_ROWS].tolist()
    edges = np.linspace(0, eps_max, 17)
    shares = np.array([_shares(frame.loc[frame["class"] == name, "eps"].to_numpy(), edges) for name in names])
    axes = draw.axes_of(0.9 + 0.27 * len(names))
    mesh = axes.pcolormesh(
        edges, np.arange(len(names) + 1) - 0.5, shares, cmap="Blues", vmin=0, edgecolors="white", linewidth=0.5
    )
    draw.name_rows(axes, names)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    draw.radius_ticks(axes, [0.0, *(eps_max * k / 4 for k in (1, 2, 3)), eps_max])
    axes.set_xlabel("radius")
    bar = axes.figure.colorbar(mesh, ax=axes, aspect=14, ticks=MaxNLocator(4))
    draw.percent_axis(bar.ax.yaxis)
    bar.outline.set_visible(False)
    bar.set_label("share of the class")
    quantiles = frame.groupby("class")["eps"].quantile(np.array([0.1, 0.5, 0.9])).unstack()
    values = "; ".join(f"{name} {', '.join(f'{255 * q:.1f}' for q in quantiles.loc[name])}" for name in names)
    rows = [
        (name, low, high, share)
        for name, row in zip(names, shares.tolist(), strict=True)
        for low, high, share in zip(edges[:-1].tolist(), edges[1:].tolist(), row, strict=True)
    ]
    told = f"10th, 50th and 90th percentile in 255ths: {values}."
    return draw.finish(axes, caption, told, ["class", "eps from", "eps to", "share"], rows)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / max(len(values), 1)


def _told(lines: Mapping[str, Points], bands: Mapping[str, Intervals], *, radii: bool, percent: bool) -> str:
    def write(name: str, x: float, y: float) -> str:
        at = format_radius(x) if radii else f"epoch {x:.0f}"
        around = bands.get(name, {}).get(x)
        interval = f" [{100 * around[0]:.1f}, {100 * around[1]:.1f}]" if around else ""
        return f"{f'{100 * y:.1f} %' if percent else f'{y:.3g}'}{interval} at {at}"

    parts = []
    for name, points in list(lines.items())[: draw.MAX_LINES]:
        told = points if radii else [points[0], points[-1]] if len(points) > 1 else points
        parts.append(f"{name}: {', '.join(write(name, x, y) for x, y in told)}")
    rest = f" and {len(lines) - draw.MAX_LINES} more lines" if len(lines) > draw.MAX_LINES else ""
    return f"{'; '.join(parts)}{rest}."
