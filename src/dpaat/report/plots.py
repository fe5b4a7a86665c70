"""Figures as inline SVG: no colour without a second sign, no text that a font of the reader's could not draw."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dpaat.radii import format_radius

# Okabe and Ito's palette, which all common kinds of colour vision tell apart, without its yellow (too pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, MUTED, RULE = "#1c1f23", "#5b626b", "#d9dde2"
MAX_LINES = len(COLOURS)
MAX_ROWS = 30
WIDTH = 4.6
"""Inches; on a phone a figure is shown at about this size, elsewhere larger."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dpaat",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Plot:
    """One figure of the page.

    Attributes:
        svg: the drawing, for the page's body.
        alt: what it shows, with its numbers, for those who do not see it.
        caption: what it shows, for those who do.
    """

    svg: str
    alt: str
    caption: str


def line_plot(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    level: tuple[str, float] | None = None,
    radii: bool = False,
    percent: bool = True,
) -> Plot:
    """Draw one line per name.

    Args:
        lines: name to points (x, y); lines beyond the seventh are drawn thin and grey, without a name.
        x_label: of the x axis.
        y_label: of the y axis.
        caption: below the figure.
        level: a name and a height to draw across, such as the constant predictor's.
        radii: x is a radius of a [0, 1] image, and written as one; else an epoch.
        percent: y is a fraction, and written as percent; else a plain number.
    """
    with _canvas(WIDTH, 2.9) as (canvas, axes):
        for k, (name, points) in enumerate(lines.items()):
            x, y = (list(column) for column in zip(*points, strict=True))
            if k < MAX_LINES:
                axes.plot(x, y, color=COLOURS[k], marker=MARKERS[k], label=_short(name), markevery=_every(len(x)))
            else:
                axes.plot(x, y, color="#b3b9c1", linewidth=0.7, zorder=1)
        if level is not None:
            axes.axhline(level[1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=_short(level[0]))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if percent:
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        if radii:
            _radius_ticks(axes, sorted({x for points in lines.values() for x, _ in points}))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _legend(axes)
        svg = _to_svg(canvas)
    return Plot(svg, _line_alt(caption, lines, radii=radii, percent=percent), caption)


def recall_plot(clean: Mapping[str, float], attacked: Mapping[str, float], *, condition: str, caption: str) -> Plot:
    """Draw recall per class, clean and attacked, as two ends of a bar.

    Args:
        clean: class to recall on clean images, in the order wanted.
        attacked: the same under attack.
        condition: what `attacked` is, such as "PGD-20 4/255".
        caption: below the figure.
    """
    names = list(clean)[:MAX_ROWS]
    rows = np.arange(len(names))
    before, after = np.array([clean[n] for n in names]), np.array([attacked[n] for n in names])
    with _canvas(WIDTH, 0.9 + 0.27 * len(names)) as (canvas, axes):
        axes.hlines(rows, after, before, color=RULE, linewidth=5, zorder=1)
        axes.scatter(before, rows, s=34, color=COLOURS[0], label="clean", zorder=3)
        axes.scatter(after, rows, s=34, color=COLOURS[1], marker="s", label=condition, zorder=2)
        axes.set_yticks(rows, [_short(name) for name in names])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.set_xlabel("recall")
        _legend(axes)
        svg = _to_svg(canvas)
    values = "; ".join(f"{n} {clean[n]:.0%} clean, {attacked[n]:.0%} attacked" for n in names)
    return Plot(svg, f"{caption} {values}.", caption)


def radius_map(frame: pd.DataFrame, *, eps_max: float, caption: str) -> Plot:
    """Draw how the radii of each class are distributed: a row per class, darker where more of its images are.

    Args:
        frame: columns `class` and `eps`, one row per training image.
        eps_max: the largest radius possible.
        caption: below the figure.
    """
    names = frame["class"].value_counts().index[:MAX_ROWS].tolist()
    edges = np.linspace(0, eps_max, 17)
    shares = np.array([_shares(frame.loc[frame["class"] == name, "eps"].to_numpy(), edges) for name in names])
    with _canvas(WIDTH, 0.9 + 0.27 * len(names)) as (canvas, axes):
        mesh = axes.pcolormesh(
            edges, np.arange(len(names) + 1) - 0.5, shares, cmap="Blues", vmin=0, edgecolors="white", linewidth=0.5
        )
        axes.set_yticks(np.arange(len(names)), [_short(name) for name in names])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        _radius_ticks(axes, [0.0, *(eps_max * k / 4 for k in (1, 2, 3)), eps_max])
        axes.set_xlabel("radius")
        bar = canvas.colorbar(
            mesh, ax=axes, format=PercentFormatter(1.0, decimals=0, symbol=" %"), aspect=14, ticks=MaxNLocator(4)
        )
        bar.outline.set_visible(False)
        bar.set_label("share of the class")
        svg = _to_svg(canvas)
    quantiles = frame.groupby("class")["eps"].quantile(np.array([0.1, 0.5, 0.9])).unstack()
    values = "; ".join(f"{name} {', '.join(f'{255 * q:.1f}' for q in quantiles.loc[name])}" for name in names)
    return Plot(svg, f"{caption} 10th, 50th and 90th percentile in 255ths: {values}.", caption)


def own_ids(svg: str, prefix: str) -> str:
    """Put a prefix before every id in a drawing, so that several can stand on one page."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return re.sub(r'(href="#|url\(#)', rf"\1{prefix}", svg)


def _to_svg(canvas: Canvas) -> str:
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Without a width and a height of its own the drawing takes those of its place on the page.
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple[Canvas, Axes]]:
    with rc_context(STYLE):  # type: ignore[arg-type]
        canvas = Canvas(figsize=(width, height), layout="constrained")
        canvas.patch.set_alpha(0)
        yield canvas, canvas.subplots()


def _legend(axes: Axes) -> None:
    longest = max(len(name) for name in axes.get_legend_handles_labels()[1])
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=max(1, min(4, 60 // (longest + 5))),
        borderaxespad=0.2,
        handlelength=1.5,
        columnspacing=1.0,
    )


def _radius_ticks(axes: Axes, radii: Sequence[float]) -> None:
    shown = [radii[0]]
    for radius in radii[1:]:
        # Labels of radii closer than a tenth of the axis would run into each other.
        if radius - shown[-1] >= 0.1 * (radii[-1] - radii[0]):
            shown.append(radius)
    axes.set_xticks(shown, [format_radius(radius) for radius in shown])


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / max(len(values), 1)


def _every(points: int) -> int:
    return max(1, points // 12)


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _line_alt(caption: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, radii: bool, percent: bool) -> str:
    def write(point: tuple[float, float]) -> str:
        x = format_radius(point[0]) if radii else f"epoch {point[0]:.0f}"
        return f"{f'{100 * point[1]:.1f} %' if percent else f'{point[1]:.3g}'} at {x}"

    parts = []
    for name, points in list(lines.items())[:MAX_LINES]:
        told = points if radii else [points[0], points[-1]] if len(points) > 1 else points
        parts.append(f"{name}: {', '.join(write(point) for point in told)}")
    rest = f" and {len(lines) - MAX_LINES} more lines" if len(lines) > MAX_LINES else ""
    return f"{caption} {'; '.join(parts)}{rest}."
