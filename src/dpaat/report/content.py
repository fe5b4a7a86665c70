"""Turn run folders into the tables and figures of the page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dpaat.evaluation.results import Entry, Group, Population, groups
from dpaat.evaluation.table import percent
from dpaat.report.plots import MAX_ROWS, Plot, line_plot, radius_map, recall_plot
from dpaat.report.view import RunView

SCORES = {"accuracy": "acc.", "balanced_accuracy": "bal.", "map": "mAP"}
CURVES = {"balanced_accuracy": "balanced accuracy", "map": "mean average precision"}


@dataclass(frozen=True)
class Comparison:
    """Runs on the same images under the same attack.

    Attributes:
        population: the images.
        attack: such as "PGD-20"; "clean images" where there was no attack.
        radii: as text, clean images first.
        constant: the constant predictor's answer and its three scores as text.
        rows: run and, per radius, the three scores as text.
        curves: scores against radius; empty without an attack.
        recalls: one figure per run.
    """

    population: Population
    attack: str
    radii: list[str]
    constant: tuple[str, list[str]] | None
    rows: list[tuple[str, list[list[str]]]]
    curves: list[Plot]
    recalls: list[Plot]


def compare(runs: Sequence[RunView]) -> list[Comparison]:
    """Sort all results by images and attack, runs side by side."""
    found: dict[Population, dict[str, Group]] = {}
    for run in runs:
        for group in groups(run.evaluation) if run.evaluation else []:
            found.setdefault(group.population, {})[run.name] = group
    comparisons = []
    for population, by_run in found.items():
        attacked = [e for group in by_run.values() for e in group.results if e["attack"] != "clean"]
        steps = {entry["label"]: entry["steps"] or 1 for entry in attacked}
        count = Counter(entry["label"] for entry in attacked)
        worst = {entry["label"] for entry in attacked if entry["attack"] == "worst-case"}
        # The worst case, or else the attack with most results, the stronger of two: what the page is mainly about.
        attacks = sorted(steps, key=lambda label: (label not in worst, -count[label], -steps[label]))
        comparisons += [_comparison(population, by_run, attack) for attack in attacks or [None]]
    return comparisons


def differences(runs: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """Fields of the configurations that are not the same for all runs, with their values."""
    configs = [dataclasses.asdict(run.config) for run in runs]
    return [
        (field, [_value(config[field]) for config in configs])
        for field in configs[0]
        if any(config[field] != configs[0][field] for config in configs)
    ]


def perturbation_plots(run: RunView) -> list[Plot]:
    """How the radii moved; nothing for a method that does not move them."""
    if run.epochs is None or "eps/mean" not in run.epochs:
        return []
    frame = run.epochs
    counts: Mapping[str, int] = run.info["train_counts"]
    names = sorted((n for n in counts if f"eps/mean/{n}" in frame), key=lambda n: -counts[n])
    by_class = {name: _points(frame, f"eps/mean/{name}", scale=255) for name in names}
    shares = {"at 0": _points(frame, "eps/share_zero"), "at the maximum": _points(frame, "eps/share_max")}
    quantiles = {f"{q} %": _points(frame, f"eps/q{q}", scale=255) for q in (90, 50, 10)}
    plots = [
        line_plot(
            {name: points for name, points in quantiles.items() if points},
            x_label="epoch",
            y_label="radius, 255ths",
            caption="Spread of the radii over training: that share of the images has a radius up to the line.",
            percent=False,
        ),
        line_plot(
            {name: points for name, points in by_class.items() if points},
            x_label="epoch",
            y_label="mean radius, 255ths",
            caption="Mean radius of each class over training, most frequent class first.",
            percent=False,
        ),
        line_plot(
            shares,
            x_label="epoch",
            y_label="share of training images",
            caption="Training images whose radius has reached an end of its range.",
        ),
    ]
    if run.radii is not None and len(run.radii):
        caption = f"Radii of the training images after the last epoch{_cut(len(names))}."
        plots.append(radius_map(run.radii, eps_max=run.config.radius, caption=caption))
    return plots


def training_plots(run: RunView) -> list[Plot]:
    """Losses and validation scores over the epochs."""
    frame = run.epochs
    if frame is None:
        return []
    losses = {"training": _points(frame, "train/loss"), "validation, clean": _points(frame, "val/loss")}
    prefix = "val/robust_balanced_accuracy@"
    radii = [name.removeprefix(prefix) for name in map(str, frame.columns) if name.startswith(prefix)]
    scores = {"clean": _points(frame, "val/balanced_accuracy")} | {
        f"at {radius}": _points(frame, prefix + radius) for radius in radii
    }
    found = [
        ({name: points for name, points in lines.items() if points}, label, caption, share)
        for lines, label, caption, share in (
            (losses, "loss", "Loss over training; the training loss is the method's own objective.", False),
            (scores, "balanced accuracy", "Balanced accuracy on the validation split.", True),
        )
    ]
    return [
        line_plot(lines, x_label="epoch", y_label=label, caption=caption, percent=share)
        for lines, label, caption, share in found
        if lines
    ]


def _comparison(population: Population, by_run: Mapping[str, Group], attack: str | None) -> Comparison:
    entries: dict[str, dict[float, Entry]] = {
        name: {e["eps"]: e for e in group.results if e["attack"] == "clean" or e["label"] == attack}
        for name, group in by_run.items()
    }
    radii = sorted({eps for found in entries.values() for eps in found})
    texts = {eps: entry["eps_text"] for found in entries.values() for eps, entry in found.items()}
    constant = next((group.constant for group in by_run.values() if group.constant), None)
    rows = [(name, [_scores(found.get(eps)) for eps in radii]) for name, found in entries.items()]
    curves = []
    for key, label in CURVES.items() if len(radii) > 1 else ():
        lines = {
            name: [(eps, e["metrics"][key]) for eps, e in sorted(found.items()) if e["metrics"][key] is not None]
            for name, found in entries.items()
        }
        if not any(eps for points in lines.values() for eps, _ in points):
            continue  # the worst case has verdicts, no scores
        curves.append(
            line_plot(
                lines,
                x_label=f"radius ({'L2' if attack and attack.endswith('L2') else 'Linf'})",
                y_label=label,
                caption=f"{label.capitalize()} under {attack}.",
                level=(f"always {constant['predicts']}", constant["metrics"][key]) if constant else None,
                radii=True,
            )
        )
    recalls = [_recall_plot(name, found) for name, found in entries.items() if len(found) > 1 and 0.0 in found]
    return Comparison(
        population=population,
        attack=attack or "clean images",
        radii=[texts[eps] for eps in radii],
        constant=(constant["predicts"], _scores(constant)) if constant else None,
        rows=rows,
        curves=curves,
        recalls=recalls,
    )


def _recall_plot(name: str, found: Mapping[float, Entry]) -> Plot:
    clean = found[0.0]["metrics"]
    attacked = found[sorted(found)[len(found) // 2]]
    present = sorted((c for c, n in clean["support"].items() if n), key=lambda c: -clean["support"][c])
    return recall_plot(
        {c: clean["per_class_recall"][c] for c in present},
        {c: attacked["metrics"]["per_class_recall"][c] for c in present},
        condition=f"{attacked['label']} {attacked['eps_text']}",
        caption=f"{name}: recall per class, clean and attacked{_cut(len(present))}.",
    )


def _scores(entry: Entry | None) -> list[str]:
    return [percent(entry["metrics"][key]) if entry else "-" for key in SCORES]


def _cut(classes: int) -> str:
    return f", the {MAX_ROWS} most frequent of {classes} classes" if classes > MAX_ROWS else ""


def _points(frame: pd.DataFrame, column: str, *, scale: float = 1.0) -> list[tuple[float, float]]:
    if column not in frame:
        return []
    known = frame[["epoch", column]].dropna()
    return [(epoch + 1, scale * value) for epoch, value in known.itertuples(index=False)]


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or "-"
    return "-" if value is None else str(value)
