"""What is evaluated: the model of a run folder, or weights from elsewhere, with the images it is tried on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dpaat.config import OWN_DEFAULTS, PLACE, TrainConfig
from dpaat.data import PreparedData, prepare
from dpaat.data.findings import warnings_of
from dpaat.data.seen import SEEN, LeftOut, known_images, leave_out, recognized
from dpaat.data.splits import import_splits, read_splits
from dpaat.errors import UserError, unknown
from dpaat.fitting import channels_of
from dpaat.methods import find_method
from dpaat.models import Stem, build_model
from dpaat.normalization import Numbers
from dpaat.provenance import provenance
from dpaat.radii import check_radius
from dpaat.runs import INFO, Run, open_run
from dpaat.runs import SPLITS as SPLITS_FILE
from dpaat.weights import WeightsFile, open_weights

SPLITS = ("train", "val", "test", "all")
LATER = {
    "adv_start",
    "freeze_until",
    "input_range",
    "lr_head",
    "mean",
    "self_teacher",
    "std",
    "weights_key",
    "window",
}
"""Fields of later versions: left out of a recipe's digest while at their defaults, so that it stays what it was."""


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

    @property
    def warnings(self) -> list[str]:
        """What is suspicious in the data that it knows or is tried on, and what is left out, a line each."""
        return [*self.head["data_warnings"], *([f"{self.data.table.spec}: {self.note}"] if self.note else [])]

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

    def check_radii(self, radii: Sequence[float], norm: str) -> None:
        """Refuse radii beyond what the images have room for; see `dpaat.radii.check_radius`."""
        for radius in radii:
            check_radius(radius, norm, pixels=self.channels * math.prod(self.data.images.shape[2:]))


def subject_of_run(
    path: Path, *, data: str | PreparedData | None, device: str, progress: bool, window: str | None = None
) -> Subject:
    """Take the model of a run folder, with its own data or another dataset.

    Args:
        path: the run folder.
        data: another dataset, or where the run's own is now; its classes must be among the run's, by name. None for the
            run's own, as it was split. Images that are ready are taken as they are.
        device: a device of this machine.
        progress: show progress of decoding.
        window: how the values of `data` are read, see `dpaat.data.prepare`; None for the run's own.

    Raises:
        UserError: not a run folder, or data that do not fit.
    """
    run = open_run(path)
    if window is not None and data is None:
        raise UserError("window: the run's own data are read as in training; it goes with --data")
    prepared, left_out = _prepare(run, data, window, progress=progress)
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
            window=prepared.window,
            data_warnings=_warnings(run, prepared),
            network=run.info.get("network") or {"stem": run.stem},
        ),
    )


def subject_of_weights(
    name: str,
    weights: Path,
    *,
    data: str,
    out: Path,
    seed: int,
    device: str,
    progress: bool,
    window: str = "auto",
    image_size: int | None = None,
    stem: Stem = "auto",
    weights_key: str | None = None,
    classes: str | Sequence[str] | None = None,
    mean: Numbers = None,
    std: Numbers = None,
    input_range: str | None = None,
) -> Subject:
    """Take weights that were trained elsewhere.

    What a state dict does not hold is taken from what is stated here; else from the record that checkpoints and exports
    of this package carry; else by the rules below. All of it stands in the head of the results, as `network`.

    Args:
        name: a timm model name.
        weights: a state dict of that model, read without running any code in it; or a run folder, or an export.
        data: the dataset, whose classes are matched with the model's by name.
        out: folder for the results, made if need be.
        seed: of the split, where the dataset has none.
        device: a device of this machine.
        progress: show progress of decoding.
        window: how the values of the pixels are read, see `dpaat.data.prepare`.
        image_size: pixels at the side; default the record's, else 64.
        stem: see `dpaat.models.build_model`.
        weights_key: likewise.
        classes: names of the model's outputs, in their order; default the record's, else the dataset's.
        mean: see `dpaat.models.build_model`.
        std: likewise.
        input_range: likewise.

    Raises:
        UserError: weights that do not fit the model and the classes, or data that cannot be read.
    """
    source = open_weights(weights)
    prepared, left_out = _prepare_for(source, data, window, image_size=image_size, seed=seed, progress=progress)
    outputs, said = _outputs(source, classes, prepared)
    channels = source.record.get("channels") or channels_of(source, name) or int(prepared.images.shape[1])
    _check_channels(prepared, channels, str(source.path))
    model = build_model(
        name,
        num_classes=len(outputs),
        channels=channels,
        image_size=int(prepared.images.shape[2]),
        stem=stem,
        weights=source,
        weights_key=weights_key,
        mean=mean,
        std=std,
        input_range=input_range,
        keep_head=True,
    )
    _check_classes(prepared, outputs, str(source.path))
    model.facts["weights"]["outputs_are"] = said
    learned = prepared.rows("train")
    counts = np.bincount(prepared.labels[learned] if len(learned) else prepared.labels, minlength=len(prepared.classes))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror})") from None
    # The same file read in another way is another model.
    read = {key: model.facts[key] for key in ("stem", "mean", "std")} | {"key": model.facts["weights"]["key"]}
    identity = json.dumps([source.digest, name, read, outputs])
    return Subject(
        folder=out,
        model=model.eval().to(torch.device(device)).to(memory_format=torch.channels_last),
        classes=outputs,
        channels=channels,
        data=prepared,
        own_data=prepared,
        left_out=left_out,
        majority=prepared.classes[int(counts.argmax())],
        head=_head(
            prepared,
            outputs,
            device=device,
            checkpoint=hashlib.sha256(identity.encode()).hexdigest()[:16],
            run=out.resolve().name,
            method=None,
            model=name,
            training_seed=None,
            fold=None,
            recipe=None,
            window=prepared.window,
            data_warnings=warnings_of(prepared),
            network=model.facts,
        ),
    )


def _prepare_for(
    source: WeightsFile, data: str, window: str, *, image_size: int | None, seed: int, progress: bool
) -> tuple[PreparedData, LeftOut | None]:
    """Load a dataset as the record of the weights says; the data of the training are split as then."""
    record = source.record
    options: dict[str, Any] = {
        "image_size": record.get("image_size", 64) if image_size is None else image_size,
        "fit": record.get("fit", "crop"),
        "window": window,
    }
    if window == "auto" and "window" in record:
        options |= {"window": record["window"], "known": tuple(record["known"])}
    prepared = prepare(data, seed=seed, training=False, progress=progress, **options)
    if source.folder is not None:
        return _unseen(prepared, open_run(source.folder))
    if prepared.fingerprint != record.get("fingerprint"):
        return prepared, LeftOut(0, 0, "nothing") if record else None
    if record.get("split") is None:
        raise UserError(
            f"{source.path}: was trained on these data by a split that it does not hold; evaluate its run folder"
        )
    return prepare(data, progress=False, **options, **record["split"]), None


def _outputs(
    source: WeightsFile, classes: str | Sequence[str] | None, data: PreparedData
) -> tuple[tuple[str, ...], str]:
    """Names of the model's outputs in their order, and where they come from."""
    recorded = source.classes
    if classes is None:
        said = "classes as trained" if source.record else f"classes {', '.join(recorded or ())} as the file says"
        return (recorded, said) if recorded else (data.classes, "classes in the data's order")
    names = tuple(name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes))
    if len(set(names)) < max(len(names), 2) or not all(names):
        raise UserError(f"classes: {','.join(names)} must be two or more different names, with commas")
    if recorded and (len(names) != len(recorded) or (names != recorded and sorted(names) == sorted(recorded))):
        raise UserError(f"classes: {source.path} was trained on {','.join(recorded)}, as the file says, in this order")
    return names, f"classes {', '.join(names)} as given"


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
    own = ("data", "seed", "fold", "splits", *PLACE)
    default = dataclasses.asdict(TrainConfig())
    method = find_method(run.config.method)
    default |= {name: getattr(method, name) for name in OWN_DEFAULTS}
    fields = {
        name: value
        for name, value in dataclasses.asdict(run.config).items()
        if name not in own and not (name in LATER and value in (None, default[name]))
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def _prepare(
    run: Run, data: str | PreparedData | None, window: str | None, *, progress: bool
) -> tuple[PreparedData, LeftOut | None]:
    """The run's own images wherever they are, as they were split; or others, without what the run has learned from."""
    if data is None:
        return run.prepare(progress=progress), None
    if isinstance(data, PreparedData):
        return data, None
    other = prepare(
        data,
        image_size=run.config.image_size,
        fit=run.config.fit,
        seed=run.config.seed,
        classes=run.info["classes"],
        training=False,
        progress=progress,
        **(run.reading if window is None else {"window": window}),
    )
    return _unseen(other, run)


def _unseen(other: PreparedData, run: Run) -> tuple[PreparedData, LeftOut | None]:
    """A dataset with the run's splits, if it is the run's own; else without what the run has seen."""
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


def _warnings(run: Run, data: PreparedData) -> list[str]:
    """What training found in the run's data, and what there is in another dataset."""
    found: list[str] = list(run.info.get("data_warnings") or [])
    return found if data.fingerprint == run.info["fingerprint"] else [*found, *warnings_of(data, trained=False)]


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
