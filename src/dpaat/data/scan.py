"""Files of measured values, as scanners write them: what DICOM and NIfTI have in common."""

import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dpaat.errors import UserError

EIGHT, INTEGER, FLOAT, COLOUR_16 = "8-bit", "integer", "float", "16-bit colour"
"""Kinds of pixels: up to 8 bits; grey of 16 or 32 bits; grey floating-point; colour of 16 bits, of which Pillow keeps
the upper 8."""
DICOM, BARE = "DICOM", "DICOM without a window"
"""Measured values in a DICOM file that says which of them are black and white, and in one that does not."""
Window = tuple[float, float]  # the values that become 0 and 255; what lies beyond is cut
HEAD = 1024  # bytes at the beginning of a file that tell its format
GZIP = b"\x1f\x8b"
READERS = {"pydicom": "DICOM", "nibabel": "NIfTI"}


class Framed(bytes):
    """The bytes of an image file of which a certain frame or slice is meant, see `framed`."""

    frame: str


def framed(content: bytes, frame: str) -> bytes:
    """Mark the frame that is meant: "first", "middle" or a number from 1 on; nothing if it is empty."""
    if not frame:
        return content
    marked = Framed(content)
    marked.frame = frame
    return marked


def parse_frame(text: str | None) -> str:
    """Return a valid choice of frame, "" for None; UserError for another."""
    if text is None:
        return ""
    if text in ("first", "middle") or (text.isdecimal() and 0 < int(text) < 10**6):
        return text
    raise UserError(f"frame={text}: write frame=first, frame=middle, or the number of a frame or slice from 1 on")


def frame_index(content: bytes, count: int) -> int:
    """Index of the frame that is meant, from 0; ValueError where it is not said which of several, or there is none."""
    frame = getattr(content, "frame", "first" if count == 1 else "")
    if not frame:
        raise ValueError(
            f"it holds {count} frames or slices; say behind the dataset which one is meant, as ,frame=middle (or "
            "first, or a number from 1 on)"
        )
    index = int(frame) - 1 if frame.isdecimal() else count // 2 if frame == "middle" else 0
    if index >= count:
        raise ValueError(f"it holds {count} frames or slices, so there is no frame={frame}")
    return index


def scan_format(head: bytes) -> str:
    """Tell "DICOM" and "NIfTI" by the content of a file, or its first `HEAD` bytes; "" for anything else."""
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(31).decompress(head[:HEAD], HEAD)
        except zlib.error:
            return ""
    return "NIfTI" if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0" else ""


def file_format(path: Path) -> str:
    """`scan_format` of a file; "" for one that cannot be opened."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return ""
        with path.open("rb") as file:
            return scan_format(file.read(HEAD))
    except OSError:
        return ""


def extra(module: str) -> Any:
    """Import what reads a format, or a module of it; UserError without it."""
    try:
        return import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise UserError(f"{READERS[name]} files need {name}, which is not here: pip install 'dpaat[dicom]'") from None


class Scan(Image.Image):
    """An image of measured values: its size and `kind` are known before its pixels are."""

    def __init__(self, size: tuple[int, int], kind: str, mode: str = "F") -> None:
        super().__init__()
        self._size, self._mode, self.kind = size, mode, kind
        self.white_is_low = False  # of the values as they are measured
        self._loaded = False

    def load(self) -> Any:
        """Decode the pixels; ValueError if that cannot be done."""
        if not self._loaded:
            values = self.decoded()
            if values.ndim == 2 and self.kind != EIGHT:
                values = values.astype(np.int32 if np.can_cast(values.dtype, np.int32) else np.float32)
            image = Image.fromarray(values)
            self.im, self._mode, self._loaded = image.im, image.mode, True
        return super().load()

    def decoded(self) -> np.ndarray:
        """The pixels, (H, W) of any type, or (H, W, 3) uint8."""
        raise NotImplementedError

    def through_own_window(self, values: np.ndarray) -> tuple[np.ndarray, Window]:
        """Values through the window that the file names, and which of the results are black and white."""
        raise ValueError("it names no window; give --window LO,HI")
