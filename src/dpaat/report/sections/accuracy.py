"""Report section: scores on clean images, and calibration."""

import numpy as np

from dpaat.evaluation.entries import note_of
from dpaat.evaluation.means import recall_interval
from dpaat.evaluation.metrics import one_answer
from dpaat.evaluation.tables import SCORES, condition, constant_row, label_table, of_labels, score_cells
from dpaat.report import drawing as draw
from dpaat.report.blocks import Block, Figures, Heading, Text, register_section
from dpaat.report.drawing import Plot
from dpaat.report.figures import DASHED
from dpaat.report.view import Comparison, Report
from dpaat.tables import Column, Row, Table, score_cell

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
CALIBRATION = (
    "Expected calibration error in percent: how far confidence and share of right answers lie apart, clean and "
    "under APGD-CE; as the model is, and with the temperature that fits the clean validation images best."
)
BINS = 10


@register_section("accuracy", "Is it accurate", order=20)
def accuracy(report: Report) -> list[Block]:
    """Scores on clean images with intervals, and calibration."""
    blocks: list[Block] = [Text(f"Left out: {text}.", "warn") for run in report.runs for text in run.outdated]
    if missing := [run.name for run in report.runs if run.evaluation is None]:
        text = f"Not evaluated yet: {', '.join(missing)}. `dpaat evaluate RUN` measures a run; then write this again."
        blocks.append(Text(text, "warn"))
    for number, comparison in enumerate(report.comparisons):
        rows = [constant_row(comparison.constant, SCORES)] if comparison.constant else []
        rows += [Row(name, score_cells(entry, SCORES)) for name, entry in comparison.clean.items()]
        table = Table("percent", list(SCORES.values()), rows, note="" if number else NOTE)
        blocks += [Heading(f"Clean images: {comparison.title}"), table]
        blocks += [
            label_table(f"{name}: labels", entry) for name, entry in comparison.clean.items() if of_labels(entry)
        ]
        if any(map(of_labels, comparison.clean.values())):
            blocks.append(Text(LABELS, "note"))
        for name, entry in comparison.clean.items():
            frame = comparison.runs[name].predictions(entry)
            if frame is not None and (answer := one_answer(frame["predicted"].to_numpy(), frame["label"].to_numpy())):
                blocks.append(Text(f"{name} {answer}.", "warn"))
        for name, results in comparison.results.items():
            notes = dict.fromkeys(note for entry in results if (note := note_of(entry)))
            blocks += [Text(f"{name}: {note}.", "warn") for note in notes]
        blocks += _calibration(comparison)
    return blocks


def _calibration(comparison: Comparison) -> list[Block]:
    found = [
        (name, each["conditions"]) for name in comparison.runs for each in comparison.analyses(name, "calibration")
    ]
    plots = [plot for name in _of_classes(comparison) if (plot := _reliability(comparison, name))]
    blocks: list[Block] = [Heading("Can its probabilities be taken at their word")] if found or plots else []
    if found:
        names = list(dict.fromkeys(name for _, conditions in found for name in conditions))
        columns = [Column(text, group=name) for name in names for text in ("as it is", "scaled")]
        rows = [
            Row(run, [score_cell(at.get(name, {}).get(key)) for name in names for key in ("ece", "ece_scaled")])
            for run, at in found
        ]
        blocks.append(Table("percent", columns, rows, note=CALIBRATION))
    return [*blocks, Figures(plots)] if plots else blocks


def _of_classes(comparison: Comparison) -> list[str]:
    """The runs whose images have one class each."""
    return [name for name in comparison.runs if not any(map(of_labels, comparison.results[name]))]


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
    axes.plot([0, 1], [0, 1], color=draw.MUTED, label="to be trusted", **DASHED)
    rows, told = [], []
    for k, (text, frame) in enumerate(shown):
        confidence = np.array([np.max(each) for each in frame["probabilities"]])
        right, groups = (frame["label"] == frame["predicted"]).to_numpy(), frame["group"].to_numpy(dtype=str)
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        bins = [place == each for each in np.unique(place)]
        x, y = ([float(values[here].mean()) for here in bins] for values in (confidence, right))
        lower, upper = zip(*(recall_interval(right[here], groups[here]) for here in bins), strict=True)
        axes.plot(x, y, label=draw.short(text), **draw.look(k))
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
