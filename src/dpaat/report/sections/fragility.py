"""Report section: how the radii moved, and the images at either end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dpaat.errors import UserError
from dpaat.report.blocks import Block, Card, Download, Figures, Gallery, Heading, Picture, Section, Text
from dpaat.report.drawing import Plot, write_csv
from dpaat.report.gallery import EACH, MAX_CLASSES, Specimen, specimens
from dpaat.report.pictures import image_uri, map_uri, perturbation_uri
from dpaat.report.plots import radius_map
from dpaat.report.sections.subgroups import cut
from dpaat.report.sections.training import over_epochs, points
from dpaat.report.view import RunView


def fragility_section(runs: Sequence[RunView], *, images: bool) -> Section:
    """The radii over training and, with `images`, a gallery of each run whose method moves them."""
    blocks: list[Block] = []
    for run in runs:
        if plots := perturbation_plots(run):
            blocks += [Heading(f"How the radii moved: {run.name}"), Figures(plots)]
            blocks += _gallery(run, images=images)
    if blocks:
        text = (
            "Every training image has a radius of its own, which grows while the network copes with the image under "
            "attack and shrinks while it does not."
        )
        blocks.insert(0, Text(text))
    else:
        blocks.append(Text("No run here gives every training image a radius of its own.", "note"))
    return Section("fragility", "Which images are fragile", blocks)


def perturbation_plots(run: RunView) -> list[Plot]:
    """How the radii moved; nothing for a method that does not move them."""
    if run.epochs is None or "eps/mean" not in run.epochs:
        return []
    frame = run.epochs
    counts: Mapping[str, int] = run.info["train_counts"]
    names = sorted((n for n in counts if f"eps/mean/{n}" in frame), key=lambda n: -counts[n])
    unit, scale = ("255ths", 255) if run.config.norm == "linf" else (run.config.norm.upper(), 1)
    by_class = {name: points(frame, f"eps/mean/{name}", scale=scale) for name in names}
    shares = {"at 0": points(frame, "eps/share_zero"), "at the maximum": points(frame, "eps/share_max")}
    quantiles = {f"{q} %": points(frame, f"eps/q{q}", scale=scale) for q in (90, 50, 10)}
    prefix = "criterion/"
    criterion = {
        name.removeprefix(prefix): points(frame, name) for name in map(str, frame.columns) if name.startswith(prefix)
    } or {"all classes": points(frame, "criterion")}
    criterion = dict(sorted(criterion.items(), key=lambda item: -counts.get(item[0], 0)))
    spread = "spread of the radii; that share of the images has one up to the line."
    moves = "the criterion: radii grow where the loss is at most as high, and else shrink."
    ends = "training images whose radius is at an end of its range."
    plots = [
        *over_epochs(run, quantiles, f"radius, {unit}", spread),
        *over_epochs(run, by_class, f"mean radius, {unit}", "mean radius of each class, most frequent class first."),
        *over_epochs(run, shares, "share of training images", ends, percent=True),
        *over_epochs(run, criterion, "criterion", moves),
    ]
    if run.radii is not None and len(run.radii):
        caption = f"{run.name}: radii of the training images after the last epoch{cut(len(names))}."
        plots.append(radius_map(run.radii, eps_max=run.config.radius, caption=caption))
    return plots


def _gallery(run: RunView, *, images: bool) -> list[Block]:
    if run.radii is None or run.radii.empty:
        return [Text("No gallery: the run has no perturbation.parquet any more.", "note")]
    if not images:
        return [Text("No gallery: the page was written without images.", "note")]
    try:
        found, missing = specimens(run)
    except UserError as error:
        return [Text(f"No gallery: {error}.", "note")]
    if not found:
        return [Text("No gallery: none of the images chosen is in the data any more.", "note")]
    labels = list(dict.fromkeys(each.label for each in found))
    blocks: list[Block] = [Heading(f"The most and the least robust images: {run.name}"), Text(_about(run))]
    licence = run.info.get("licence")
    gone = f" {missing} images chosen are not in the data any more." if missing else ""
    blocks.append(Text(f"Images: {run.info['data']}, {licence or 'licence unknown'}.{gone}", "note"))
    for label in labels:
        for robust, words in ((True, "most robust"), (False, "least robust")):
            cards = [
                _card(each, run.config.radius, run.config.norm)
                for each in found
                if each.label == label and each.robust == robust
            ]
            if cards:
                blocks.append(Gallery(f"{label}, {words}", cards))
    rows = [
        (each.id, each.label, "most" if each.robust else "least", epoch + 1, eps)
        for each in found
        for epoch, eps in enumerate(each.radii)
    ]
    data = write_csv(["id", "class", "robust", "epoch", "eps"], rows)
    return [*blocks, Download(f"{run.name}-gallery.csv", "radii of these images over the epochs (CSV)", data)]


def _about(run: RunView) -> str:
    most = f" (the {MAX_CLASSES} most frequent)" if len(run.info["train_counts"]) > MAX_CLASSES else ""
    return (
        f"Up to {EACH} training images with the largest and with the smallest radii of each class{most}: the image, "
        "its perturbation by the attack of training at that radius, magnified, the adversarial image, and the absolute "
        "gradient of the true class's logit on both. Below them the radius over the epochs, from 0 to "
        f"{_radius(run.config.radius, run.config.norm)}. The weights are those of the best epoch; radii are the last."
    )


def _radius(eps: float, norm: str) -> str:
    return f"{255 * eps:.3g}/255" if norm == "linf" else f"{eps:.3g}"


def _card(each: Specimen, eps_max: float, norm: str) -> Card:
    radius = _radius(each.eps, norm)
    clean, attacked = each.answers
    adversarial = np.clip(255 * each.adversarial, 0, 255).round().astype(np.uint8)
    perturbation, factor = perturbation_uri(each.adversarial - each.image / 255.0)
    about = f"{each.id}, {each.label}"
    change = f"change x {factor:.0f}" if each.eps else "no change"
    pictures = [
        Picture(image_uri(each.image), "image", f"{about}: the image"),
        Picture(perturbation, change, f"{about}: its perturbation, {change}"),
        Picture(image_uri(adversarial), "adversarial", f"{about}: the adversarial image at {radius}"),
        Picture(map_uri(each.maps[0], each.image), "map", f"{about}: input gradient on the image"),
        Picture(map_uri(each.maps[1], adversarial), "map, adv.", f"{about}: input gradient on the adversarial image"),
    ]
    last = max(len(each.radii) - 1, 1)
    curve = [(epoch / last, eps / eps_max) for epoch, eps in enumerate(each.radii) if np.isfinite(eps)]
    alt = "radius over the epochs: " + ", ".join(_radius(eps, norm) for eps in each.radii)
    text = f"radius {radius}; taken for {clean}, attacked for {attacked}"
    return Card(each.id, text, pictures, curve, alt)
