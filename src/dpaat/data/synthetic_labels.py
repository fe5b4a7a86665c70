"""Procedural grey images with several labels each: `synthetic:N,labels=multi`, the embedded set of that kind.

Fourteen labels of 40 % down to 5 % of the images tell themselves in two ways. The *robust* feature of a label is an
object of its own kind (a spot, ring or streak; small or large, bright or dark) of some 30 grey levels, of which images
without the label may hold a fainter one. The *fragile* one is a plaid of at most two grey levels, whose wavelength and
direction belong to the label: it never errs, but a perturbation of 4/255 can erase or forge it. Labels of a patient's
images go together, and a fiftieth of all is unknown.

Nothing here is a real finding. The images are frozen, since methods are compared on them: whoever changes one pixel
gives the result a new `VERSION`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.stats import norm

from dpaat.data.table import ImageTable

VERSION: Final = "v1"
SIZE: Final = 64  # pixels a side; the ordinary cache resizes
LABELS: Final = (
    "spot", "dark-spot", "ring", "dark-ring", "streak", "dark-streak", "blob",
    "dark-blob", "hoop", "dark-hoop", "band", "dark-band", "grid", "dark-grid",
)  # fmt: skip
PREVALENCE: Final = tuple(0.40 * (0.05 / 0.40) ** (k / 13) for k in range(14))

_SEED: Final = 20240312
_SIDES: Final = (*("train",) * 7, "val", "test", "test")  # of patients, whatever the seed
_UNKNOWN: Final = 0.02
_SHARED: Final = (0.15, 0.6)  # parts of a label's variance that all labels, and all images, of a patient share
_CUTS: Final = norm.isf(PREVALENCE)
_WAVES: Final = (3.0, 4.5, 6.0, 7.5, 9.0, 10.5, 12.0)  # of the plaids, across the image
Y, X = (axis - (SIZE - 1) / 2 for axis in np.mgrid[0:SIZE, 0:SIZE].astype(np.float64))


def stream(*key: int) -> np.random.RandomState:
    """A source of random numbers; numpy has promised that RandomState's never change; a Generator's may."""
    return np.random.RandomState(key)


_stream = partial(stream, _SEED)


def labels_of(patient: int, view: int) -> np.ndarray:
    """The labels of an image, (14,) int8: 1, 0, and -1 where it is unknown."""
    person, image = _stream(patient), _stream(patient, view)
    all_, own = _SHARED
    liability = all_**0.5 * person.standard_normal() + (own - all_) ** 0.5 * person.standard_normal(14)
    liability = liability + (1 - own) ** 0.5 * image.standard_normal(14)
    labels = (liability > _CUTS).astype(np.int8)
    labels[image.random_sample(14) < _UNKNOWN] = -1
    return np.asarray(labels)


def _object(kind: int, place: np.ndarray) -> np.ndarray:
    """Cover (SIZE, SIZE) in [0, 1] of one object at a place; pairs of kinds share a form."""
    x, y, turn, zoom = place
    dx, dy, zoom = X - 44 * (x - 0.5), Y - 44 * (y - 0.5), 0.85 + 0.3 * zoom
    distance, along = np.hypot(dx, dy) / zoom, np.cos(np.pi * turn) * dx + np.sin(np.pi * turn) * dy
    across = (np.cos(np.pi * turn) * dy - np.sin(np.pi * turn) * dx) / zoom
    inside = (
        3.0 - distance,
        1.3 - np.abs(distance - 5.0),
        np.minimum(1.2 - np.abs(across), 9.0 - np.abs(along)),
        7.5 - distance,
        1.8 - np.abs(distance - 11.0),
        np.minimum(3.0 - np.abs(across), 18.0 - np.abs(along)),
        np.minimum(9.0 - distance, 2.5 * np.maximum(np.cos(along * 1.3), np.cos(across * 1.3)) - 1.5),
    )[kind // 2]
    return np.asarray(1 / (1 + np.exp(-np.clip(2.5 * inside, -30, 30))))


def _plaid(kind: int, phase: np.ndarray) -> np.ndarray:
    """The label's texture, (SIZE, SIZE), of at most two grey levels; flips and quarter turns leave its kind."""
    u, v = ((X + Y) * 0.5**0.5, (X - Y) * 0.5**0.5) if kind % 2 else (X, Y)
    k, phase = 2 * np.pi * _WAVES[kind // 2] / SIZE, 2 * np.pi * phase
    return np.asarray(np.cos(k * u + phase[0]) + np.cos(k * v + phase[1]))


def render(patient: int, view: int, features: str, shown: int) -> np.ndarray:
    """Draw one image, (SIZE, SIZE) uint8, with its first labels; `features` "robust" and "fragile" leave one kind out.

    A label that is unknown to the data is there or not all the same, by chance.
    """
    labels, scene = labels_of(patient, view), _stream(patient, view, 1)
    wave = 2 * np.pi * (X * scene.uniform(-1, 1) + Y * scene.uniform(-1, 1)) / 90
    image = 110 + 10 * scene.standard_normal() + 12 * np.cos(wave + 6.3 * scene.random_sample())
    for kind in range(shown):
        own = _stream(patient, view, 2, kind)  # its own numbers: what other labels draw moves nothing
        has = labels[kind] > 0 or (labels[kind] < 0 and own.random_sample() < PREVALENCE[kind])
        faint, strength = own.random_sample() < 0.35, own.standard_normal()
        depth = max(30 + 9 * strength, 0.0) if has else max(11 + 6 * strength, 0.0) * faint
        place, phase = own.random_sample(4), own.random_sample(2)
        if depth and features != "fragile":
            image = image + (-1) ** kind * depth * _object(kind, place)
        if has and features != "robust":
            image = image + _plaid(kind, phase)
    image = image + 5.0 * (scene.random_sample((SIZE, SIZE)) - 0.5)
    return np.asarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))


def _read(keys: Sequence[tuple[int, int]], features: str, shown: int, row: int) -> np.ndarray:
    return render(*keys[row], features, shown)


def describe(ids: tuple[str, ...], row: int) -> str:
    """The name to show for a row."""
    return f"synthetic image {ids[row]}"


def table(images: int, features: str, spec: str, shown: int = 14) -> ImageTable:
    """Lay out the set with its first labels; every third patient has two images, and one split whatever the seed."""
    keys = [(row // 4 * 3 + min(row % 4, 2), int(row % 4 == 3)) for row in range(images)]
    age, sex = np.array([_stream(patient, 9, 9, 9).random_sample(2) for patient, _ in keys]).T
    group = [f"patient-{patient:05d}" for patient, _ in keys]
    ids = [f"{name}-{'ab'[view]}" for name, (_, view) in zip(group, keys, strict=True)]
    frame: dict[str, Any] = {
        "id": ids,
        "group": group,
        "age": 5.0 * np.floor(4 + 14 * age),
        "sex": np.where(sex < 0.5, "female", "male"),
    }
    frame["split"] = [_SIDES[patient % 10] for patient, _ in keys]
    frame["label"] = [tuple(labels_of(*key)[:shown].tolist()) for key in keys]
    return ImageTable(
        name="synthetic-labels" + ("" if features == "both" else f"-{features}"),
        spec=spec,
        frame=pd.DataFrame(frame),
        classes=LABELS[:shown],
        channels=1,
        read=partial(_read, keys, features, shown),
        describe=partial(describe, tuple(ids)),
        licence="none needed (generated)",
        citation=f"dpaat synthetic labels {VERSION}: generated images, no patients",
        synthetic=True,
        multilabel=True,
    )
