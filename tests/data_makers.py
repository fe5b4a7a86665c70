"""Tiny datasets in the layouts that the loaders read."""

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dpaat.data.table import ImageTable

DX = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    """Encode a smooth random RGB image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind, quality=95)
    return buffer.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def ham_rows(lesions: int = 70) -> list[dict[str, object]]:
    """Rows of metadata: every third lesion has two images, classes take turns."""
    rows: list[dict[str, object]] = []
    for lesion in range(lesions):
        for _ in range(2 if lesion % 3 == 0 else 1):
            rows.append(
                {
                    "lesion_id": f"HAM_{lesion:07d}",
                    "image_id": f"ISIC_{len(rows):07d}",
                    "dx": DX[lesion % 7],
                    "dx_type": "histo",
                    "age": "" if lesion == 4 else 5.0 * (lesion % 15),
                    "sex": ("male", "female")[lesion % 2],
                    "localization": "back",
                }
            )
    return rows


def make_ham(folder: Path, *, layout: str = "parts", dataverse: bool = False, lesions: int = 70) -> Path:
    """Write a small HAM10000: layout "parts", "flat", "images" or "zip"."""
    folder.mkdir(parents=True)
    rows = ham_rows(lesions)
    parts = [f"HAM10000_images_part_{1 + 2 * number // len(rows)}" for number in range(len(rows))]
    masks = "HAM10000_segmentations_lesion_tschandl"
    files: dict[str, dict[str, bytes]] = {}
    for number, (row, part) in enumerate(zip(rows, parts, strict=True)):
        place = {"flat": "", "images": "images"}.get(layout, part)
        files.setdefault(place, {})[f"{row['image_id']}.jpg"] = jpeg(number)
        files.setdefault(masks, {})[f"{row['image_id']}_segmentation.png"] = half_mask()
    for place, contents in files.items():
        if layout == "zip":
            with zipfile.ZipFile(folder / f"{place}.zip", "w") as archive:
                for name, data in contents.items():
                    archive.writestr(name, data)
                    archive.writestr(f"__MACOSX/._{name}", b"not an image")
        else:
            (folder / place).mkdir(exist_ok=True)
            for name, data in contents.items():
                (folder / place / name).write_bytes(data)
    if dataverse:
        rows = [{**row, "dataset": "rosendahl"} for row in rows]
    write_csv(folder / ("HAM10000_metadata" if dataverse else "HAM10000_metadata.csv"), rows)
    return folder


def half_mask(size: tuple[int, int] = (120, 90)) -> bytes:
    """Encode a mask whose left half is the lesion."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("P").save(buffer, "PNG")
    return buffer.getvalue()


def array_table(labels: Sequence[int], groups: Sequence[str] | None = None, **extra: object) -> ImageTable:
    """Build a table whose images are held in memory; image i is filled with the grey level i % 256."""
    ids = [f"img{number:05d}" for number in range(len(labels))]
    frame = pd.DataFrame({"id": ids, "label": np.asarray(labels, dtype=np.int64), "group": list(groups or ids)})
    for name in ("split",):
        if name in extra:
            frame[name] = extra.pop(name)
    return ImageTable(
        name="array",
        spec="array",
        frame=frame,
        classes=tuple(f"c{number}" for number in range(max(labels) + 1)),
        channels=1,
        read=lambda row: np.full((8, 8), row % 256, np.uint8),
        describe=lambda row: ids[row],
        **extra,  # type: ignore[arg-type]
    )
