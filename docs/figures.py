"""Figures of README.md and docs/, drawn from the JSON of the results.

python docs/figures.py                 draw all
python docs/figures.py --radii RUN     first write docs/results/radii-ham10000.json from a finished run of `dpaat`
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpaat.radii import format_radius
from dpaat.report.drawing import COLOURS, INK, MUTED, STYLE, SVG

DOCS = Path(__file__).resolve().parent
FAMILIES = {
    "test_resnet": "ResNet",
    "test_efficientnet": "EfficientNet",
    "test_mambaout": "MambaOut",
    "test_byobnet": "DarkNet-like",
    "test_convnext2": "ConvNeXt-V2",
    "test_nfnet": "NFNet",
}
NAMES = {
    "standard": "standard training",
    "dpaat": "dpaat",
    "v1": "dpaat-v1",
    "pgd-1": "PGD 1/255",
    "pgd-2": "PGD 2/255",
}
LOOKS = dict(zip(("dpaat", "standard", "pgd-1", "pgd-2", "v1"), COLOURS, strict=False))
LESIONS = {
    "akiec": "actinic keratosis",
    "bcc": "basal-cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "naevus",
    "vasc": "vascular lesion",
}
PLACES = (0.15, 0.55, 0.7, 0.8, 0.9, 0.99)
"""Quantiles of the final radius; the image at each is drawn."""


def load(name: str) -> dict[str, Any]:
    """Read a file of docs/results."""
    document: dict[str, Any] = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return document


def write_radii(run: Path) -> None:
    """Keep of a run's radii: those of the images at PLACES over training, and the final ones by class."""
    frame = pd.read_parquet(run / "perturbation.parquet")
    last = frame[frame["epoch"] == frame["epoch"].max()].sort_values(["eps", "id"])
    picked = last.iloc[[round(place * (len(last) - 1)) for place in PLACES]]
    paths = frame.pivot_table(index="epoch", columns="id", values="eps")
    quantiles = last.groupby("class")["eps"].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack()
    digits = 5
    document = {
        "run": run.name,
        "images": [
            {"class": name, "eps": paths[key].round(digits).tolist()}
            for key, name in zip(picked["id"], picked["class"], strict=True)
        ],
        "classes": {
            str(name): {"n": int((last["class"] == name).sum()), "quantiles": row.round(digits).tolist()}
            for name, row in quantiles.iterrows()
        },
    }
    (DOCS / "results" / "radii-ham10000.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def shared_scores(document: dict[str, Any], recipes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean scores by recipe over the cells (model, fold, seed) that all of them have."""
    cells = {(c["recipe"], c["model"], c["fold"], c["seed"]): c["scores"] for c in document["cells"] if "scores" in c}
    shared = [key[1:] for key in cells if key[0] == recipes[0] and all((r, *key[1:]) in cells for r in recipes)]
    names = cells[recipes[0], *shared[0]]
    return {r: {n: float(np.mean([cells[r, *key][n] for key in shared])) for n in names} for r in recipes}


def draw_radii(axes: Axes) -> None:
    """Six training images, each with its own radius."""
    document = load("radii-ham10000")
    taken: list[float] = []
    for colour, image in zip(COLOURS, document["images"], strict=False):
        eps = 255 * np.array(image["eps"])
        axes.step(np.arange(1, len(eps) + 1), eps, where="post", color=colour, linewidth=1.8)
        at = max([eps[-1], *(place + 0.42 for place in taken)])
        taken.append(at)
        axes.text(len(eps) + 1, at, LESIONS[image["class"]], color=colour, va="center", fontsize=8.5)
    epochs = len(document["images"][0]["eps"])
    axes.axvline(epochs / 2, color=MUTED, linewidth=0.8, linestyle=":")
    axes.text(epochs / 2 - 1, 7.6, "attacks begin", ha="right", color=MUTED, fontsize=8)
    axes.set(xlim=(1, epochs + 25), ylim=(0, 8.4), xlabel="epoch", ylabel="perturbation size, 255ths")
    axes.set_xticks([1, *range(15, epochs + 1, 15)])
    axes.set_title("Six training images, each with its own radius", loc="left", fontsize=9.5, color=INK)


def draw_curve(axes: Axes) -> None:
    """Accuracy in the worst case of the attacks over the radius of the attack."""
    document = load("ham10000-32px-v2")
    scores = shared_scores(document, ["dpaat", "standard", "pgd-1"])
    radii = [0.0, *document["evaluation"]["eps"]]
    names = ["accuracy", *(f"accuracy@{format_radius(eps)}" for eps in radii[1:])]
    labels = {"standard": (0.9, 22, "left"), "dpaat": (5.1, 27, "left"), "pgd-1": (2.55, 46, "left")}
    for recipe, (x, y, side) in labels.items():
        values = [100 * scores[recipe][name] for name in names]
        axes.plot(np.array(radii) * 255, values, marker="o", color=LOOKS[recipe], linewidth=1.8)
        axes.text(x, y, NAMES[recipe], color=LOOKS[recipe], fontsize=8.5, ha=side)
    axes.set(xlim=(-0.3, 8.3), ylim=(0, 75), xlabel="radius of the attack, 255ths", ylabel="accuracy, percent")
    axes.set_xticks([round(255 * eps) for eps in radii])
    axes.set_title("Accuracy under attack on test images", loc="left", fontsize=9.5, color=INK)


def draw_trade_off(axes: Axes, radius: str) -> None:
    """Clean mAP against mAP under attack over six families, with the standard-to-PGD curve."""
    (table,) = (each for each in load("ham10000-32px-v2")["tables"] if each["model"] == "all models")
    rows = {row["recipe"]: row["scores"] for row in table["rows"] if row["recipe"] in NAMES and len(row["cells"]) >= 18}
    places = {}
    for recipe, scores in rows.items():
        x, y = scores["map"], scores[f"map@{radius}"]
        places[recipe] = (100 * x["value"], 100 * y["value"])
        for ends, fixed, along in ((x["interval"], y["value"], "x"), (y["interval"], x["value"], "y")):
            points = [100 * end for end in ends], [100 * fixed] * 2
            axes.plot(*(points if along == "x" else points[::-1]), color=LOOKS[recipe], linewidth=1, alpha=0.6)
        axes.plot(*places[recipe], "o", color=LOOKS[recipe])
        below = recipe == "standard"
        axes.annotate(
            NAMES[recipe], places[recipe], xytext=(-6, -14) if below else (6, 6), textcoords="offset points",
            color=LOOKS[recipe], fontsize=8.5, ha="right" if below else "left",
        )  # fmt: skip
    curve = [places[name] for name in ("pgd-2", "pgd-1", "standard")]
    axes.plot(*zip(*curve, strict=True), "--", color=MUTED, linewidth=1, zorder=0)
    axes.set(xlabel="clean mAP, percent", ylabel=f"mAP at {radius}, percent")
    axes.margins(x=0.12, y=0.12)


def draw_above_curve(axes: Axes, radius: str, recipe: str) -> None:
    """Points of mAP above the standard-to-PGD curve, by family and over all."""
    tables = {table["model"]: table for table in load("ham10000-32px-v2")["tables"]}
    models = [*FAMILIES, "all models"]
    for place, model in enumerate(models):
        (row,) = (each for each in tables[model]["rows"] if each["recipe"] == recipe)
        found = row["fronts"]["pgd"]["differences"][f"map@{radius}"]
        low, high = (100 * end for end in found["interval"])
        colour, ends = COLOURS[0], (max(low, -15), min(high, 30))
        axes.plot(ends, [place, place], color=colour, linewidth=1.4)
        for inside, end, marker in ((low >= -15, ends[0], "<"), (high <= 30, ends[1], ">")):
            if not inside:
                axes.plot(end, place, marker, color=colour)
        fill = colour if found["p_adjusted"] < 0.05 else "white"
        axes.plot(100 * found["difference"], place, "o", color=colour, markerfacecolor=fill)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(models)), [FAMILIES.get(model, "all six") for model in models])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set(xlim=(-16, 31), xlabel="points of mAP above the curve")
    axes.set_title(f"at {radius}", loc="left", fontsize=9.5, color=INK)


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--radii", type=Path)
    run = parser.parse_args().radii
    if run:
        write_radii(run)
    with rc_context(STYLE):  # type: ignore[arg-type]
        for name, size, draws in (
            ("dpaat-ham10000", (8.4, 3.0), (draw_radii, draw_curve)),
            (
                "trade-off",
                (8.4, 3.2),
                [partial(draw_trade_off, radius=radius) for radius in ("1/255", "2/255")],
            ),
            (
                "above-curve",
                (8.4, 2.7),
                [partial(draw_above_curve, radius=radius, recipe="v1") for radius in ("1/255", "2/255")],
            ),
        ):
            figure = Figure(figsize=size, layout="constrained", facecolor="white")
            for axes, draw in zip(figure.subplots(1, 2), draws, strict=True):
                draw(axes)
            figure.savefig(DOCS / "figures" / f"{name}.svg", **SVG)


if __name__ == "__main__":
    main()
