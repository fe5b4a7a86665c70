"""Small datasets that are broken in the meaning of their pixels (kind 4) or in their split (kind 6), and sound ones."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_makers import write_csv

Maker = Callable[[Path], str]
COUNT = 24


def scene(number: int, low: float = 0.0, high: float = 255.0, size: int = 16) -> np.ndarray:
    """A smooth gradient with a little noise from low to high, (size, size) float64, different for every number."""
    rng = np.random.default_rng(number)
    ramp = np.add.outer(np.arange(size), np.arange(size)[:: (-1) ** number]) + rng.random((size, size))
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    return low + (high - low) * ramp


def grey(number: int) -> Image.Image:
    return Image.fromarray(scene(number).round().astype(np.uint8))


def integers(high: float, low: float = 0, dtype: type = np.uint16) -> Callable[[int], Image.Image]:
    return lambda number: Image.fromarray(scene(number, low, high).round().astype(dtype))


def floats(low: float, high: float) -> Callable[[int], Image.Image]:
    return lambda number: Image.fromarray(scene(number, low, high).astype(np.float32))


def png_16(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 3) as a PNG of 16 bits a colour, which Pillow cannot write."""
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def signed(pixels: np.ndarray, **tags: int) -> bytes:
    """Encode (H, W) int16 as TIFF, with the sign that Pillow does not write."""
    image = Image.fromarray(pixels.astype(np.int16).view(np.uint16))
    return encode(image, "TIFF", tiffinfo={339: 2, **tags})


def write_set(
    folder: Path,
    image: Callable[[int], Image.Image | bytes] = grey,
    *,
    suffix: str = "png",
    odd: Mapping[int, Image.Image | bytes] | None = None,
    columns: Callable[[int], Mapping[str, object]] = lambda number: {},
    option: str = "",
) -> str:
    """Write images of two classes and their table; `odd` are images that differ, `columns` further cells of a row."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(COUNT):
        made = (odd or {}).get(number)
        made = image(number) if made is None else made
        path = folder / f"{number:02d}.{suffix}"
        if isinstance(made, bytes):
            path.write_bytes(made)
        else:
            made.save(path)
        rows.append({"path": path.name, "label": "ab"[number % 2], **columns(number)})
    return f"csv:{write_csv(folder / 'list.csv', rows)}{option}"


def with_mask(mask: Image.Image | bytes, **options: object) -> Maker:
    """A set in which every image has this mask."""

    def make(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mask.png").write_bytes(mask if isinstance(mask, bytes) else encode(mask, "PNG"))
        return write_set(folder, columns=lambda number: {"mask": "mask.png"})

    return make


def half(value: int, dtype: type = np.uint8, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """A mask whose left half has a value and whose right half is 0."""
    mask = np.zeros(size, dtype)
    mask[:, : size[1] // 2] = value
    return mask


def columns(**values: Sequence[object]) -> Callable[[int], Mapping[str, object]]:
    """Cells that repeat the given values over the rows."""
    return lambda number: {name: each[number % len(each)] for name, each in values.items()}


def made(image: Callable[[int], Image.Image | bytes] = grey, **options: object) -> Maker:
    return lambda folder: write_set(folder, image, **options)  # type: ignore[arg-type]


def _several_frames(number: int) -> bytes:
    frames = [grey(number + step) for step in range(3)]
    return encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])


BLACK = Image.fromarray(scene(0, 0, 9).round().astype(np.uint8))
THIRDS = ("train", "train", "train", "train", "val", "test")
BROKEN: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "12 bits in 16-bit files": (made(integers(4095)), ("give --window bits:12",)),
    "8 bits in 16-bit files": (made(integers(255)), ("give --window bits:8",)),
    "0 and 1 in 16-bit files": (made(integers(1)), ("give --window bits:1",)),
    "12 bits in 32-bit files": (made(integers(4095, dtype=np.int32), suffix="tif"), ("give --window bits:12",)),
    "20 bits in 32-bit files": (made(integers(2**20 - 1, dtype=np.int32), suffix="tif"), ("give --window bits:20",)),
    "Hounsfield units": (made(lambda n: signed(scene(n, -1024, 3071)), suffix="tif"), ("give --window=-1024,3071",)),
    "floats from 0 to 1": (made(floats(0, 1), suffix="tif"), ("give --window=0,1",)),
    "floats from -1 to 1": (made(floats(-1, 1), suffix="tif"), ("give --window=-1,1",)),
    "a bright spot in 12 bits": (
        made(integers(4095), odd={3: Image.fromarray(np.eye(16, dtype=np.uint16) * 65535)}),
        ("99 % of half of the images below 3", "percentile:0.5,99.5"),
    ),
    "a bright spot in every image of 12 bits": (
        made(
            lambda n: Image.fromarray(
                np.maximum(scene(n, 0, 4095), 65535 * (np.arange(256).reshape(16, 16) == 7)).astype(np.uint16)
            )
        ),
        ("99 % of half of the images below 3", "percentile:0.5,99.5"),
    ),
    "signed values stored as unsigned ones": (made(integers(34000, 32768)), ("give --window=32768,34000",)),
    "0 and 1 in 8-bit files": (
        made(lambda n: Image.fromarray(scene(n, 0, 1).round().astype(np.uint8))),
        ("the whole set is dark: values lie in 0 to 1", "--window bits:1"),
    ),
    "hardly any contrast in 8-bit files": (
        made(lambda n: Image.fromarray(scene(n, 120, 130).round().astype(np.uint8))),
        ("the whole set has little contrast: values lie in 120 to 130", "--window=120,130"),
    ),
    "12 bits in 16-bit colour": (
        made(lambda n: png_16(np.repeat(scene(n, 0, 4095)[..., None], 3, axis=2))),
        ("their upper 8 bits lie in 0 to 15",),
    ),
    "0 to 15 in 8-bit files": (
        made(lambda n: Image.fromarray(scene(n, 0, 15).round().astype(np.uint8))),
        ("the whole set is dark: values lie in 0 to 15",),
    ),
    "a constant image": (made(odd={5: Image.new("L", (16, 16), 90)}), ("constant images: 1 of 24: 05.png",)),
    "a near-black image": (made(odd={5: BLACK}), ("near-black images: 1 of 24: 05.png",)),
    "a transparent image": (
        made(odd={5: Image.merge("LA", (grey(5), Image.new("L", (16, 16))))}),
        ("constant images: 1 of 24: 05.png",),
    ),
    "white stored as 0": (
        made(odd={5: encode(integers(65535)(5), "TIFF", tiffinfo={262: 0})}),
        ("05.png: white is stored as 0",),
    ),
    "several frames": (made(odd={5: _several_frames(5)}), ("only the first is read: 1: 05.png",)),
    "an empty mask": (with_mask(Image.new("L", (16, 16))), ("00.png: it is empty",)),
    "masks of 1 and 2": (with_mask(Image.fromarray(half(1) + np.uint8(1))), ("each covers its whole image",)),
    "a mask of another aspect": (with_mask(Image.fromarray(half(255, size=(16, 24)))), ("which is another aspect",)),
    "a patient on two sides": (
        made(columns=columns(split=THIRDS, group=[f"p{number}" for number in range(7)])),
        ("same group on two sides",),
    ),
    "an image on two sides": (
        made(odd={4: grey(2)}, columns=columns(split=THIRDS)),
        ("identical images on two sides", "04.png"),
    ),
    "patients that are not used": (
        made(columns=columns(PatientID=[f"p{number}" for number in range(7)])),
        (",group=PatientID",),
    ),
    "a class that is not trained": (
        made(columns=columns(split=("train", "test", "train", "val"))),
        ("no image of class b in the training split",),
    ),
}
SOUND: dict[str, Maker] = {
    "16 bits in use": made(integers(60000)),
    "masks of 0 and 1": with_mask(Image.fromarray(half(1))),
    "patients that are used": made(
        columns=columns(patient_id=[f"p{number}" for number in range(7)]), option=",group=patient_id"
    ),
}
