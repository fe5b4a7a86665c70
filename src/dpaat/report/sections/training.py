"""Report section: data, settings, cost and course of the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from dpaat.report.blocks import Block, Figures, Heading, Section, Text
from dpaat.report.drawing import Plot
from dpaat.report.plots import Points, line_plot
from dpaat.report.view import RunView
from dpaat.tables import Column, Row, Table

MAX_OPEN = 20
"""Classes up to which their table begins unfolded."""


def training_section(runs: Sequence[RunView]) -> Section:
    """The runs, how they differ, the images, cost, losses and validation scores."""
    blocks: list[Block] = [Heading("Runs"), _runs(runs)]
    if rows := differences(runs):
        names = [Column(run.name, left=True, long=True) for run in runs]
        body = [Row(field, values) for field, values in rows]
        blocks += [Heading("Settings in which the runs differ"), Table("setting", names, body)]
    for run in runs:
        lines = [*(run.info.get("warnings") or [])]
        if answer := run.info.get("one_answer"):
            lines.append(f"on validation, the kept model {answer}")
        blocks += [Text(f"{run.name}: {line}.", "warn") for line in lines]
    blocks += _images(runs)
    blocks += [Text(f"{run.name}: {line}.", "warn") for run in runs for line in run.info.get("data_warnings") or []]
    blocks += [
        Text(f"{text}.", "note") for text in dict.fromkeys(n for run in runs for n in run.info.get("notes") or [])
    ]
    if missing := [run.name for run in runs if run.epochs is None]:
        blocks.append(Text(f"No epoch has been logged yet: {', '.join(missing)}.", "note"))
    for run in runs:
        if plots := training_plots(run):
            blocks += [Heading(f"How training went: {run.name}"), Figures(plots)]
    return Section("training", "What was trained on what", blocks)


def differences(runs: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """Fields of the configurations that are not the same for all runs, with their values."""
    configs = [dataclasses.asdict(run.config) for run in runs]
    return [
        (field, [_value(config[field]) for config in configs])
        for field in configs[0]
        if any(config[field] != configs[0][field] for config in configs)
    ]


def training_plots(run: RunView) -> list[Plot]:
    """Losses and validation scores over the epochs."""
    frame = run.epochs
    if frame is None:
        return []
    losses = {"training": points(frame, "train/loss"), "validation, clean": points(frame, "val/loss")}
    prefix = "val/robust_balanced_accuracy@"
    radii = [name.removeprefix(prefix) for name in map(str, frame.columns) if name.startswith(prefix)]
    scores = {"clean": points(frame, "val/balanced_accuracy")} | {
        f"at {radius}": points(frame, prefix + radius) for radius in radii
    }
    loss = "Loss over training; the training loss is the method's own objective."
    return [
        *over_epochs(run, losses, "loss", loss),
        *over_epochs(run, scores, "balanced accuracy", "Balanced accuracy on the validation split.", percent=True),
    ]


def over_epochs(
    run: RunView, lines: Mapping[str, Points], label: str, caption: str, *, percent: bool = False
) -> list[Plot]:
    """A figure of the lines that there are, none without any."""
    kept = {name: each for name, each in lines.items() if each}
    caption = f"{run.name}: {caption}"
    return [line_plot(kept, x_label="epoch", y_label=label, caption=caption, percent=percent)] if kept else []


def points(frame: pd.DataFrame, column: str, *, scale: float = 1.0) -> list[tuple[float, float]]:
    """A column of `metrics.csv` over the epochs, counted from 1; empty if it is not there."""
    if column not in frame:
        return []
    known = frame[["epoch", column]].dropna()
    return [(epoch + 1, scale * value) for epoch, value in known.itertuples(index=False)]


def _runs(runs: Sequence[RunView]) -> Table:
    words = [Column(text, left=True) for text in ("method", "network", "data")]
    columns: list[Column | str] = [*words[:2], "pixels", "epochs", "seconds an epoch", "seed", words[2]]
    rows = []
    for run in runs:
        config, seconds = run.config, run.seconds
        done = 0 if run.epochs is None else len(run.epochs)
        cost = "-" if seconds is None or "seconds" not in seconds else f"{seconds['seconds'].median():.1f}"
        values = [config.method, config.model, f"{config.image_size}", f"{done} of {config.epochs}", cost]
        rows.append(Row(run.name, [*values, f"{config.seed}", run.info["fingerprint"]]))
    devices = {run.info.get("device") for run in runs} - {None}
    where = f" on {devices.pop()}" if len(devices) == 1 else ", on devices that differ"
    note = f"Seconds are those of the median epoch{where}; the data are named by their fingerprint."
    return Table("run", columns, rows, note=note)


def _images(runs: Sequence[RunView]) -> list[Block]:
    first = runs[0]
    splits = first.info.get("split_counts")
    if not splits:
        return []
    same = len({run.info["fingerprint"] for run in runs}) == 1
    classes = first.info["classes"]
    rows = [Row(name, [f"{splits[split].get(name, 0):,}" for split in splits]) for name in classes]
    rows.append(Row("all", [f"{sum(counts.values()):,}" for counts in splits.values()], quiet=True))
    table = Table("class", list(splits), rows, folded=f"{len(classes)} classes", open=len(classes) <= MAX_OPEN)
    return [Heading("Images per class" + ("" if same else f" ({first.name})")), table]


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or "-"
    return "-" if value is None else str(value)
