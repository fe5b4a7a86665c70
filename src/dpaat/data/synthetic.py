"""Procedural dermatoscopy-like images: the embedded data set, for a machine with neither data nor network.

Seven imbalanced classes are told apart in two ways. *Robust* features (the lesion's extent, outline, colour, border
and network) differ by tens of grey levels but overlap between classes. The *fragile* one is a plaid of at most three
grey levels over lesion and skin, whose wavelength, direction and colours belong to the class: it hardly errs, but a
perturbation of 4/255 can erase or forge it. Standard training finds the second; adversarial training has to make do
with the first and pays for it in balanced accuracy.

Nothing here is a real lesion, and no class is a disease. The images are frozen, since methods are compared
on them: whoever changes one pixel gives the result a new `VERSION`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dpaat.data import synthetic_labels
from dpaat.data.files import parse_spec
from dpaat.data.registry import register_dataset
from dpaat.data.synthetic_labels import SIZE, X, Y
from dpaat.data.table import ImageTable
from dpaat.errors import UserError, unknown

VERSION: Final = "v1"
DEFAULT_IMAGES: Final = 1500
FEATURES: Final = ("both", "robust", "fragile")

_SEED: Final = 20240311
_LIMITS: Final = (50, 100_000)
_MIN_PER_CLASS: Final = 5
_SITES: Final = ("abdomen", "back", "chest", "face", "lower extremity", "upper extremity")
_TEXTURE: Final = 3.0  # grey levels at the plaid's peaks; well below 4, so that a perturbation of 4/255 can undo it
_RED_GREEN: Final = (1.0, -1.0, 0.0)
_BLUE_YELLOW: Final = (-0.5, -0.5, 1.0)

Array = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


class _Look(NamedTuple):
    """What sets a class apart."""

    name: str
    share: float  # of all images
    spread: float  # how far its lesions differ from the values below, 1 for the common amount
    radius: float  # of the lesion, pixels
    irregular: float  # depth of the outline's lobes, in parts of the radius
    colour: tuple[float, float, float]  # part of the skin's light that the lesion leaves, R, G, B
    soft: float  # width of the border, pixels
    network: float  # strength of the pigment network, 0 to 1
    wavelength: float  # of the texture, pixels
    diagonal: bool  # whether the texture's plaid is turned by 45 degrees
    tint: tuple[float, float, float]  # the texture's swing in R, G, B


_LOOKS: Final = (
    _Look("syn-round", 0.640, 0.65, 12.0, 0.06, (0.66, 0.54, 0.47), 1.6, 0.7, 10.0, False, _RED_GREEN),
    _Look("syn-lobed", 0.115, 1.0, 17.0, 0.24, (0.50, 0.44, 0.44), 1.2, 0.9, 10.0, True, _RED_GREEN),
    _Look("syn-pale", 0.110, 0.9, 15.0, 0.13, (0.80, 0.66, 0.52), 0.8, 0.1, 10.0, False, _BLUE_YELLOW),
    _Look("syn-pink", 0.055, 1.0, 11.0, 0.10, (0.92, 0.66, 0.66), 2.6, 0.0, 10.0, True, _BLUE_YELLOW),
    _Look("syn-patch", 0.035, 1.0, 18.0, 0.18, (0.84, 0.60, 0.56), 3.2, 0.3, 18.0, False, _RED_GREEN),
    _Look("syn-red", 0.025, 1.0, 8.0, 0.05, (0.74, 0.42, 0.46), 0.8, 0.0, 18.0, True, _RED_GREEN),
    _Look("syn-grey", 0.020, 1.0, 9.0, 0.09, (0.56, 0.54, 0.58), 2.2, 0.1, 18.0, False, _BLUE_YELLOW),
)
CLASSES: Final = tuple(look.name for look in _LOOKS)


def class_counts(images: int) -> list[int]:
    """Share images out over `CLASSES`, in that order and at least five each."""
    counts = [max(_MIN_PER_CLASS, round(look.share * images)) for look in _LOOKS[1:]]
    return [images - sum(counts), *counts]


_stream = partial(synthetic_labels.stream, _SEED)


def _waves(random: np.random.RandomState, shortest: float, longest: float, count: int = 4) -> Array:
    """Smooth mottling of unit variance, shape (SIZE, SIZE), from plane waves of any direction and phase."""
    angle, phase, pitch = random.random_sample((3, count, 1, 1))
    k = 2 * np.pi / (shortest + (longest - shortest) * pitch)
    waves = np.cos(k * (np.cos(2 * np.pi * angle) * X + np.sin(2 * np.pi * angle) * Y) + 2 * np.pi * phase)
    return np.asarray(waves.sum(0) * (2 / count) ** 0.5)


def _plaid(random: np.random.RandomState, look: _Look) -> Array:
    """The class's texture, shape (SIZE, SIZE, 3); flips, quarter turns and shifts leave its kind as it is."""
    u, v = ((X + Y) * 0.5**0.5, (X - Y) * 0.5**0.5) if look.diagonal else (X, Y)
    k, phase = 2 * np.pi / look.wavelength, 2 * np.pi * random.random_sample(2)
    plaid = 0.5 * _TEXTURE * (np.cos(k * u + phase[0]) + np.cos(k * v + phase[1]))
    return np.asarray(plaid[..., None] * np.array(look.tint))


def _hairs(random: np.random.RandomState) -> Array:
    """The part of the light that hairs take away, shape (SIZE, SIZE)."""
    taken = np.zeros((SIZE, SIZE))
    for _ in range(max(0, int(random.randint(-3, 5, dtype=np.int64)))):
        angle, shift, bend, width = random.random_sample(4)
        along = np.cos(np.pi * angle) * X + np.sin(np.pi * angle) * Y
        across = np.cos(np.pi * angle) * Y - np.sin(np.pi * angle) * X
        distance = np.abs(across - 50 * (shift - 0.5) - 0.02 * (bend - 0.5) * along**2)
        taken = np.maximum(taken, 0.55 * np.clip(1.0 + 0.4 * width - distance, 0, 1))
    return taken


def render(label: int, lesion: int, view: int, features: str = "both") -> tuple[Pixels, Pixels]:
    """Draw one view of one lesion: image (SIZE, SIZE, 3) and mask (SIZE, SIZE) of 0 and 255, uint8.

    Views of one lesion of a class share its size, outline and colour; place, turn, light, hairs, noise and the phase
    of the texture are the view's own. `features` "robust" leaves the texture out; "fragile" draws the lesion by another
    class's rules, picked at random, under the texture of its own.
    """
    body, scene = _stream(label, lesion), _stream(label, lesion, view)
    stranger = body.randint(len(_LOOKS), dtype=np.int64)
    look = _LOOKS[stranger if features == "fragile" else label]

    z = body.standard_normal(16)
    z[:12] *= look.spread
    radius = look.radius * np.exp(0.3 * z[0])
    lobes = np.arange(2, 6)
    heights = look.irregular * np.exp(0.4 * z[1]) * z[2:6] / lobes**0.5
    phases = 2 * np.pi * body.random_sample(4)
    colour = np.array(look.colour) + 0.10 * z[6] + 0.08 * z[7:10]
    soft = look.soft * np.exp(0.3 * z[10])
    network = np.clip(look.network + 0.3 * z[11], 0, 1)
    skin = np.array([222.0, 178.0, 156.0]) * (1 + 0.05 * z[12] + 0.03 * z[13:16])

    turn, place_x, place_y, light, edge, zoom = scene.random_sample(6)
    x, y = X - 10 * (place_x - 0.5), Y - 10 * (place_y - 0.5)
    rho, theta = np.hypot(x, y), np.arctan2(y, x) + 2 * np.pi * turn
    outline = 1 + (heights[:, None, None] * np.cos(lobes[:, None, None] * theta + phases[:, None, None])).sum(0)
    inside = radius * (0.92 + 0.16 * zoom) * np.maximum(outline, 0.3) - rho
    cover = 1 / (1 + np.exp(-np.clip(inside / soft, -30, 30)))

    u, v = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    mesh = np.maximum(np.cos(u * 1.1), np.cos(v * 1.1)) - 0.4
    shade = 1 + 0.05 * _waves(scene, 12, 30) - 0.08 * network * mesh
    image = skin * (1 + 0.02 * _waves(scene, 20, 60))[..., None]
    image = image * (1 - cover[..., None] * (1 - np.clip(colour, 0.1, 1.05) * shade[..., None]))
    image *= (0.94 + 0.12 * light - 0.22 * edge * (X**2 + Y**2) / SIZE**2 * 2)[..., None]
    image *= 1 - _hairs(scene)[..., None]
    image += 5.0 * (scene.random_sample((SIZE, SIZE, 1)) - 0.5)
    image += 3.0 * (scene.random_sample((SIZE, SIZE, 3)) - 0.5)
    if features != "robust":
        image += _plaid(scene, _LOOKS[label])
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return pixels, np.where(inside > 0, 255, 0).astype(np.uint8)


def _read(keys: Sequence[tuple[int, int, int]], features: str, part: int, row: int) -> Pixels:
    """Image (part 0) or mask (1) of a row, by its label, lesion and view."""
    return render(*keys[row], features)[part]


def _parse(argument: str, spec: str) -> tuple[int, str, int]:
    number, given = parse_spec(f",{argument}" if argument else "", {"features": "both", "labels": None})
    features, known = given["features"], {"multi": 14, **{str(k): k for k in range(2, 15)}}
    if features not in FEATURES:
        raise unknown("features", features, FEATURES)
    if given["labels"] not in (None, *known):
        raise unknown("labels", given["labels"], known)
    several = known.get(given["labels"], 0)
    if not number:
        return DEFAULT_IMAGES, features, several
    usage = "write synthetic[:N][,features=both|robust|fragile][,labels=multi|2|...|14], such as "
    usage += "synthetic:500,features=robust"
    if not (number.isascii() and number[1:].isdecimal()):
        raise UserError(f"{spec}: cannot read {number.rpartition(',')[2]!r}; {usage}")
    # Compared as text first: Python refuses to read thousands of digits.
    images = int(number[1:]) if len(number) < 10 else _LIMITS[1] + 1
    if not _LIMITS[0] <= images <= _LIMITS[1]:
        raise UserError(f"{spec}: {number[1:13]} images; between {_LIMITS[0]} and {_LIMITS[1]} can be generated")
    return images, features, several


@register_dataset(
    "synthetic", "synthetic[:N[,features=both|robust|fragile][,labels=multi]]", "embedded synthetic images"
)
def load(argument: str, spec: str) -> ImageTable:
    """Lay out the data set; images are drawn when read, about 2 ms each.

    A quarter of each class's lesions are seen in two views, which share a group. An id names the same image
    whatever N is, from 50 to 100000. Age, sex and site are drawn at random, alike for all classes. `labels=multi` is
    another set, whose images have several labels: see `dpaat.data.synthetic_labels`.
    """
    images, features, several = _parse(argument, spec)
    if several:
        return synthetic_labels.table(images, features, spec, several)
    parts = [_class_rows(label, count) for label, count in enumerate(class_counts(images))]
    frame = pd.concat(parts).iloc[_stream(images).permutation(images)].reset_index(drop=True)
    keys = tuple(zip(frame["label"], frame["lesion"], frame["view"], strict=True))
    return ImageTable(
        name="synthetic" if features == "both" else f"synthetic-{features}",
        spec=spec,
        frame=frame.drop(columns=["lesion", "view"]),
        classes=CLASSES,
        channels=3,
        read=partial(_read, keys, features, 0),
        describe=partial(synthetic_labels.describe, tuple(frame["id"])),
        read_mask=partial(_read, keys, features, 1),
        licence="none needed (generated)",
        citation=f"dpaat synthetic lesions {VERSION}: generated images, no patients",
        synthetic=True,
    )


def _class_rows(label: int, count: int) -> pd.DataFrame:
    row = np.arange(count)
    # Five images show four lesions, the last of them twice.
    lesion, view = row // 5 * 4 + np.minimum(row % 5, 3), (row % 5 == 4).astype(np.int64)
    age, sex, site = _stream(label).random_sample((count, 3))[lesion].T
    group = [f"{CLASSES[label]}-{number:05d}" for number in lesion]
    return pd.DataFrame(
        {
            "id": [f"{name}-{'ab'[side]}" for name, side in zip(group, view, strict=True)],
            "label": label,
            "group": group,
            "age": 5.0 * np.floor(4 + 14 * age),
            "sex": np.where(sex < 0.5, "female", "male"),
            "site": np.array(_SITES)[(site * len(_SITES)).astype(np.int64)],
            "source": "synthetic",
            "lesion": lesion,
            "view": view,
        }
    )
