"""Report section: nearest-boundary estimates of the training images, and those that are hard or mislabelled."""

import numpy as np
import pandas as pd
import torch

from dpaat.errors import UserError
from dpaat.methods.base import score
from dpaat.report.blocks import Block, Card, Download, Gallery, Heading, Picture, Text, register_section
from dpaat.report.comparison import Report
from dpaat.report.gallery import image_uri, images_of
from dpaat.report.view import RunView, by_label
from dpaat.runs import open_run
from dpaat.tables import Row, Table, percent

SHOWN, SAVED = 24, 1000
"""Most images on the page, and most lines of the table to save."""


@register_section("hard-images", "Which training images are hard or mislabelled?", order=75)
def hard_images(report: Report) -> list[Block]:
    """The estimates of each class, and the images whose estimate stayed at 0."""
    blocks: list[Block] = []
    for run in report.runs:
        frame = estimates(run)
        if frame is not None:
            blocks += [Heading(f"Distance to the decision boundary: {run.name}"), _by_class(run, frame)]
            if not run.info.get("multilabel"):  # nearly every image has a right answer, so an estimate above 0
                blocks += _hardest(run, frame[frame["distance"] == 0], images=report.images)
    if not blocks:
        return []
    text = (
        "A run of `dpaat` estimates for every training image how far it is from the decision boundary: the radius at "
        "which its label, or the first of several that are right, would have even odds, if the loss went on rising as "
        "under attack in training."
    )
    return [Text(text), *blocks]


def estimates(run: RunView) -> pd.DataFrame | None:
    """The last epoch of the perturbation log, hardest first; None for a run without estimates of the nearest label.

    Columns id, class, distance, eps, loss and `loss_above_class`, the loss less the mean of its class; `distance` is
    NaN for an image that was never attacked.
    """
    frame = run.radii
    if frame is None or run.config.options.get("rule") != "solve":  # by increments, an image may have no size at all
        return None
    if run.info.get("multilabel") and run.config.options.get("scope") != "class":  # of the mean of all labels' losses
        return None
    if "distance" not in frame or frame["distance"].isna().all():
        return None
    frame = frame.assign(loss_above_class=frame["loss"] - frame.groupby("class")["loss"].transform("mean"))
    columns = ["id", "class", "distance", "eps", "loss", "loss_above_class"]
    return frame[columns].sort_values(["distance", "loss_above_class"], ascending=[True, False], ignore_index=True)


def _by_class(run: RunView, frame: pd.DataFrame) -> Table:
    unit, scale = ("255ths of the range of pixels", 255) if run.config.norm == "linf" else ("L2", 1)
    each = by_label(frame, run.info)
    groups = {name: each[each["class"] == name] for name in each["class"].value_counts().index} | {"all": frame}
    rows = []
    for name, group in groups.items():
        known = group["distance"].dropna()
        quantiles = [f"{scale * q:.2f}" for q in known.quantile([0.1, 0.5, 0.9])] if len(known) else ["-"] * 3
        share = percent((known == 0).mean() if len(known) else None)
        rows.append(Row(name, [f"{len(known):,}", f"{(known == 0).sum():,}", share, *quantiles], name == "all"))
    columns = ["images", "at 0", "at 0, %", "10th percentile", "median", "90th percentile"]
    note = f"Estimates after the last epoch, in {unit}; twice the largest size of training at most."
    return Table("class", columns, rows, note=note)


def _hardest(run: RunView, zero: pd.DataFrame, *, images: bool) -> list[Block]:
    if zero.empty:
        return [Text("No image stayed at 0.", "note")]
    text = (
        f"{len(zero):,} images stayed at a distance of 0: at every attack, their label had less than even odds even "
        "without a perturbation. They are hard, or their label is wrong. First come those whose loss, at their last "
        "attack, was highest above the mean of their class."
    )
    found: list[Block] = [Heading(f"Hard or mislabelled: {run.name}"), Text(text)]
    shown, seen = zero.head(SHOWN), dict[str, tuple[str, np.ndarray]]()
    try:
        if images:
            model, _, found_images = images_of(open_run(run.path), shown["id"])
            if not found_images:
                raise UserError("none of these images is in the data any more")
            x = torch.from_numpy(np.stack([*found_images.values()])).float() / 255
            answers = [run.info["classes"][k] for k in score(model, x).argmax(1).tolist()]
            seen = dict(zip(found_images, zip(answers, found_images.values(), strict=True), strict=True))
            found.append(Text(f"Images: {run.info['data']}, {run.info.get('licence') or 'licence unknown'}.", "note"))
    except UserError as error:
        found.append(Text(f"No pictures: {error}.", "note"))
    cards = []
    for name, label, loss in zip(shown["id"], shown["class"], shown["loss"], strict=True):
        answer, pictures = "", list[Picture]()
        if name in seen:
            answer = f", taken for {seen[name][0]}"
            pictures = [Picture(image_uri(seen[name][1]), "", f"{name}, {label}")]
        cards.append(Card(name, f"labelled {label}{answer}; loss {loss:.2f}", pictures))
    # No table: the model card has tables, and is published, which must not hold ids of patients.
    first = f"the {SAVED:,} hardest" if len(zero) > SAVED else "all of them"
    data = zero.head(SAVED).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    download = Download(f"{run.name}-hard-images.csv", f"{first} (CSV)", data)
    return [*found, Gallery(f"The {len(cards)} hardest", cards), download]
