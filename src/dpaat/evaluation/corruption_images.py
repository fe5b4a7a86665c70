"""Common corruptions of dermatoscopy and radiology, done to one image at five severities.

Severities 1 to 5 are the scheme of Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261), faults of the field's own
beside the common ones the idea of MedMNIST-C (arXiv 2406.17536); the selection, the drawings and all numbers are ours.

Every function takes an image `(C, H, W)` uint8, grey or RGB, its strength at a severity and a source of randomness, and
returns another uint8 image of that shape. Lengths are in parts of the shorter side, so that a fault looks alike at
every size; only noise, JPEG's blocks and pixelation belong to the pixel grid. The draws do not depend on the severity:
the same strokes grow from 1 to 5. JPEG's exact pixels depend on the codec that torchvision was built with.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.fft import dctn, idctn
from torchvision.transforms.v2 import functional

Corruption = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]
CORRUPTIONS: dict[str, tuple[Corruption, tuple[Any, ...]]] = {}
"""Name to function and its strength at severities 1 to 5; intensities in units of a [0, 1] image."""
HAIRS: Final = ((2, 0.012), (4, 0.014), (7, 0.016), (11, 0.018), (16, 0.02))  # number, width
RULER: Final = ((1, 0.04, 0.4), (1, 0.06, 0.55), (2, 0.075, 0.7), (2, 0.1, 0.85), (3, 0.12, 1.0))  # edges, ticks, ink
CAST_STRENGTH: Final = (0.04, 0.08, 0.13, 0.19, 0.26)  # of the logarithm of the gains

_VIGNETTE_EDGE: Final = 0.35  # width of the passage from clear to dark
_VIGNETTE_SHIFT: Final = 0.1  # of its centre, either way
_HAIR_LIGHT: Final = np.array([0.30, 0.20, 0.16])  # part of the light that passes, R, G, B
_HAIR_FAN: Final = np.pi / 3  # hairs of one image lie within this angle
_HAIR_COURSE: Final = np.linspace(-0.5, 0.5, 17)
_TICK_SPACING: Final = 0.06
_TICK_WIDTH: Final = 0.012
_TICK_INSET: Final = 0.04  # from the edge of the image
_OVERSAMPLING: Final = 4


def _corruption(name: str, *strengths: Any) -> Callable[[Corruption], Corruption]:
    def register(function: Corruption) -> Corruption:
        CORRUPTIONS[name] = function, strengths
        return function

    return register


@_corruption("noise", 0.03, 0.06, 0.09, 0.12, 0.16)
def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of the sensor, independent per pixel and channel."""
    return _to_pixels(image / 255 + sigma * rng.standard_normal(image.shape))


@_corruption("blur", 0.012, 0.018, 0.026, 0.036, 0.05)
def blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur, the deviation in parts of the side; the edges are mirrored.

    Done on the cosine transform, since a kernel of whole pixels is none at all below a third of a pixel.
    """
    sigma *= min(image.shape[1:])
    y, x = (np.exp(-0.5 * (np.pi * sigma * np.arange(n) / n) ** 2) for n in image.shape[1:])
    spectrum = dctn(image / 255, axes=(1, 2))
    return _to_pixels(idctn(spectrum * np.outer(y, x), axes=(1, 2)))


@_corruption("brightness", 0.04, 0.08, 0.13, 0.19, 0.26)
def brightness(image: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    """Over- or underexposure, by chance: all intensities shifted up or down."""
    return _to_pixels(image / 255 + (1 if rng.random() < 0.5 else -1) * shift)


@_corruption("contrast", 0.8, 0.65, 0.5, 0.35, 0.2)
def contrast(image: np.ndarray, left: float, rng: np.random.Generator) -> np.ndarray:
    """Lower contrast about the mean m of each channel: `m + left (x - m)`."""
    mean = image.mean(axis=(1, 2), keepdims=True)
    return _to_pixels((mean + left * (image - mean)) / 255)


@_corruption("jpeg", 60, 35, 20, 13, 8)
def jpeg(image: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    """JPEG compression at the codec's quality."""
    return np.asarray(functional.jpeg(torch.tensor(image), quality))


@_corruption("pixelation", 0.75, 0.5, 0.36, 0.25, 0.18)
def pixelation(image: np.ndarray, left: float, rng: np.random.Generator) -> np.ndarray:
    """Averages over a coarser grid, with a part of the pixels left along each side."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    grid = (round(left * picture.width), round(left * picture.height))
    pixels = np.asarray(picture.resize(grid, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@_corruption("vignette", (1.1, 0.4), (1.05, 0.5), (1.0, 0.6), (0.95, 0.7), (0.9, 0.8))
def vignette(image: np.ndarray, strength: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Dark corners, as the round field of a dermatoscope or an image intensifier has.

    `strength` is the radius that stays clear, 1 being half the side, and the part of the light lost beyond it.
    """
    clear, depth = strength
    shift = _VIGNETTE_SHIFT * (2 * rng.random(2) - 1)
    y, x = ((2 * np.arange(n) + 1) / n - 1 - off for n, off in zip(image.shape[1:], shift, strict=True))
    way = np.clip((np.hypot(x[None, :], y[:, None]) - clear) / _VIGNETTE_EDGE, 0, 1)
    return _to_pixels(image / 255 * (1 - depth * way**2 * (3 - 2 * way)))


@_corruption("hairs", *HAIRS)
def hairs(image: np.ndarray, strength: tuple[int, float], rng: np.random.Generator) -> np.ndarray:
    """Dark, bent hairs over the image; `strength` is their number and mean width."""
    number, width = strength
    extent = np.array(image.shape[:0:-1]) / min(image.shape[1:])
    lie = np.pi * rng.random()
    strokes = []
    for x, y, turn, length, bend, thickness in rng.random((HAIRS[-1][0], 6))[:number]:
        angle = lie + _HAIR_FAN * (turn - 0.5)
        along = (0.6 + 0.8 * length) * _HAIR_COURSE
        across = 1.2 * (bend - 0.5) * along**2
        course = np.outer(along, [np.cos(angle), np.sin(angle)]) + np.outer(across, [-np.sin(angle), np.cos(angle)])
        strokes.append((extent * (x, y) + course, width * (0.7 + 0.6 * thickness)))
    light = _HAIR_LIGHT if len(image) == 3 else _HAIR_LIGHT.mean(keepdims=True)
    return _to_pixels(image / 255 * (1 - _coverage(strokes, image.shape) * (1 - light[:, None, None])))


@_corruption("ruler", *RULER)
def ruler(image: np.ndarray, strength: tuple[int, float, float], rng: np.random.Generator) -> np.ndarray:
    """Marks of a scale along edges: black on RGB images, as on a dermatoscope's glass, white on grey radiographs.

    `strength` is the number of edges, the ticks' length, each fifth being longer, and how much the ink covers.
    """
    edges, length, opacity = strength
    order, phase = rng.permutation(4), rng.random()
    strokes = [stroke for edge in order[:edges] for stroke in _ticks(int(edge), length, phase, image.shape)]
    ink = 0.0 if len(image) == 3 else 1.0
    cover = opacity * _coverage(strokes, image.shape)
    return _to_pixels(image / 255 * (1 - cover) + ink * cover)


@_corruption("colour-cast", *CAST_STRENGTH)
def colour_cast(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Tint of an RGB image by a hue h from the whole circle: gains `exp(strength cos(h - 120 degrees k))`."""
    hue = 2 * np.pi * rng.random()
    gains = np.exp(strength * np.cos(hue - 2 * np.pi / 3 * np.arange(3)))
    return _to_pixels(image / 255 * gains[:, None, None])


def _ticks(edge: int, length: float, phase: float, shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, float]]:
    """Strokes of a scale along the top (0), bottom (1), left (2) or right (3) edge."""
    width, height = np.array(shape[:0:-1]) / min(shape[1:])
    run, depth = (width, height) if edge < 2 else (height, width)
    for k, place in enumerate(np.arange(_TICK_SPACING * phase, run, _TICK_SPACING)):
        inward = _TICK_INSET + np.array([0, length * (1.8 if k % 5 == 0 else 1)])
        inward = depth - inward if edge % 2 else inward
        level = np.full(2, place)
        yield np.stack([level, inward] if edge < 2 else [inward, level], axis=1), _TICK_WIDTH


def _coverage(strokes: Iterable[tuple[np.ndarray, float]], shape: tuple[int, ...]) -> np.ndarray:
    """Part of each pixel that strokes cover: points `(n, 2)`, x and y, and width, in parts of the shorter side."""
    height, width = shape[1:]
    scale = _OVERSAMPLING * min(height, width)
    canvas = Image.new("L", (_OVERSAMPLING * width, _OVERSAMPLING * height))
    pen = ImageDraw.Draw(canvas)
    for points, thickness in strokes:
        pen.line((scale * points).ravel().tolist(), fill=255, width=max(1, round(scale * thickness)))
    return np.asarray(canvas.reduce(_OVERSAMPLING)) / 255


def _to_pixels(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(255 * np.clip(values, 0, 1)), dtype=np.uint8)
