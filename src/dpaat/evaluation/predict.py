"""Class probabilities for new images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from tqdm.auto import tqdm

from dpaat.data import load_table
from dpaat.data.cache import in_threads
from dpaat.data.files import FileReader, ImageFile, files_below, left_out, take_frame
from dpaat.data.images import decode_image, pixel_kind, pixel_quantiles
from dpaat.data.registry import DATASETS, import_loaders
from dpaat.data.table import UNGROUPED
from dpaat.data.values import resolve_window, window_range
from dpaat.errors import UserError, require_printable
from dpaat.evaluation.metrics import require_finite
from dpaat.evaluation.run import resolve_device
from dpaat.runs import open_run
from dpaat.storage import replacing

T = TypeVar("T")
Read = Callable[[int], "bytes | np.ndarray"]


def predict(
    run: Path,
    images: Sequence[str | Path] | str,
    out: Path,
    *,
    window: str | None = None,
    batch_size: int = 128,
    device: str = "auto",
    progress: bool = True,
    console: Console | None = None,
) -> Path:
    """Class probabilities for new images by a trained run, written to a CSV file.

    Columns: `file`, `predicted` (a class name), and `probability_<class>` for each class of the run. Images are made
    square and resized as the run's own were, and read as grey or RGB, whichever the run was trained on.

    Args:
        run: the run folder.
        images: image files and folders of them, or one text: a dataset spec such as "ham10000:DIR", or a path.
        out: the CSV file to write.
        window: how the values of the pixels are read, see `dpaat.data.prepare`; None as the run's own were.
        batch_size: images per batch.
        device: "auto", "cpu", "cuda", ...
        progress: show a progress bar with the time left on stderr.
        console: where to print what is left out or doubtful.

    Returns:
        `out`.

    Raises:
        UserError: no run, no images, an unreadable image, or an output that cannot be written.
    """
    opened = open_run(run)
    if batch_size < 1:
        raise UserError(f"batch size: {batch_size} must be at least 1")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a CSV file")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder")
    given = [images] if isinstance(images, str) else images
    names, read, remarks = (
        _from_spec(images)
        if isinstance(images, str) and _is_spec(images)
        else _from_paths(given, take_frame(opened.config.data)[1])
    )
    if console is not None and remarks:
        console.print("\n".join(remarks), highlight=False, soft_wrap=True)
    require_printable(names, "predict")
    target = resolve_device(device)
    model = opened.load_model(device=target)
    size, fit, channels = opened.config.image_size, opened.config.fit, int(opened.info["channels"])

    def each(function: Callable[[bytes | np.ndarray], T], rows: Sequence[int]) -> list[T]:
        def one(place: int) -> T:
            try:
                return function(read(rows[place]))
            except Exception as error:  # Pillow raises whatever a malformed file makes it stumble over
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UserError(f"cannot read {names[rows[place]]}: {reason}; nothing was written") from None

        return list(in_threads(one, len(rows), "", progress=False))

    reading: dict[str, Any] = opened.reading if window is None else {"window": window, "known": ()}
    kinds = [kind for kind, _ in each(pixel_kind, range(len(names)))]

    def quantiles(rows: np.ndarray, count: int) -> np.ndarray:
        return np.stack(each(partial(pixel_quantiles, count=count), rows.tolist()))

    resolved = resolve_window(reading["window"], kinds, quantiles, spec="predict", known=reading["known"])
    decode = partial(decode_image, size=size, fit=fit, channels=channels, window=window_range(resolved))
    parts = []
    with tqdm(total=len(names), desc="predicting", unit="img", disable=None if progress else True) as bar:
        for first in range(0, len(names), batch_size):
            rows = range(first, min(first + batch_size, len(names)))
            with torch.inference_mode():
                logits = model(torch.from_numpy(np.stack(each(decode, rows))).to(target).float() / 255)
            parts.append(logits.cpu().double().softmax(dim=1))
            bar.update(len(rows))
    probabilities = torch.cat(parts)
    require_finite(probabilities)
    classes = list(opened.info["classes"])
    frame = pd.DataFrame(probabilities.numpy(), columns=[f"probability_{name}" for name in classes])
    frame.insert(0, "file", names)
    frame.insert(1, "predicted", [classes[k] for k in probabilities.numpy().argmax(axis=1)])
    try:
        with replacing(out) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return out


def _is_spec(text: str) -> bool:
    import_loaders()
    return text.partition(":")[0] in DATASETS and not Path(text).exists()


def _from_spec(spec: str) -> tuple[list[str], Read, list[str]]:
    table = load_table(spec)
    remarks = [f"warning: {line}" for line in table.warnings]
    remarks += [f"note: {line}" for line in table.notes if line != UNGROUPED]
    return [table.describe(row) for row in range(len(table))], table.read, remarks


def _from_paths(paths: Sequence[str | Path], frame: str) -> tuple[list[str], Read, list[str]]:
    files: list[Path] = []
    others: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such image or folder")
        found, rest = files_below(path) if path.is_dir() else ([path], [])
        if not found:
            raise UserError("; ".join([f"{path}: no images in this folder", *left_out(rest, path)]))
        files += found
        others += rest
    if not files:
        raise UserError("give at least one image or folder of images")
    remarks = [f"warning: {line}" for line in left_out(others, Path())]
    return [str(file) for file in files], FileReader([*map(ImageFile, files)], frame), remarks
