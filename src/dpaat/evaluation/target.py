"""Evaluation target: the model of a run folder, or weights from elsewhere, with its images."""

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
from dpaat.data.label_sets import BETWEEN, NOTHING
from dpaat.data.seen import SEEN, LeftOut, known_images, leave_out, recognized
from dpaat.data.splits import import_splits, read_splits
from dpaat.errors import UserError, unknown
from dpaat.evaluation.images import RowView
from dpaat.evaluation.labels import thresholds_of
from dpaat.measurement import SPLITS
from dpaat.methods import find_method
from dpaat.provenance import provenance
from dpaat.radii import check_radius
from dpaat.runs import INFO, Run, open_run
from dpaat.runs import SPLITS as SPLITS_FILE

LATER = {"adv_start", "compile", "freeze_until", "input_range", "lr_head", "mean", "self_teacher", "static_shapes"}
LATER |= {"std", "transform", "weights_key", "window"}
"""Fields of later versions: left out of a recipe's digest while at their defaults, so that it stays what it was."""


@dataclass(frozen=True, eq=False)
class EvalTarget:
    """A model, the data it is tried on, and where its results go."""

    folder: Path  # where results go: the run folder, or one that was named
    model: nn.Module  # maps images in [0, 1] to logits (B, K)
    device: str  # that it is computed on
    classes: tuple[str, ...]  # K names
    channels: int  # of the images that the model takes
    data: PreparedData  # split
    own_data: PreparedData | None  # that it was trained on, for thresholds and temperature; None if not there
    majority: str  # the class most frequent in training
    head: dict[str, Any]  # what every result says about where it comes from; `checkpoint` identifies the weights
    thresholds: np.ndarray | None = None  # of the logits of several labels an image `(K,)`, from validation; None for 0
    left_out: LeftOut | None = None  # images of another dataset that it has learned from; None for its own
    own_splits: bool = False  # whether the splits of `data` are those of its training

    @property
    def warnings(self) -> list[str]:
        """What is suspicious in the data that it knows or is tried on, and what is left out, a line each."""
        return [*self.head["data_warnings"], *([f"{self.data.table.spec}: {self.note}"] if self.note else [])]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, or of all, without images that are left out.

        Raises UserError: an unknown split, or an empty one.
        """
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        rows = np.flatnonzero(self.data.split != SEEN) if split == "all" else self.data.rows(split)
        if not len(rows):
            raise UserError(f"{self.data.table.spec}: no images in split {split!r}{self.note and '; ' + self.note}")
        return rows

    def learned(self, rows: np.ndarray) -> int:
        """How many of these images it was trained or validated on, as far as is known."""
        return int(np.isin(self.data.split[rows], ("train", "val")).sum()) if self.own_splits else 0

    @property
    def note(self) -> str:
        """What to say of images that are left out; empty where there is nothing to say."""
        return "" if self.left_out is None else self.left_out.note

    def view(self, data: PreparedData, rows: np.ndarray) -> tuple[RowView, np.ndarray]:
        """Images of some rows, and their labels in the numbers of the model's classes; others are unknown."""
        known = np.array([self.classes.index(name) for name in data.classes], dtype=np.int64)
        if data.table.multilabel:
            labels = np.full((len(rows), len(self.classes)), -1, dtype=np.int8)
            labels[:, known] = data.labels[rows]
            return RowView(data.images, rows, self.channels), labels
        return RowView(data.images, rows, self.channels), known[data.labels[rows]]

    def check_radii(self, radii: Sequence[float], norm: str) -> None:
        """Refuse radii beyond what the images have room for; see `dpaat.radii.check_radius`."""
        for radius in radii:
            check_radius(radius, norm, pixels=self.channels * math.prod(self.data.images.shape[2:]))


def resolve_device(device: str) -> str:
    """The best device there is for "auto"; UserError for no device, or one that this machine does not have."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError):
        raise UserError(f"device {device!r} is not available here; use auto or cpu") from None
    return device


def target_of_run(
    path: Path, *, data: str | PreparedData | None, device: str, progress: bool, window: str | None = None
) -> EvalTarget:
    """Take the model of a run folder, with its own data or another dataset.

    `data` is another dataset, or where the run's own is now; its classes must be among the run's, by name. None is the
    run's own, as it was split; images that are ready are taken as they are. `window` says how the values of `data` are
    read, see `dpaat.data.prepare`; None for the run's own. Raises UserError for no run folder, or data that do not fit.
    """
    device, run = resolve_device(device), open_run(path)
    info, config = run.info, run.config
    if window is not None and data is None:
        raise UserError("window: the run's own data are read as in training; it goes with --data")
    prepared, left_out = _prepare(run, data, window, progress=progress)
    classes, channels = tuple(info["classes"]), int(info["channels"])
    check_fit(prepared, classes, channels, str(run.path))
    several = bool(info.get("multilabel"))
    if several != prepared.table.multilabel:
        kinds = ("one class", "several labels")
        raise UserError(
            f"{prepared.table.spec}: {kinds[not several]} an image, but {run.path} learned {kinds[several]}"
        )
    same = prepared.fingerprint == info["fingerprint"]
    if same and prepared.classes != classes:
        raise UserError(
            f"{run.path / INFO}: damaged, its classes are not those of {prepared.table.spec} in their order"
        )
    counts: dict[str, int] = info["train_counts"]
    warnings: list[str] = list(info.get("data_warnings") or [])
    return EvalTarget(
        folder=run.path,
        model=run.load_model(device=device).to(memory_format=torch.channels_last),  # up to 1.6 x faster
        device=device,
        classes=classes,
        channels=channels,
        data=prepared,
        own_data=prepared if same or (left_out is not None and left_out.own) else _own_data(run),
        own_splits=left_out is None or left_out.own,
        majority=usual_labels(info) if several else max(counts, key=counts.__getitem__),
        thresholds=thresholds_of(info.get("thresholds"), classes) if several else None,
        left_out=left_out,
        head=head_of(
            prepared,
            classes,
            device,
            checkpoint=run.checkpoint_digest,
            run=run.path.resolve().name,
            method=config.method,
            model=config.model,
            training_seed=config.seed,
            fold=config.fold,
            recipe=_recipe(run),
            data_warnings=warnings if same else [*warnings, *warnings_of(prepared, trained=False)],
            network=info.get("network") or {"stem": run.stem},
            **({"multilabel": True, "thresholds": info.get("thresholds")} if several else {}),
        ),
    )


def usual_labels(info: dict[str, Any]) -> str:
    """The labels that more than half of the training images have, by name."""
    half = info["split_sizes"]["train"] / 2
    return BETWEEN.join(name for name, count in info["train_counts"].items() if count > half) or NOTHING


def head_of(data: PreparedData, classes: tuple[str, ...], device: str, **fields: Any) -> dict[str, Any]:
    """What every result says about where it comes from."""
    return {
        **provenance(device),
        **fields,
        "window": data.window,
        "classes": list(classes),
        "synthetic": data.table.synthetic,
        "data_fingerprint": data.fingerprint,
    }


def _recipe(run: Run) -> str:
    """8 hex digits that runs share which differ in seed, fold and machine only."""
    own = ("data", "seed", "fold", "splits", *PLACE)
    method = find_method(run.config.method)
    default = vars(TrainConfig()) | {name: getattr(method, name) for name in OWN_DEFAULTS}
    fields = {
        name: value
        for name, value in vars(run.config).items()
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
    return unseen(other, run)


def unseen(other: PreparedData, run: Run) -> tuple[PreparedData, LeftOut | None]:
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


def _own_data(run: Run) -> PreparedData | None:
    try:
        return run.prepare(progress=False)
    except UserError:
        return None


def check_fit(data: PreparedData, classes: tuple[str, ...], channels: int, model: str) -> None:
    """Refuse data of other classes, or in more channels, than a model knows."""
    spec, strange = data.table.spec, [name for name in data.classes if name not in classes]
    if strange:
        raise UserError(f"{spec}: classes unknown to {model}: {', '.join(strange)}; it knows {', '.join(classes)}")
    if int(data.images.shape[1]) not in (1, channels):
        raise UserError(f"{spec}: RGB images, but {model} was trained on grey ones")
