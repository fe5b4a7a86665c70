"""Pictures of a page: data URIs of images, perturbations and maps; the most and the least robust training images."""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

from dpaat.attacks import pgd
from dpaat.attacks.gradient import evaluation_mode
from dpaat.attacks.losses import label_weights, weighing
from dpaat.data import PreparedData
from dpaat.data.label_sets import numbers
from dpaat.evaluation.images import RowView
from dpaat.evaluation.labels import named, strata, thresholds_of
from dpaat.report.view import RunView
from dpaat.runs import Run, open_run

MAX_SIDE = 96
"""Pixels; larger images are made smaller, so that the page stays light."""
MAX_CLASSES = 10
EACH = 2
"""Images at either end of each class."""


class Specimen(NamedTuple):
    """A training image and what became of it."""

    id: str
    label: str
    robust: bool  # whether it is one of those with the largest radii of its class, or with the smallest
    eps: float  # its radius after the last epoch
    image: np.ndarray  # `(C, H, W)`, uint8
    adversarial: np.ndarray  # `(C, H, W)`, float in [0, 1], under the attack of training at the radius
    answers: tuple[str, str]  # classes predicted, clean and attacked
    maps: tuple[np.ndarray, np.ndarray]  # absolute input gradient `(H, W)`, clean and attacked
    radii: Sequence[float]  # over the epochs


def choose(radii: pd.DataFrame) -> pd.DataFrame:
    """Choose the images with the largest and the smallest radii of each of the most frequent classes.

    Of equal radii, the lower loss is the more robust. Takes and returns rows with columns id, class, eps, loss; those
    chosen have a further column `robust`: classes by their frequency, the most robust first. A class of fewer than
    twice `EACH` images is not shown from both sides twice.
    """
    chosen = []
    for name in radii["class"].value_counts().index[:MAX_CLASSES]:
        ordered = radii[radii["class"] == name].sort_values(["eps", "loss", "id"], ascending=[False, True, True])
        count = min(EACH, len(ordered) // 2)
        top, bottom = ordered.head(max(count, 1)), ordered.tail(count)
        chosen += [top.assign(robust=True), bottom.iloc[::-1].assign(robust=False)]
    found: pd.DataFrame = pd.concat(chosen, ignore_index=True)
    return found


def specimens(view: RunView) -> tuple[list[Specimen], int]:
    """Attack the chosen images once more, as in training, with the weights of the run's best epoch.

    Returns the images, and how many chosen ones are not in the data any more. Raises UserError where checkpoint or
    data are not there, or not the same as then.
    """
    from dpaat.interpret.maps import input_gradient_map

    assert view.radii is not None
    chosen, run = choose(view.radii), open_run(view.path)
    model, data, found = images_of(run, chosen["id"])
    known = chosen[chosen["id"].isin([*found])].reset_index(drop=True)
    if known.empty:
        return [], len(chosen)
    config, classes = run.config, run.info["classes"]
    images = np.stack([found[name] for name in known["id"]])
    x = torch.from_numpy(images).float() / 255
    several = bool(run.info.get("multilabel"))
    y = torch.from_numpy(numbers(known["class"], classes, several=several))
    of = torch.from_numpy(strata(y.numpy())).clamp(max=len(classes) - 1)  # the label that is explained
    eps = torch.from_numpy(known["eps"].to_numpy(dtype=np.float32, copy=True))
    with weighing(label_weights(torch.tensor(data.labels))):
        x_adv = pgd(model, x, y, eps=eps, steps=config.steps, norm=config.norm)
    with evaluation_mode(model), torch.no_grad():
        logits = [model(each).numpy() for each in (x, x_adv)]
        at = thresholds_of(run.info.get("thresholds"), classes)
        given = [(each > at).astype(np.int8) if several else each.argmax(axis=1) for each in logits]
        answers = [named(each, classes).tolist() for each in given]
        maps = [input_gradient_map(model, each, of).numpy() for each in (x, x_adv)]
    over_epochs = view.radii_over_epochs(known["id"].tolist())
    shown = [
        Specimen(
            id=str(row.id),
            label=str(row["class"]),
            robust=bool(row.robust),
            eps=float(row.eps),
            image=images[k],
            adversarial=x_adv[k].numpy(),
            answers=(answers[0][k], answers[1][k]),
            maps=(maps[0][k], maps[1][k]),
            radii=over_epochs[row.id].tolist(),
        )
        for k, (_, row) in enumerate(known.iterrows())
    ]
    return shown, len(chosen) - len(known)


def images_of(run: Run, ids: Iterable[str]) -> tuple[nn.Module, PreparedData, dict[str, np.ndarray]]:
    """The kept network of a run, its data, and by id those of some images `(C, H, W)`, uint8, that are in the data."""
    model, data = run.load_model(), run.prepare(progress=False)
    row_of = {name: row for row, name in enumerate(data.ids.tolist())}
    rows = {name: row_of[name] for name in ids if name in row_of}
    images = RowView(data.images, np.array([*rows.values()], dtype=np.int64), int(run.info["channels"]))
    return model, data, dict(zip(rows, images[np.arange(len(rows))], strict=True))


def image_uri(image: np.ndarray) -> str:
    """Write an image `(C, H, W)`, uint8, of one channel or three as PNG."""
    return _png(_picture(image))


def perturbation_uri(delta: np.ndarray) -> tuple[str, float]:
    """Write a perturbation `(C, H, W)` in units of a [0, 1] image, magnified around grey until its largest value fits.

    Returns the picture, and by how much it is magnified; a perturbation of 0 is plain grey, magnified by 1.
    """
    largest = float(np.abs(delta).max())  # rounding leaves a radius of 0 about 1e-8
    factor = 0.5 / largest if largest > 1e-6 else 1.0
    levels = np.clip(127.5 + 255 * factor * delta, 0, 255).round().astype(np.uint8)
    # Few levels are left after that many steps along signs; a palette takes a third of the bytes.
    return _png(_picture(levels).quantize(32, dither=Image.Dither.NONE)), factor


def map_uri(values: np.ndarray, image: np.ndarray) -> str:
    """Write an attribution map `(H, W)`, 0 or larger, as colours over the image `(C, H, W)` uint8 in grey."""
    top = float(np.quantile(values, 0.995))  # one bright pixel would leave all others dark
    share = np.minimum(values / top, 1.0) if top > 0 else np.zeros_like(values, dtype=float)
    colour = colormaps["inferno"](share)[..., :3]
    grey = image.astype(float).mean(axis=0)[..., None] / 255
    mixed = (255 * (0.35 * grey + 0.65 * colour)).round().astype(np.uint8)
    return _png(_picture(mixed.transpose(2, 0, 1)).quantize(64, dither=Image.Dither.NONE))


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the border of a mask `(H, W)`, bool, into a copy of an image `(C, H, W)`, uint8; returns `(3, H, W)`."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = np.repeat(image, 3 // len(image), axis=0).copy()
    drawn[:, mask & ~inside] = np.array([[255], [255], [255]], dtype=np.uint8)
    return drawn


def _picture(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
    if max(picture.size) > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return picture.convert("RGB")


def data_uri(kind: str, content: bytes | str) -> str:
    """A file, of a kind such as "text/csv", within a page."""
    encoded = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(encoded).decode()}"


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return data_uri("image/png", buffer.getvalue())
