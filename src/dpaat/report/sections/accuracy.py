"""Report section: scores on clean images, and calibration."""

import numpy as np

from dpaat.evaluation.entries import note_of
from dpaat.evaluation.means import recall_interval
from dpaat.evaluation.tables import (
    SCORES,
    calibration_table,
    condition,
    constant_row,
    label_table,
    of_labels,
    score_cells,
)
from dpaat.report import drawing as draw
from dpaat.report.blocks import Block, Figures, Fold, Heading, Text, first_open, register_section
from dpaat.report.comparison import Comparison, Report
from dpaat.report.drawing import Plot
from dpaat.report.figures import DASHED
from dpaat.tables import Row, Table, score_cell

NOTE = (
    "Percent, 95 % intervals in brackets, which respect that images come in lesions. Balanced accuracy is the mean "
    "recall over the classes; mAP the one-vs-rest average precision and AUROC the one-vs-rest area under the ROC "
    "curve, each averaged over the classes. The first row is the constant that answers the most frequent class of the "
    "training set whatever the image. Each row is one training run; another seed would give another number."
)
LABELS = (
    "Every image has several labels, each with a threshold that was chosen on validation images (largest sum of "
    "sensitivity and specificity). Accuracy is the share of right answers, balanced accuracy the mean of sensitivity "
    "and specificity over the labels; mAP and AUROC are means over them. Calibration, reliability and confusions are "
    "of one class per image, and not shown."
)
SELECTION = (
    "Percent, clean images. The epoch was chosen by its score on the validation split, so that this score is too high. "
    "The difference also holds the chance of which images are in which split."
)
BINS = 10


@register_section("accuracy", "Is it accurate?", order=20)
def accuracy(report: Report) -> list[Block]:
    """Scores on clean images with intervals, the choice of the epoch, and calibration."""
    blocks: list[Block] = [Text(f"Left out: {text}.", "warn") for run in report.runs for text in run.outdated]
    if missing := [run.name for run in report.runs if run.evaluation is None]:
        text = f"Not evaluated yet: {', '.join(missing)}. `dpaat evaluate RUN` measures a run; then write this again."
        blocks.append(Text(text, "warn"))
    for number, comparison in enumerate(report.comparisons):
        rows = [constant_row(comparison.constant, SCORES)] if comparison.constant else []
        rows += [Row(name, score_cells(entry, SCORES)) for name, entry in comparison.clean.items()]
        several = {name: entry for name, entry in comparison.clean.items() if of_labels(entry)}
        table = Table("percent", list(SCORES.values()), rows, note="" if number or several else NOTE)
        shown: list[Block] = [table, *_not_shared(comparison)]
        shown += [*(Text(f"{n} {answer}.", "warn") for n, answer in comparison.one_answers.items())]
        shown += [label_table(f"{name}: labels", entry) for name, entry in several.items()]
        shown += [Text(LABELS, "note")] if several else []
        for name, results in comparison.results.items():
            notes = dict.fromkeys(note for entry in results if (note := note_of(entry)))
            shown += [Text(f"{name}: {note}.", "warn") for note in notes]
        shown += [*_selection(comparison), *_calibration(comparison)]
        blocks += first_open(number, f"Clean images: {comparison.title}", shown)
    return blocks


def _not_shared(comparison: Comparison) -> list[Block]:
    """A warning where runs of other splits, on as many images of a dataset, stand side by side."""
    ids = [set(frame["id"]) for frame in comparison.predicted.values()]
    if len(ids) < 2 or all(each == ids[0] for each in ids):
        return []
    shared = f"{len(set.intersection(*ids)):,} of {comparison.population.n:,}"
    return [Text(f"The runs were not tested on the same images: all of them share {shared}.", "warn")]


def _selection(comparison: Comparison) -> list[Block]:
    """The score by which the epoch was chosen, beside that on images which had no part in the choice."""
    rows = []
    for name, entry in comparison.clean.items():
        if (chosen := comparison.validation(name)) is not None:
            (test,) = score_cells(entry, ["balanced_accuracy"])
            gap = score_cell(entry["metrics"]["balanced_accuracy"] - chosen, sign=True)
            rows.append(Row(name, [score_cell(chosen), test, gap]))
    columns = ["validation", comparison.population.split, "difference"]
    return [Heading("Selection optimism"), Table("balanced accuracy", columns, rows, note=SELECTION)] if rows else []


def _calibration(comparison: Comparison) -> list[Block]:
    found = comparison.first("calibration")
    names = [name for name in comparison.runs if not any(map(of_labels, comparison.results[name]))]
    plots = [plot for name in names if (plot := _reliability(comparison, name))]
    blocks: list[Block] = [calibration_table(found)] if found else []
    blocks += [Figures(plots)] if plots else []
    return [Fold("Calibration: are its probabilities right?", blocks)] if blocks else []


@draw.STYLED
def _reliability(comparison: Comparison, name: str) -> Plot | None:
    """The share of right answers against the confidence in them, in bins of equal width."""
    attacked = comparison.at_reference(name, "apgd-ce") or comparison.at_reference(name)
    entries = [entry for entry in (comparison.clean.get(name), attacked) if entry]
    frames = [(condition(entry), comparison.runs[name].predictions(entry)) for entry in entries]
    shown = [(text, f) for text, f in frames if f is not None and len(f) and f["probabilities"].notna().all()]
    if not shown:
        return None
    axes = draw.axes_of(3.2)
    axes.plot([0, 1], [0, 1], color=draw.MUTED, label="perfectly calibrated", **DASHED)
    rows, told = [], []
    for k, (text, frame) in enumerate(shown):
        confidence = np.array([np.max(each) for each in frame["probabilities"]])
        right, groups = (frame["label"] == frame["predicted"]).to_numpy(), frame["group"].to_numpy(dtype=str)
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        bins = [place == each for each in np.unique(place)]
        x, y = ([float(values[here].mean()) for here in bins] for values in (confidence, right))
        lower, upper = zip(*(recall_interval(right[here], groups[here]) for here in bins), strict=True)
        axes.plot(x, y, label=text, **draw.look(k))
        axes.fill_between(x, lower, upper, **draw.band_look(k))
        images = [int(here.sum()) for here in bins]
        rows += [(text, *row) for row in zip(x, y, lower, upper, images, strict=True)]
        at = zip(x, y, images, strict=True)
        told.append(f"{text}: " + ", ".join(f"{share:.0%} right at {mean:.0%} ({n})" for mean, share, n in at))
    draw.percent_axis(axes.xaxis, axes.yaxis)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="confidence in the answer", ylabel="right answers")
    draw.legend(axes)
    caption = f"{name}: right answers against confidence; below the broken line it is too sure of itself."
    columns = ["condition", "mean confidence", "share right", "lower", "upper", "images"]
    return draw.finish(axes, caption, f"{'; '.join(told)}.", columns, rows)
