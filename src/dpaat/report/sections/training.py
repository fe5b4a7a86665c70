"""Report sections: data, settings, cost and course of the training; how to reproduce the runs."""

import dataclasses
from collections.abc import Mapping, Sequence

from dpaat.models import describe_weights
from dpaat.radii import format_radius, parse_radius
from dpaat.report.blocks import Block, Facts, Figures, Fold, Heading, Listing, Text, register_section
from dpaat.report.comparison import Report
from dpaat.report.drawing import Plot
from dpaat.report.figures import Points, line_plot
from dpaat.report.view import RunView, window_text
from dpaat.runs import CONFIG
from dpaat.tables import Column, Row, Table

ROBUST = "val/robust_balanced_accuracy@"


@register_section("training", "What was trained on what?", order=10)
def training(report: Report) -> list[Block]:
    """The runs, how they differ, the images, cost, losses and validation scores."""
    runs = report.runs
    blocks: list[Block] = [Heading("Runs"), _runs(runs)]
    known = [run for run in runs if not run.elsewhere]
    configs = [dataclasses.asdict(run.config) for run in known]
    differing = [field for field in (configs or [{}])[0] if any(each[field] != configs[0][field] for each in configs)]
    if differing:
        names = [Column(run.name, left=True, long=True) for run in known]
        body = [Row(field, [_value(config[field]) for config in configs]) for field in differing]
        blocks.append(Table("setting", names, body, folded="Settings in which the runs differ"))
    for run in runs:
        answer = run.info.get("one_answer")
        lines = [*(run.info.get("warnings") or []), *([f"on validation, the kept model {answer}"] if answer else [])]
        blocks += [Text(f"{run.name}: {line}.", "warn") for line in lines]
    blocks += _images(runs)
    blocks += [Text(f"{run.name}: {line}.", "warn") for run in runs for line in run.info.get("data_warnings") or []]
    blocks += [Text(f"{line}.", "note") for line in report.unique("notes")]
    if missing := [run.name for run in known if run.epochs is None]:
        blocks.append(Text(f"No epoch has been logged yet: {', '.join(missing)}.", "note"))
    if others := [run.name for run in runs if run.elsewhere]:
        blocks.append(
            Text(f"Trained elsewhere, so that nothing is known of the training: {', '.join(others)}.", "note")
        )
    for run in runs:
        if plots := _course(run):
            blocks.append(Fold(f"How training went: {run.name}", [Figures(plots)]))
    return blocks


@register_section("reproduction", "How can it be reproduced?", order=80)
def reproduction(report: Report) -> list[Block]:
    """Commands, versions, seeds and the configuration of every run."""
    blocks: list[Block] = []
    for run in report.runs:
        info, evaluation = run.info, run.evaluation or {}
        facts = [("command", f"`{info['command']}`")] if "command" in info else []
        facts += [
            ("data", f"{run.config.data}, fingerprint `{info['fingerprint']}`{window_text(info.get('window'))}"),
            *([] if run.elsewhere else [("seed", f"{run.config.seed}"), ("trained with", _versions(info))]),
        ]
        if line := describe_weights(info.get("network") or {}):
            facts.append(("began from", line))
        if evaluation:
            device, seed = evaluation.get("device", "unknown device"), evaluation.get("seed", "unknown")
            facts.append(("evaluated with", f"{_versions(evaluation)}, on {device}, seed {seed}"))
            facts.append(("checkpoint", f"`{evaluation.get('checkpoint', 'unknown')}`"))
        if run.elsewhere:
            blocks.append(Fold(run.name, [Facts(facts)]))
            continue
        summary = "config.yaml, to repeat the run: `dpaat train --config config.yaml --out NEW`"
        text = (run.path / CONFIG).read_text(encoding="utf-8")
        blocks.append(Fold(run.name, [Facts(facts), Listing(summary, text)]))
    return blocks


def over_epochs(
    run: RunView, columns: Mapping[str, str], label: str, caption: str, *, percent: bool = False, scale: float = 1.0
) -> list[Plot]:
    """A figure of those columns of `metrics.csv` that there are, by the names of their lines; none without any."""
    assert run.epochs is not None
    lines: dict[str, Points] = {}
    for name, column in columns.items():
        known = run.epochs.reindex(columns=["epoch", column]).dropna()
        if len(known):
            lines[name] = [(epoch + 1, scale * value) for epoch, value in known.itertuples(index=False)]
    caption = f"{run.name}: {caption}"
    return [line_plot(lines, x_label="epoch", y_label=label, caption=caption, percent=percent)] if lines else []


def _course(run: RunView) -> list[Plot]:
    if run.epochs is None:
        return []
    losses = {"training": "train/loss", "validation, clean": "val/loss"}
    robust = [name for name in map(str, run.epochs.columns) if name.startswith(ROBUST)]
    at = {f"at {format_radius(parse_radius(name.removeprefix(ROBUST), norm='l2'))}": name for name in robust}
    scores = {"clean": "val/balanced_accuracy"} | at
    loss, score = "Loss over training; the training loss is the method's own objective.", "Balanced accuracy on the"
    return [
        *over_epochs(run, losses, "loss", loss),
        *over_epochs(run, scores, "balanced accuracy", f"{score} validation split.", percent=True),
    ]


def _runs(runs: Sequence[RunView]) -> Table:
    words = [Column(text, left=True) for text in ("method", "network", "data")]
    columns: list[Column | str] = [*words[:2], "pixels", "epochs", "seconds an epoch", "seed", words[2]]
    rows = []
    for run in runs:
        config, seconds = run.config, run.seconds
        done = 0 if run.epochs is None else len(run.epochs)
        cost = "-" if seconds is None or "seconds" not in seconds else f"{seconds['seconds'].median():.1f}"
        course = ["-", "-", "-"] if run.elsewhere else [f"{done} of {config.epochs}", cost, f"{config.seed}"]
        values = [config.method, config.model, f"{config.image_size}", *course]
        rows.append(Row(run.name, [*values, run.info["fingerprint"]]))
    devices = {run.info.get("device") for run in runs} - {None}
    where = f" on {devices.pop()}" if len(devices) == 1 else ", on devices that differ"
    note = f"Seconds are those of the median epoch{where}; the data are named by their fingerprint."
    return Table("run", columns, rows, note=note)


def _images(runs: Sequence[RunView]) -> list[Block]:
    first = runs[0]
    splits, classes = first.info.get("split_counts"), first.classes
    if not splits:
        return []
    rows = [Row(name, [f"{counts.get(name, 0):,}" for counts in splits.values()]) for name in classes]
    sizes = first.info.get("split_sizes") or {name: sum(counts.values()) for name, counts in splits.items()}
    rows.append(Row("all", [f"{sizes[name]:,}" for name in splits], quiet=True))
    same = len({run.info["fingerprint"] for run in runs}) == 1
    return [Table("class", list(splits), rows, folded="Images per class" + ("" if same else f" ({first.name})"))]


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or "-"
    return "-" if value is None else str(value)


def _versions(info: Mapping[str, object]) -> str:
    return f"dpaat {info.get('dpaat_version', 'unknown')}, torch {info.get('torch_version', 'unknown')}"
