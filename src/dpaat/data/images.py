"""From the bytes of one image file to pixels of the wanted size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# Scaled decoding of JPEG is kept to four times the wanted size and above, where the antialiasing that follows
# hides its error (below one grey level on average); below that it would show.
DRAFT_MARGIN = 4

# Not all that Pillow knows: among the rest are PostScript, which it hands to another program, and formats of films.
WANTED = (
    ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "PPM")
    + ("AVIF", "DDS", "DIB", "ICNS", "ICO", "IM", "MSP", "PCX", "PSD", "QOI", "SGI", "SUN", "TGA", "XBM", "XPM")
)  # fmt: skip
Image.init()
FORMATS = tuple(name for name in WANTED if name in Image.OPEN)
SUFFIXES = frozenset(
    suffix
    for suffix, name in Image.registered_extensions().items()
    if name in (*FORMATS, "MPO")  # a kind of JPEG
)
MAX_PIXELS = 2**27
"""Of one image, which takes 400 MB when decoded; a file of a few kB can promise any number."""


def decode_image(encoded: bytes | np.ndarray, *, size: int, fit: str, channels: int) -> np.ndarray:
    """Decode, turn upright, make square and resize with antialiasing.

    The first frame of an animation counts. Transparent parts turn black. 16-bit grey images are read on their
    full scale (65535 is white).

    Args:
        encoded: an image file's bytes, or uint8 pixels (H, W), (H, W, 1) or (H, W, 3).
        size: side of the result in pixels.
        fit: "crop" (central square) or "squash".
        channels: 1 (grey) or 3 (RGB).

    Returns:
        (channels, size, size) uint8.

    Raises:
        Exception: of whatever kind Pillow raises for a file it cannot read to its end.
    """
    image = _open(encoded, size)
    image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(_resize(image, size, fit, Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_mask(encoded: bytes | np.ndarray, *, size: int, fit: str) -> np.ndarray:
    """Decode a mask with the geometry of `decode_image`, by nearest neighbour.

    Returns:
        (size, size) bool, True where the mask is not black.
    """
    image = _open(encoded, size).convert("L").point(lambda value: 255 if value else 0)
    return np.asarray(_resize(image, size, fit, Image.Resampling.NEAREST)) > 0


def header_channels(path: Path) -> int:
    """Tell grey (1) from colour (3) by an image file's header alone; 1 for a file that is no image."""
    if not path.is_file():  # a pipe would be waited for
        return 1
    try:
        with Image.open(path, formats=FORMATS) as image:
            return 1 if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16") else 3
    except Exception:  # whatever Pillow raises: the decoder reports the file by name later
        return 1


def _open(encoded: bytes | np.ndarray, size: int) -> Image.Image:
    if not isinstance(encoded, bytes):
        if encoded.dtype != np.uint8:
            raise ValueError(f"pixels of type {encoded.dtype} instead of uint8")
        return Image.fromarray(encoded[..., 0] if encoded.ndim == 3 and encoded.shape[2] == 1 else encoded)
    image: Image.Image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many; make it smaller")
    image.draft(None, (DRAFT_MARGIN * size, DRAFT_MARGIN * size))
    image.load()
    return _to_8_bit(ImageOps.exif_transpose(image))


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save as 8-bit or 16-bit")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known range; save as 8-bit or 16-bit")
        return Image.fromarray(np.rint(values / np.float32(257)).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image


def _resize(image: Image.Image, size: int, fit: str, method: Image.Resampling) -> Image.Image:
    width, height = image.size
    side_x, side_y = (min(width, height),) * 2 if fit == "crop" else (width, height)
    left, top = (width - side_x) / 2, (height - side_y) / 2
    return image.resize((size, size), method, box=(left, top, left + side_x, top + side_y))
