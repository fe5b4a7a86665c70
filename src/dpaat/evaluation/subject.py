"""What is evaluated: the model of a run folder, or weights from elsewhere, with the images it is tried on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dpaat.data import PreparedData, prepare
from dpaat.data.seen import SEEN, LeftOut, known_images, leave_out, recognized
from dpaat.data.splits import import_splits, read_splits
from dpaat.errors import UserError, unknown
from dpaat.models import Stem, build_model, load_foreign
from dpaat.provenance import provenance
from dpaat.runs import INFO, Run, open_run
from dpaat.runs import SPLITS as SPLITS_FILE

SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True, eq=False)
class RowView:
    """Some rows of a memory map, read when indexed; grey images are shown as RGB where a model needs three channels.

    Attributes:
        images: `(M, C, H, W)`, uint8.
        rows: `(N,)` row numbers.
        channels: channels wanted, C or 3.
    """

    images: np.ndarray
    rows: np.ndarray
    channels: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        images = np.asarray(self.images[self.rows[positions]])
        return np.repeat(images, self.channels // images.shape[1], axis=1)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, the data it is tried on, and where its results go.

    Attributes:
        folder: where results go: the run folder, or one that was named.
        model: maps images in [0, 1] to logits `(B, K)`.
        classes: K class names.
        channels: of the images that the model takes.
        data: the dataset, split.
        own_data: the data it was trained on, whose validation split sets thresholds and temperature; None where
            they are not there.
        majority: the class most frequent in training.
        head: what every result says about where it comes from; `checkpoint` identifies the weights.
        left_out: how many images of another dataset the model has learned from; None for its own.
    """

    folder: Path
    model: nn.Module
    classes: tuple[str, ...]
    channels: int
    data: PreparedData
    own_data: PreparedData | None
    majority: str
    head: dict[str, Any]
    left_out: LeftOut | None = None

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, or of all, without images that are left out.

        Raises:
            UserError: an unknown split, or an empty one.
        """
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        rows = np.flatnonzero(self.data.split != SEEN) if split == "all" else self.data.rows(split)
        if not len(rows):
            raise UserError(f"{self.data.table.spec}: no images in split {split!r}{self.note and '; ' + self.note}")
        return rows

    @property
    def note(self) -> str:
        """What to say of images that are left out; empty where there is nothing to say."""
        return "" if self.left_out is None else self.left_out.note

    def view(self, data: PreparedData, rows: np.ndarray) -> tuple[RowView, np.ndarray]:
        """Images of some rows, and their labels in the numbers of the model's classes."""
        known = np.array([self.classes.index(name) for name in data.classes], dtype=np.int64)
        return RowView(data.images, rows, self.channels), known[data.labels[rows]]


def subject_of_run(path: Path, *, data: str | PreparedData | None, device: str, progress: bool) -> Subject:
    """Take the model of a run folder, with its own data or another dataset.

    Args:
        path: the run folder.
        data: another dataset, or where the run's own is now; its classes must be among the run's, by name. None for the
            run's own, as it was split. Images that are ready are taken as they are.
        device: a device of this machine.
        progress: show progress of decoding.

    Raises:
        UserError: not a run folder, or data that do not fit.
    """
    run = open_run(path)
    prepared, left_out = _prepare(run, data, progress=progress)
    classes, channels = tuple(run.info["classes"]), int(run.info["channels"])
    _check_classes(prepared, classes, str(run.path))
    _check_channels(prepared, channels, str(run.path))
    if prepared.fingerprint == run.info["fingerprint"] and prepared.classes != classes:
        raise UserError(
            f"{run.path / INFO}: damaged, its classes are not those of {prepared.table.spec} in their order"
        )
    counts: dict[str, int] = run.info["train_counts"]
    own = prepared.fingerprint == run.info["fingerprint"] or (left_out is not None and left_out.own)
    return Subject(
        folder=run.path,
        model=run.load_model(device=device).to(memory_format=torch.channels_last),  # up to 1.6 x faster
        classes=classes,
        channels=channels,
        data=prepared,
        own_data=prepared if own else _own_data(run),
        majority=max(counts, key=counts.__getitem__),
        left_out=left_out,
        head=_head(
            prepared,
            classes,
            device=device,
            checkpoint=run.checkpoint_digest,
            run=run.path.resolve().name,
            method=run.config.method,
            model=run.config.model,
            training_seed=run.config.seed,
            fold=run.config.fold,
            recipe=_recipe(run),
        ),
    )


def subject_of_weights(
    name: str,
    weights: Path,
    *,
    data: str,
    image_size: int,
    stem: Stem,
    out: Path,
    seed: int,
    device: str,
    progress: bool,
) -> Subject:
    """Take weights that were trained elsewhere.

    Args:
        name: a timm model name.
        weights: a state dict of that model, read without running any code in it.
        data: the dataset, whose classes in their order are the model's.
        image_size: pixels at the side.
        stem: see `dpaat.models.build_model`.
        out: folder for the results, made if need be.
        seed: of the split, where the dataset has none.
        device: a device of this machine.
        progress: show progress of decoding.

    Raises:
        UserError: weights that do not fit the model and the classes, or data that cannot be read.
    """
    prepared = prepare(data, image_size=image_size, seed=seed, training=False, progress=progress)
    classes, channels = prepared.classes, int(prepared.images.shape[1])
    model = build_model(name, num_classes=len(classes), channels=channels, image_size=image_size, stem=stem)
    load_foreign(model, weights, num_classes=len(classes))
    learned = prepared.rows("train")
    counts = np.bincount(prepared.labels[learned] if len(learned) else prepared.labels, minlength=len(classes))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror})") from None
    return Subject(
        folder=out,
        model=model.eval().to(torch.device(device)).to(memory_format=torch.channels_last),
        classes=classes,
        channels=channels,
        data=prepared,
        own_data=prepared,
        majority=classes[int(counts.argmax())],
        head=_head(
            prepared,
            classes,
            device=device,
            checkpoint=hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
            run=out.resolve().name,
            method=None,
            model=name,
            training_seed=None,
            fold=None,
            recipe=None,
        ),
    )


def _head(data: PreparedData, classes: tuple[str, ...], *, device: str, **fields: Any) -> dict[str, Any]:
    return {
        **provenance(device),
        **fields,
        "classes": list(classes),
        "synthetic": data.table.synthetic,
        "data_fingerprint": data.fingerprint,
    }


def _recipe(run: Run) -> str:
    """8 hex digits that runs share which differ in seed, fold and machine only."""
    own = ("data", "seed", "fold", "splits", "accelerator", "devices", "num_nodes", "strategy", "workers")
    fields = {name: value for name, value in dataclasses.asdict(run.config).items() if name not in own}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def _prepare(run: Run, data: str | PreparedData | None, *, progress: bool) -> tuple[PreparedData, LeftOut | None]:
    """The run's own images wherever they are, as they were split; or others, without what the run has learned from."""
    if data is None:
        return run.prepare(progress=progress), None
    if isinstance(data, PreparedData):
        return data, None
    config = run.config
    other = prepare(
        data, image_size=config.image_size, fit=config.fit, seed=config.seed, training=False, progress=progress
    )
    known = read_splits(run.path / SPLITS_FILE)
    own: PreparedData | None
    if other.fingerprint == run.info["fingerprint"]:
        own = dataclasses.replace(other, split=import_splits(run.path / SPLITS_FILE, other.ids))
    else:
        own = recognized(other, known)
    if own is not None and own.fingerprint == run.info["fingerprint"]:
        return dataclasses.replace(own, table=dataclasses.replace(own.table, name=run.info["data"])), None
    if "pixels" not in known and (own := _own_data(run)) is not None:  # the run is older than its digests
        known = pd.DataFrame({"id": own.ids, "split": own.split} | known_images(own))
    return leave_out(other, known)


def _own_data(run: Run) -> PreparedData | None:
    try:
        return run.prepare(progress=False)
    except UserError:
        return None


def _check_classes(data: PreparedData, classes: tuple[str, ...], model: str) -> None:
    strange = [name for name in data.classes if name not in classes]
    if strange:
        raise UserError(
            f"{data.table.spec}: classes unknown to {model}: {', '.join(strange)}; it knows {', '.join(classes)}"
        )


def _check_channels(data: PreparedData, channels: int, model: str) -> None:
    if int(data.images.shape[1]) not in (1, channels):
        raise UserError(f"{data.table.spec}: RGB images, but {model} was trained on grey ones")
