"""The most and the least robust training images of each class, as the method saw them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from dpaat.attacks import pgd
from dpaat.attacks.gradient import evaluation_mode
from dpaat.attacks.losses import label_weights, weighing
from dpaat.data import PreparedData
from dpaat.data.label_sets import numbers
from dpaat.evaluation.images import RowView
from dpaat.evaluation.labels import named, strata
from dpaat.report.view import RunView
from dpaat.runs import Run, open_run

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
        given = [(each > 0).astype(np.int8) if several else each.argmax(axis=1) for each in logits]
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
