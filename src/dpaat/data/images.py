"""From the bytes of one image file to pixels of the wanted size."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION, SAMPLEFORMAT

from dpaat.data.dicom import DicomImage
from dpaat.data.dicom import peek as peek_dicom
from dpaat.data.nifti import NiftiImage
from dpaat.data.patients import Patient
from dpaat.data.scan import COLOUR_16, EIGHT, FLOAT, INTEGER, Scan, Window, extra, file_format, frame_index, scan_format
from dpaat.data.table import Encoded
from dpaat.errors import UserError

# Scaled decoding of JPEG is kept to four times the wanted size and above, where the antialiasing that follows
# hides its error (below one grey level on average); below that it would show.
DRAFT_MARGIN = 4

# Not all that Pillow knows: among the rest are PostScript, which it hands to another program, and formats of films.
WANTED = "JPEG PNG BMP GIF TIFF WEBP JPEG2000 PPM AVIF DDS DIB ICNS ICO IM MSP PCX PSD QOI SGI SUN TGA XBM XPM"
Image.init()
FORMATS = tuple(name for name in WANTED.split() if name in Image.OPEN)
# MPO is a kind of JPEG.
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO"))
MAX_PIXELS = 2**27  # of one image, which takes 400 MB when decoded; a file of a few kB can promise any number
WHITE_16 = 2**16 - 1
OWN: Literal["own"] = "own"
Reading = Window | Literal["own"] | None
"""How values become grey levels: through a window for all, through that of each file, or by the range of its type."""


def decode_image(encoded: Encoded, *, size: int, fit: str, channels: int, window: Reading = None) -> np.ndarray:
    """Decode, turn upright, make square and resize with antialiasing.

    The first frame of an animation counts. Transparent parts turn black. `fit` is "crop" (central square) or "squash",
    `channels` 1 (grey) or 3 (RGB); without a window the whole range of the file's type counts, where 65535 is white in
    16-bit grey images, and with "own" the window that the file names. Returns (channels, size, size) uint8; raises
    whatever Pillow does for a file it cannot read.
    """
    image = _to_8_bit(_open(encoded, DRAFT_MARGIN * size), window).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(_resize(image, size, fit, Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_mask(encoded: Encoded, *, size: int, fit: str) -> np.ndarray:
    """Decode a mask with the geometry of `decode_image`, by nearest neighbour, to (size, size) bool, True inside.

    Inside is what is not zero in the file: of any channel, however small the value. In JPEG, AVIF and lossy WebP, which
    leave grey noise, it is what exceeds half of the largest value. Transparent parts are outside. Where the colours do
    not tell inside from outside, the numbers of a palette or the transparency do.
    """
    mask = Image.fromarray(_inside(_open(encoded)).astype(np.uint8) * 255)
    return np.asarray(_resize(mask, size, fit, Image.Resampling.NEAREST)) > 0


def require_same_aspect(mask: Encoded, image: Encoded) -> None:
    """Raise a ValueError if width to height of a mask and its image differ by more than rounding explains."""
    (w, h), (width, height) = _upright_size(mask), _upright_size(image)
    if abs(w - width * h / height) > 1 and abs(h - height * w / width) > 1:
        raise ValueError(f"it is {w} x {h} and its image {width} x {height}, which is another aspect")


def is_empty_mask(encoded: Encoded) -> bool:
    """Whether no pixel of a mask is inside, see `decode_mask`."""
    return not bool(_inside(_open(encoded)).any())


def pixel_kind(encoded: Encoded) -> tuple[str, int]:
    """Kind of the pixels and number of frames (1 where it is said which) by the header; ("8-bit", 1) for no image."""
    if not isinstance(encoded, bytes) or encoded.startswith(b"\xff\xd8"):  # JPEG, the most frequent, has one kind
        return EIGHT, 1
    try:
        with _header(encoded) as image:
            return _kind(image), 1 if hasattr(encoded, "frame") else getattr(image, "n_frames", 1)
    except Exception:  # whatever Pillow raises: the decoder reports the file by name later
        if scan_format(encoded):  # whose kind decides on the window
            raise
        return EIGHT, 1


def pixel_quantiles(encoded: Encoded, count: int) -> np.ndarray:
    """Quantiles (count,), float64, of values as stored, smallest to largest; of 16-bit colour, of its upper 8 bits."""
    image = _open(encoded)
    values = _values(image if _is_wide(image) else _to_8_bit(image, (0, 255)))
    return np.asarray(np.quantile(values.ravel(), np.linspace(0, 1, count), method="nearest"), dtype=np.float64)


def peek(path: Path) -> tuple[int, Patient | None]:
    """Tell grey (1) from colour (3), and whose image it is where it says so, by an image file's header alone.

    1 for a file that is no image; UserError without the package that reads its format.
    """
    if not path.is_file():  # a pipe would be waited for
        return 1, None
    try:
        if (form := file_format(path)) == "DICOM":
            return peek_dicom(path)
        if form:
            extra("nibabel")
            return 1, None
        with Image.open(path, formats=FORMATS) as image:
            return channels_of(image), None
    except UserError:
        raise
    except Exception:  # whatever Pillow raises: the decoder reports the file by name later
        return 1, None


def header_channels(content: bytes) -> int:
    """Tell grey (1) from colour (3) by the header of an image file's content; 1 for what is no image."""
    try:
        with _header(content) as image:
            return channels_of(image)
    except Exception:  # as above
        return 1


def channels_of(image: Image.Image) -> int:
    """1 for a grey image, 3 for one in colour."""
    return 1 if image.mode in ("1", "L", "LA") or _is_wide(image) else 3


def _header(content: bytes) -> Image.Image:
    """Open an image file without its pixels, at the frame that is meant; a further format of files begins here."""
    if form := scan_format(content):
        return DicomImage(content) if form == "DICOM" else NiftiImage(content)
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if hasattr(content, "frame"):
        image.seek(frame_index(content, getattr(image, "n_frames", 1)))
    return image


def _upright_size(encoded: Encoded) -> tuple[int, int]:
    """Width and height of an image as it is shown, by its header."""
    if not isinstance(encoded, bytes):
        return encoded.shape[1], encoded.shape[0]
    with _header(encoded) as image:
        (width, height), tags = image.size, getattr(image, "tag_v2", {})
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
        already = (tags.get(256, width), tags.get(257, height)) != image.size  # ImageWidth, ImageLength of a TIFF
        return (height, width) if turned and not already else (width, height)


def _open(encoded: Encoded, draft: int | None = None) -> Image.Image:
    """Open an image upright; `draft` is a side in pixels that is large enough."""
    if not isinstance(encoded, bytes):
        if encoded.dtype != np.uint8:
            raise ValueError(f"pixels of type {encoded.dtype} instead of uint8")
        return Image.fromarray(encoded[..., 0] if encoded.ndim == 3 and encoded.shape[2] == 1 else encoded)
    image = _header(encoded)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many; make it smaller")
    if isinstance(image, Scan):
        image.load()
        return image
    if draft is not None:
        image.draft(None, (draft, draft))
    kind, form, tags = _kind(image), image.format, getattr(image, "tag_v2", {})
    signed = 2 in tags.get(SAMPLEFORMAT, ())
    if kind != EIGHT and tags.get(PHOTOMETRIC_INTERPRETATION) == 0:
        raise ValueError("white is stored as 0 (WhiteIsZero); save it with black as 0")
    if kind == EIGHT and signed:
        raise ValueError("signed 8-bit pixels; save as unsigned ones, or as 16-bit")
    if kind == COLOUR_16 and tags.get(PLANAR_CONFIGURATION) == 2:
        raise ValueError("16-bit colours plane by plane are not supported; save as 8-bit")
    image.load()
    unsigned = tags.get(BITSPERSAMPLE) == (32,) and not signed
    if unsigned and image.mode == "I" and image.getextrema()[0] < 0:  # type: ignore[operator]
        raise ValueError("32-bit pixels above 2^31 are not supported; save as 16-bit or float")
    image = ImageOps.exif_transpose(image)
    lossy = form in ("JPEG", "MPO", "AVIF") or (form == "WEBP" and b"VP8L" not in encoded[:64])
    image.info["kind"], image.info["lossy"] = kind, lossy
    return image


def _is_wide(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _kind(image: Image.Image) -> str:
    """Kind of the pixels of an image that is not loaded yet."""
    if isinstance(image, Scan):
        return image.kind
    if _is_wide(image):
        return FLOAT if image.mode == "F" else INTEGER
    bits = np.max(getattr(image, "tag_v2", {}).get(BITSPERSAMPLE, 8))
    return COLOUR_16 if bits > 8 or ";16" in str(getattr(image, "tile", "")) else EIGHT


def _values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite numbers; replace them")
    return values


def _to_8_bit(image: Image.Image, window: Reading) -> Image.Image:
    """Pixels of more than 8 bits in 8, a transparent image on black; any other as it is, or through the window."""
    if _is_wide(image):
        values = _values(image)
        if window == OWN:
            values, window = image.through_own_window(values) if isinstance(image, Scan) else (values, None)
        if window is None and image.mode == "F":
            raise ValueError("floating-point pixels have no known range; give --window LO,HI")
        if window is None and not 0 <= values.min() <= values.max() <= WHITE_16:
            raise ValueError(f"values from {values.min()} to {values.max()} are not of 16 bits; give --window LO,HI")
        grey = _through(values, window or (0, WHITE_16))
        return Image.fromarray(255 - grey if isinstance(image, Scan) and image.white_is_low else grey)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    if window is None or window == OWN:
        return image
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return image.point(_through(np.arange(256), window).tolist() * len(image.getbands()))


def _through(values: np.ndarray, window: Window) -> np.ndarray:
    values = (values - np.float64(window[0])) / (window[1] - window[0])
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _inside(image: Image.Image) -> np.ndarray:
    """Where a mask is not zero, (H, W) bool."""
    if image.info.get("kind") == COLOUR_16:
        raise ValueError("16-bit colours, of which small values would be lost; save the mask as grey or 8-bit")
    if _is_wide(image):
        return np.asarray(np.nan_to_num(np.asarray(image)) != 0)
    if image.info.get("lossy"):
        grey = np.asarray(image.convert("L"))
        return np.asarray(grey > grey.max() // 2)
    pixels = np.asarray(image.convert("RGB").convert("RGBA") if image.mode == "CMYK" else image.convert("RGBA"))
    colour, opaque = pixels[..., :3].any(axis=2), pixels[..., 3] > 0
    if opaque.any() and not opaque.all():
        return np.asarray(inside if (inside := colour & opaque).any() else opaque)
    if image.mode == "P" and colour.all() == colour.any():  # colours that do not tell them apart
        numbers = np.asarray(image)
        return np.asarray(numbers != 0 if numbers.min() < numbers.max() else colour)
    return np.asarray(colour)


def _resize(image: Image.Image, size: int, fit: str, method: Image.Resampling) -> Image.Image:
    width, height = image.size
    x, y = ((side - min(width, height)) / 2 if fit == "crop" else 0 for side in image.size)
    return image.resize((size, size), method, box=(x, y, width - x, height - y))
