"""Small pictures as data URIs: images, perturbations, maps."""

import base64
import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

MAX_SIDE = 96
"""Pixels; larger images are made smaller, so that the page stays light."""


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
