"""Draw what `run.py` measured: an attack pass and a training step of every library, in units of dpaat's.

python benchmarks/peers/plot.py benchmarks/results/peers-cpu.json --out benchmarks/results/peers-cpu.svg

Needs nothing but this package; `run.py --plot FILE` draws the same at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpaat.report.drawing import COLOURS, INK, MUTED, STYLE
from dpaat.storage import read_json

PANELS = {"attack": "one attack pass", "training_step": "one training step"}
WIDTH, ROW = 4.6, 0.34
"""Inches of a panel, and of a library in it."""


def write_plot(document: Mapping[str, Any], out: Path) -> None:
    """Draw a panel for the attack and one for the training step: a bar per library and memory layout.

    Bars are medians of the rounds, lines reach from the least to the largest; robust accuracy after the attack is
    beside the bar.

    Args:
        document: what `run.py` writes.
        out: SVG file to write.
    """
    results = document["results"]
    rows = max(len(names_of(results, kind)) for kind in PANELS)
    with rc_context(STYLE | {"axes.grid.axis": "x"}):  # type: ignore[arg-type]
        figure = Figure(figsize=(2 * WIDTH, ROW * rows + 1.2), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 2)
        for axes, (kind, title) in zip(panels, PANELS.items(), strict=True):
            _panel(axes, results, kind)
            axes.set_title(title, loc="left", fontsize=9, color=INK)
        setting = document["setting"]
        figure.suptitle(
            f"{setting['model']}, {setting['image_size']} px, batch {setting['batch']}, K = {setting['steps']}, "
            f"{document['device']}",
            fontsize=9,
            color=MUTED,
        )
        if len(results) > 1:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(results))
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})


def names_of(results: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Libraries of a panel, the quickest first by their first layout."""
    times = {name: row["seconds"] for result in reversed(results) for name, row in result[kind].items()}
    return sorted(times, key=times.__getitem__)


def _panel(axes: Axes, results: Sequence[Mapping[str, Any]], kind: str) -> None:
    names, height = names_of(results, kind), 0.8 / len(results)
    for number, result in enumerate(results):
        offset = (number - (len(results) - 1) / 2) * height
        for place, name in enumerate(names):
            if name not in result[kind]:
                continue
            row = result[kind][name]
            over = row["over_dpaat"]
            axes.barh(
                place + offset,
                over["median"],
                height,
                color=COLOURS[number],
                alpha=1 if name.startswith("dpaat") else 0.55,
                label=result["layout"] if name == "dpaat" else None,
            )
            axes.plot([over["min"], over["max"]], [place + offset] * 2, color=INK, linewidth=0.8)
            robust = f"{row['robust_accuracy']:.1%} robust" if "robust_accuracy" in row else ""
            axes.annotate(
                robust,
                (over["max"], place + offset),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                color=MUTED,
            )
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    axes.invert_yaxis()
    largest = max(row["over_dpaat"]["max"] for result in results for row in result[kind].values())
    axes.set_xlim(0, 1.3 * largest)
    axes.set_xlabel("time, in units of dpaat's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON file that run.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="SVG file to write")
    given = parser.parse_args()
    write_plot(read_json(given.results), given.out)


if __name__ == "__main__":
    main()
