"""What was concluded from an evaluation, in lines for the terminal; every number comes from `evaluation.json`."""

from __future__ import annotations

from rich.console import Group as Lines
from rich.text import Text

from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.table import percent, plain_table, titled, with_interval
from dpaat.radii import format_radius

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


def analyses_summary(document: Document) -> Lines:
    """The security curve, calibration, operating points, masking checks and corruptions, those that are there."""
    lines: list[Lines] = []
    for name, show in (
        ("curve", _curve),
        ("calibration", _calibration),
        ("operating_points", _operating_points),
        ("masking", _masking),
        ("corruptions", _corruptions),
    ):
        lines += [show(entry) for entry in document.get("analyses", {}).get(name, [])]
    return Lines(*lines)


def _about(entry: Entry) -> str:
    return f"{entry['data']}, {entry['split']}, {entry['n']:,} images"


def _curve(entry: Entry) -> Lines:
    table = plain_table()
    table.add_column("radius")
    table.add_column("accuracy", justify="right")
    table.add_column("balanced", justify="right")
    for eps, accuracy, balanced in zip(entry["eps"], entry["accuracy"], entry["balanced_accuracy"], strict=True):
        table.add_row(format_radius(eps), percent(accuracy), percent(balanced))
    area = f"area to {format_radius(entry['area'])}"
    table.add_row(area, percent(entry["accuracy_area"]), percent(entry["balanced_accuracy_area"]), style="bold")
    return titled(f"worst case over growing radii, {_about(entry)} (percent)", table)


def _calibration(entry: Entry) -> Lines:
    table = plain_table()
    table.add_column("")
    for heading in ("calibration error", "with temperature"):
        table.add_column(heading, justify="right")
    for name, found in entry["conditions"].items():
        table.add_row(_named(name), percent(found["ece"]), percent(found["ece_scaled"]))
    temperature = next(iter(entry["conditions"].values()))["temperature"]
    return titled(f"calibration (percent); temperature {temperature:.2f} from clean validation images", table)


def _operating_points(entry: Entry) -> Lines:
    table = plain_table()
    table.add_column("")
    table.add_column("wanted", justify="right")
    table.add_column("images")
    table.add_column("sensitivity", justify="right")
    table.add_column("specificity", justify="right")
    for number, first in enumerate(entry["conditions"]["clean"]):
        for name, points in entry["conditions"].items():
            point = points[number]
            table.add_row(
                first["task"] if name == "clean" else "",
                percent(first["specificity_wanted"]) if name == "clean" else "",
                _named(name),
                with_interval(point["sensitivity"], point["sensitivity_interval"]),
                with_interval(point["specificity"], point["specificity_interval"]),
            )
    title = "sensitivity at thresholds that give the wanted specificity on clean validation images (percent)"
    return titled(title, table)


def _masking(entry: Entry) -> Lines:
    table = plain_table()
    table.add_column("check")
    table.add_column("verdict")
    table.add_column("evidence", overflow="fold")
    for check in entry["checks"]:
        table.add_row(check["name"], Text(check["verdict"], style=COLOURS[check["verdict"]]), Text(check["evidence"]))
    return titled(f"gradient masking: {entry['summary']}", table)


def _corruptions(entry: Entry) -> Lines:
    table = plain_table()
    table.add_column("corruption")
    for severity in range(1, 6):
        table.add_column(str(severity), justify="right")
    for name, scores in entry["balanced_accuracy"].items():
        if name != "clean":
            table.add_row(name, *(percent(score) for score in scores))
    found = entry["balanced_error"]
    title = (
        f"balanced accuracy by severity, {_about(entry)} (percent): clean {percent(1 - found['clean_error'])}, mean "
        f"{percent(1 - found['mean_corruption_error'])}"
    )
    return titled(title, table)


def _named(condition: str) -> str:
    return condition if condition == "clean" else f"APGD-CE {condition}"
