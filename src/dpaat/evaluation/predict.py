"""Class probabilities for new images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from tqdm.auto import tqdm

from dpaat.attacks.gradient import evaluation_mode
from dpaat.data import load_table
from dpaat.data.cache import in_threads, reason_of
from dpaat.data.csv_file import frame_of
from dpaat.data.files import FileReader, ImageFile, files_below, left_out
from dpaat.data.images import decode_image, pixel_kind, pixel_quantiles
from dpaat.data.map_style import encoded
from dpaat.data.registry import DATASETS, import_loaders
from dpaat.data.table import UNGROUPED
from dpaat.data.values import resolve_window, window_range
from dpaat.errors import UserError, require_printable
from dpaat.evaluation.foreign import network_digest
from dpaat.evaluation.labels import named, thresholds_of
from dpaat.evaluation.metrics import require_finite
from dpaat.evaluation.target import resolve_device
from dpaat.models import build_model
from dpaat.own_code import require_trust
from dpaat.runs import INFO, open_run
from dpaat.storage import refuse_overwriting, replacing, writing
from dpaat.validation import misfit
from dpaat.validation import record as made_of
from dpaat.weights import open_weights

CARD = "model.json"
"""What an export holds beside its weights."""
EXPORTED = made_of(window=str, known=list[str], channels=int, image_size=int, stem=str, fit=str, classes=list[str])
T = TypeVar("T")
Read = Callable[[int], "bytes | np.ndarray"]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained network with all that reading images for it needs; `dpaat.load` makes it.

    `model` maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`, in eval mode; normalization is inside.
    """

    path: Path  #: the run folder or export
    model: nn.Module
    classes: tuple[str, ...]  #: K names, in the order of the logits
    channels: int  #: of its images, 1 (grey) or 3 (RGB)
    image_size: int  #: pixels at their side
    fit: str  #: how an oblong image becomes square, "crop" or "squash"
    reading: dict[str, Any]  #: `window` and `known` of `dpaat.data.prepare`
    device: str
    thresholds: np.ndarray | None = None  #: of the logits, where an image has several labels `(K,)`
    frame: str = ""  #: which frame or slice of a file is read, as the training's data said

    def predict(
        self, images: Any, *, window: str | None = None, batch_size: int = 128, progress: bool = False
    ) -> pd.DataFrame:
        """Class probabilities for new images, a row each: what `dpaat predict` writes.

        Args:
            images: paths of files and folders, or one; a dataset spec such as "ham10000:DIR"; or images themselves: PIL
                ones, arrays `(N, H, W)`, `(N, H, W, C)` or a list of them, tensors `(N, C, H, W)`, of whole numbers or
                floating in [0, 1]. They are made square and resized as the images of the training were; tensors that
                are floating and of the network's size go into it as they are.
            window: how the values of the pixels are read, see `dpaat.data.prepare`; None as in the training.
            batch_size: images per batch.
            progress: show a progress bar with the time left on stderr.

        Returns:
            Columns `file` (for images themselves their number), `predicted` (a class name, or labels such as
            "mass|nodule" by the thresholds of the training), and `probability_<class>` for each class.

        Raises:
            UserError: no images, or one that cannot be read.
        """
        return self.look(*named_images(images, self.frame)[:2], images, window, batch_size, progress)

    def look(
        self, names: list[str], read: Read, images: Any, window: str | None, batch_size: int, progress: bool
    ) -> pd.DataFrame:
        """Classify the images that `read` gives by their numbers; see `predict`."""
        if batch_size < 1:
            raise UserError(f"batch size: {batch_size} must be at least 1")
        require_printable(names, "predict")
        size = self.image_size

        def each(function: Callable[[bytes | np.ndarray], T], rows: Sequence[int]) -> list[T]:
            def one(place: int) -> T:
                try:
                    return function(read(rows[place]))
                except Exception as error:  # Pillow raises whatever a malformed file makes it stumble over
                    said = f"cannot read {names[rows[place]]}: {reason_of(error)}"
                    raise UserError(f"{said}; nothing was written") from None

            return list(in_threads(one, len(rows), "", progress=False))

        def quantiles(rows: np.ndarray, count: int) -> np.ndarray:
            return np.stack(each(partial(pixel_quantiles, count=count), rows.tolist()))

        floating = isinstance(images, Tensor) and images.is_floating_point() and images.ndim > 2
        if ready := floating and images.shape[-2:] == (size, size):
            whole = images.detach().reshape(-1, *images.shape[-3:])
            if whole.shape[1] != self.channels or not bool(((whole >= 0) & (whole <= 1)).all()):
                said = f"{tuple(whole.shape)} from {float(whole.min()):.4g} to {float(whole.max()):.4g}"
                raise UserError(f"predict: images must be (N, {self.channels}, {size}, {size}) in [0, 1], not {said}")
        else:
            reading: dict[str, Any] = self.reading if window is None else {"window": window, "known": ()}
            kinds = [kind for kind, _ in each(pixel_kind, range(len(names)))]
            resolved = resolve_window(reading["window"], kinds, quantiles, spec="predict", known=reading["known"])
            geometry: dict[str, Any] = {"size": size, "fit": self.fit, "channels": self.channels}
            decode = partial(decode_image, **geometry, window=window_range(resolved))
        parts = []
        with tqdm(total=len(names), desc="predicting", unit="img", disable=None if progress else True) as bar:
            for first in range(0, len(names), batch_size):
                rows = range(first, min(first + batch_size, len(names)))
                x = whole[first : rows.stop] if ready else torch.from_numpy(np.stack(each(decode, rows))).float() / 255
                with evaluation_mode(self.model), torch.inference_mode():
                    logits = self.model(x.to(self.device).float())
                parts.append(logits.cpu().double())
                bar.update(len(rows))
        logits = torch.cat(parts)
        require_finite(logits)
        several = self.thresholds is not None
        probabilities = logits.sigmoid() if several else logits.softmax(dim=1)
        answers = (
            (logits.numpy() > self.thresholds).astype(np.int8) if several else probabilities.numpy().argmax(axis=1)
        )
        frame = pd.DataFrame(probabilities.numpy(), columns=[f"probability_{name}" for name in self.classes])
        frame.insert(0, "file", names)
        frame.insert(1, "predicted", named(answers, self.classes))
        return frame


def load(path: str | Path, *, device: str = "auto") -> Predictor:
    """Load what a training or an export left.

    Args:
        path: a run folder, or a folder that `dpaat export` wrote.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        UserError: neither of them, damaged, or with code that was not signed or allowed by --trust.
    """
    path, target, frame = Path(path), resolve_device(device), ""
    thresholds: dict[str, float] = {}
    if not (path / CARD).is_file() or (path / INFO).is_file():
        run = open_run(path)
        model, record, reading = run.load_model(device=target), run.record, run.reading
        frame, thresholds = frame_of(run.config.data), run.info.get("thresholds") or {}
    else:
        source = open_weights(path)
        record = source.record
        if misfit(record, EXPORTED):
            raise UserError(f"{path}: does not say how images are read for it; export the run again")
        require_trust([record["model"]], record.get("code"), path)
        options: dict[str, Any] = {name: record[name] for name in ("channels", "image_size", "stem")}
        number = len(record["classes"])
        made = build_model(record["model"], num_classes=number, weights=source, keep_head=True, **options)
        frame, thresholds = record.get("frame") or "", record.get("thresholds") or {}
        model, reading = made.to(torch.device(target)).eval(), {name: record[name] for name in ("window", "known")}
    classes, channels = tuple(record["classes"]), int(record["channels"])
    at = thresholds_of(thresholds, classes) if record.get("multilabel") else None
    return Predictor(path, model, classes, channels, record["image_size"], record["fit"], reading, target, at, frame)


def unchanged(predictor: Predictor) -> Path:
    """The folder that a predictor was loaded from; UserError where its model is not the one that is stored there."""
    if network_digest(predictor.model) != network_digest(load(predictor.path, device="cpu").model):
        raise UserError(f"{predictor.path}: model changed since it was loaded; give predictor.model and out=FOLDER")
    return predictor.path


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
    """Class probabilities for new images by a trained run or an export, written to a CSV file.

    Args:
        run: the run folder, or an export.
        images: image files and folders of them, or one text: a dataset spec such as "ham10000:DIR", or a path.
        out: the CSV file to write, whose columns are those of `Predictor.predict`.
        window: how the values of the pixels are read, see `dpaat.data.prepare`; None as the run's own were.
        batch_size: images per batch.
        device: "auto", "cpu", "cuda", ...
        progress: show a progress bar with the time left on stderr.
        console: where to print what is left out or doubtful.

    Returns:
        `out`.

    Raises:
        UserError: no run, no images, an unreadable image, or an output that cannot be written, or would replace a file
        that is no earlier one of its kind.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a CSV file")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder")
    refuse_overwriting(out, "file,predicted,")
    predictor = load(run, device=device)
    names, read, remarks = named_images(images, predictor.frame)
    if console is not None and remarks:
        console.print("\n".join(remarks), highlight=False, soft_wrap=True)
    frame = predictor.look(names, read, images, window, batch_size, progress)
    with writing(out), replacing(out) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")
    return out


def named_images(images: Any, frame: str = "") -> tuple[list[str], Read, list[str]]:
    """Names of images, a function that reads them by their numbers, and what to say of them."""
    import_loaders()
    if isinstance(images, str) and images.partition(":")[0] in DATASETS and not Path(images).exists():
        table = load_table(images)
        remarks = [f"warning: {line}" for line in table.warnings]
        remarks += [f"note: {line}" for line in table.notes if line != UNGROUPED]
        return [table.describe(row) for row in range(len(table))], table.read, remarks
    if isinstance(images, str | Path):
        return _from_paths([images], frame)
    if isinstance(images, list | tuple) and all(isinstance(image, str | Path) for image in images):
        return _from_paths(images, frame)
    several = images if isinstance(images, list | tuple) else images[None] if _is_one(images) else images
    if isinstance(several, Image.Image):
        several = [several]
    if not len(several):
        raise UserError("predict: give at least one image")
    return [str(number) for number in range(len(several))], lambda row: encoded(several[row]), []


def _is_one(images: Any) -> bool:
    """Whether an array or a tensor is a single image."""
    if isinstance(images, Image.Image):
        return False
    if not isinstance(images, np.ndarray | Tensor):
        raise UserError(f"predict: takes paths, images, arrays or tensors, not {type(images).__name__}")
    colour = images.ndim == 3 and not isinstance(images, Tensor) and images.shape[2] in (1, 3, 4)
    if images.ndim == 3 and not isinstance(images, Tensor) and not colour and images.shape[0] in (1, 3, 4):
        shape = tuple(images.shape)
        raise UserError(f"predict: {shape} is one image or {shape[0]} grey ones; give (N, H, W, C) or (N, C, H, W)")
    return images.ndim == 2 or colour or (images.ndim == 3 and isinstance(images, Tensor))


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
