"""The forest plot: how far recipes stand above the front of every sweep, at their own clean score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpaat.benchmark.contrasts import SIGNIFICANT
from dpaat.benchmark.document import Document, front_comparisons, table_title
from dpaat.report.drawing import COLOURS, INK, MUTED, STYLE, SVG

PANEL, LINE = 1.45, 0.2
"""Inches: width of a panel, height of a row."""
REACH = 1.6
"""A panel ends at this multiple of its largest difference; against a steep front an interval can be endless."""
Row = tuple[str, Mapping[str, Mapping[str, Any]] | None]
"""A label, and contrasts by metric; without these it is the title of the rows below."""


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
    size = (2.3 + PANEL * len(metrics), 0.9 + LINE * len(rows))
    with rc_context(STYLE | {"axes.grid.axis": "x"}):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _panel(axes, rows, metric)
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


def _panel(axes: Axes, rows: Sequence[Row], metric: str) -> None:
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
