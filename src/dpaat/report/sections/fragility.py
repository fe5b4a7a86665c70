"""Report section: how the radii moved, and the images at either end."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from dpaat.errors import UserError
from dpaat.report import drawing as draw
from dpaat.report.blocks import Block, Card, Download, Figures, Fold, Gallery, Picture, Text, register_section
from dpaat.report.comparison import Report
from dpaat.report.drawing import Plot, write_csv
from dpaat.report.gallery import EACH, MAX_CLASSES, Specimen, image_uri, map_uri, perturbation_uri, specimens
from dpaat.report.sections.subgroups import cut
from dpaat.report.sections.training import over_epochs
from dpaat.report.view import RunView, by_label

CRITERION = "criterion/"


@register_section("fragility", "Which images are fragile?", order=70)
def fragility(report: Report) -> list[Block]:
    """The radii over training, and a gallery of each run whose method moves them."""
    blocks: list[Block] = []
    for run in report.runs:
        if plots := _radii(run):
            blocks += [Fold(f"How the radii moved: {run.name}", [Figures(plots)])]
            blocks += _gallery(run, images=report.images)
    if not blocks:
        return [Text("No run here gives every training image a radius of its own.", "note")]
    text = (
        "Each training image gets its own perturbation size. It is large for images that stay easy under attack, and "
        "small for hard ones."
    )
    return [Text(text), *blocks]


def _radii(run: RunView) -> list[Plot]:
    """How the radii moved; nothing for a method that does not move them."""
    if run.epochs is None or "eps/mean" not in run.epochs:
        return []
    columns = [*map(str, run.epochs.columns)]
    names = [name for name in run.classes if f"eps/mean/{name}" in columns]
    unit, scale = _unit(run)
    criterion = {n: f"{CRITERION}{n}" for n in [*run.classes, "all"] if f"{CRITERION}{n}" in columns}
    quantiles, by_class = {f"{q} %": f"eps/q{q}" for q in (90, 50, 10)}, {name: f"eps/mean/{name}" for name in names}
    shares = {"at 0": "eps/share_zero", "at the maximum": "eps/share_max"}
    if run.config.options.get("eps_min"):  # then none is ever at 0
        del shares["at 0"]
    spread = "spread of the radii; that share of the images has one up to the line."
    means = "mean radius of each class, most frequent class first."
    ends = "training images whose radius is at an end of its range."
    moves = "the criterion: a radius grows where the loss of the attacked image is lower, and else shrinks."
    plots = [
        *over_epochs(run, quantiles, f"radius, {unit}", spread, scale=scale),
        *over_epochs(run, by_class, f"mean radius, {unit}", means, scale=scale),
        *over_epochs(run, shares, "share of training images", ends, percent=True),
        *over_epochs(run, criterion or {"all classes": "criterion"}, "criterion", moves),
    ]
    if run.radii is not None and len(run.radii):
        caption = f"{run.name}: radii of the training images after the last epoch{cut(len(names))}."
        plots.append(_radius_map(by_label(run.radii, run.info), names, run, caption))
    return plots


def _unit(run: RunView) -> tuple[str, int]:
    """The unit in which a run's radii are written, by their norm, and how many of them there are in 1."""
    return ("255ths", 255) if run.config.norm == "linf" else (run.config.norm.upper(), 1)


@draw.STYLED
def _radius_map(frame: pd.DataFrame, classes: Sequence[str], run: RunView, caption: str) -> Plot:
    """How the radii of each class are distributed: a row per class, darker where more of its images are."""
    eps_max, (unit, scale) = run.config.radius, _unit(run)
    present = {*frame["class"]}
    names = [name for name in classes if name in present] or frame["class"].value_counts().index.tolist()
    names = names[: draw.MAX_ROWS]
    edges = np.linspace(0, eps_max, 17)
    radii = [frame.loc[frame["class"] == name, "eps"].clip(0, eps_max).to_numpy() for name in names]
    shares = np.array([np.histogram(each, edges)[0] / len(each) for each in radii])
    axes = draw.axes_of(0.9 + 0.27 * len(names))
    rows = np.arange(len(names) + 1) - 0.5
    mesh = axes.pcolormesh(edges, rows, shares, cmap="Blues", vmin=0, edgecolors="white", linewidth=0.5)
    draw.name_rows(axes, names)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    draw.radius_ticks(axes, [0.0, *(eps_max * k / 4 for k in (1, 2, 3)), eps_max])
    axes.set_xlabel("radius")
    bar = axes.figure.colorbar(mesh, ax=axes, aspect=14, ticks=MaxNLocator(4), label="share of the class")
    draw.percent_axis(bar.ax.yaxis)
    bar.outline.set_visible(False)
    quantiles = frame.groupby("class")["eps"].quantile(np.array([0.1, 0.5, 0.9])).unstack()
    told = "; ".join(f"{n} {', '.join(f'{scale * q:.3g}' for q in map(float, quantiles.loc[n]))}" for n in names)
    data = [
        (name, *edges[k : k + 2].tolist(), share)
        for name, found in zip(names, shares.tolist(), strict=True)
        for k, share in enumerate(found)
    ]
    told = f"10th, 50th and 90th percentile in {unit}: {told}."
    return draw.finish(axes, caption, told, ["class", "eps from", "eps to", "share"], data)


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
    most = f" (the {MAX_CLASSES} most frequent)" if len(run.info["train_counts"]) > MAX_CLASSES else ""
    about = (
        f"Up to {EACH} training images with the largest and with the smallest radii of each class{most}: the image, "
        "its perturbation by the attack of training at that radius, magnified, the adversarial image, and the absolute "
        "gradient of the true class's logit on both. Below them the radius over the epochs, from 0 to "
        f"{_radius(run, run.config.radius)}. The weights are those of the epoch that was kept; radii are the last."
    )
    gone = f" {missing} images chosen are not in the data any more." if missing else ""
    licence = f"Images: {run.info['data']}, {run.info.get('licence') or 'licence unknown'}.{gone}"
    blocks: list[Block] = [Text(about), Text(licence, "note")]
    for label in run.ordered(sorted({each.label for each in found})):
        for robust, words in ((True, "most robust"), (False, "least robust")):
            cards = [_card(run, each) for each in found if (each.label, each.robust) == (label, robust)]
            blocks += [Gallery(f"{label}, {words}", cards)] if cards else []
    rows = [
        (each.id, each.label, "most" if each.robust else "least", epoch + 1, eps)
        for each in found
        for epoch, eps in enumerate(each.radii)
    ]
    data = write_csv(["id", "class", "robust", "epoch", "eps"], rows)
    blocks.append(Download(f"{run.name}-gallery.csv", "radii of these images over the epochs (CSV)", data))
    return [Fold(f"The most and the least robust images: {run.name}", blocks)]


def _radius(run: RunView, eps: float) -> str:
    return f"{255 * eps:.3g}/255" if run.config.norm == "linf" else f"{eps:.3g}"


def _card(run: RunView, each: Specimen) -> Card:
    radius, (clean, attacked) = _radius(run, each.eps), each.answers
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
    curve = [(epoch / last, eps / run.config.radius) for epoch, eps in enumerate(each.radii) if np.isfinite(eps)]
    alt = "radius over the epochs: " + ", ".join(_radius(run, eps) for eps in each.radii)
    return Card(each.id, f"radius {radius}; taken for {clean}, under attack for {attacked}", pictures, curve, alt)
