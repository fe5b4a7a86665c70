"""Evaluate a run folder: the run's own test split, or another dataset whose classes match by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpaat.attacks import NORMS
from dpaat.data import PreparedData, prepare
from dpaat.errors import UserError, unknown
from dpaat.evaluation.metrics import constant_predictor
from dpaat.evaluation.results import (
    Document,
    Population,
    constant_entry,
    prediction_rows,
    read_evaluation,
    result_entry,
    save_result,
)
from dpaat.evaluation.suite import attack_spec, run_suite
from dpaat.radii import parse_radii
from dpaat.runs import Run, device_name, open_run, provenance

SPLITS = ("train", "val", "test", "all")
DEFAULT_RADII = (2 / 255, 4 / 255, 8 / 255)


@dataclass(frozen=True, eq=False)
class RowView:
    """Some rows of a memory map, read when sliced; grey images are shown as RGB where a model needs three channels.

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

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        images = np.asarray(self.images[self.rows[rows]])
        return np.repeat(images, self.channels // images.shape[1], axis=1)


def evaluate_run(
    run: Path,
    *,
    attacks: Sequence[str] = ("pgd",),
    steps: int = 20,
    eps: Sequence[float] = DEFAULT_RADII,
    norm: str = "linf",
    data: str | None = None,
    split: str = "test",
    batch_size: int = 128,
    device: str = "auto",
    max_samples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Document:
    """Measure a trained run on clean images and under attack, and keep the results in its folder.

    Each result is merged into `evaluation.json`, and its predictions written to `predictions.parquet/`, as soon as it
    is finished, so that an interruption loses one radius at most. Other results of the same checkpoint are kept.

    Args:
        run: the run folder.
        attacks: names, see `dpaat.attacks.ATTACKS`.
        steps: iterations of the attacks that iterate.
        eps: radii in units of a [0, 1] image; clean images are always evaluated, and first.
        norm: "linf" or "l2".
        data: another dataset; its classes must be among the run's, by name. None for the run's own, as it was split.
        split: "train", "val", "test" or "all".
        batch_size: images per batch.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        max_samples: evaluate a stratified draw of so many images.
        seed: of the draw and the attacks.
        progress: show a progress bar with the time left on stderr.

    Returns:
        The document, as written to `evaluation.json`.

    Raises:
        UserError: bad input, or a folder that cannot be written.
    """
    opened = open_run(run)
    specs = [attack_spec(name, steps=steps, norm=norm) for name in dict.fromkeys(attacks)]
    radii = parse_radii(list(eps))
    _check_options(norm=norm, split=split, batch_size=batch_size, max_samples=max_samples)
    target = resolve_device(device)
    _check_writable(opened.path)
    read_evaluation(opened.path)

    classes = tuple(opened.info["classes"])
    prepared = _prepare(opened, data, progress=progress)
    known = _match_classes(prepared, classes, run=opened.path)
    rows = np.arange(len(prepared.split)) if split == "all" else prepared.rows(split)
    if not len(rows):
        raise UserError(f"{prepared.table.spec}: no images in split {split!r}")
    labels = known[prepared.labels]
    if max_samples is not None:
        rows = rows[stratified_draw(labels[rows], max_samples, seed=seed)]
    labels = labels[rows]
    images = RowView(prepared.images, rows, _channels(prepared, opened))

    population = Population(prepared.table.name, prepared.fingerprint, split, len(rows))
    majority = max(opened.info["train_counts"], key=opened.info["train_counts"].__getitem__)
    constant = constant_entry(
        constant_predictor(torch.from_numpy(labels), classes, majority), population, predicts=majority
    )
    model = opened.load_model(device=target)
    settings = {
        "checkpoint": opened.checkpoint_digest,
        "seed": seed,
        "device": device_name(target),
        "batch_size": batch_size,
    }
    head = {
        **provenance(target),
        "run": opened.path.resolve().name,
        "method": opened.config.method,
        "model": opened.config.model,
        "training_seed": opened.config.seed,
        "classes": list(classes),
        "synthetic": prepared.table.synthetic,
        "data_fingerprint": prepared.fingerprint,
        **settings,
    }
    document: Document = {}
    suite = run_suite(
        model,
        images,
        labels,
        classes=classes,
        specs=specs,
        radii=radii,
        batch_size=batch_size,
        device=target,
        seed=seed,
        progress=progress,
    )
    for result in suite:
        document = save_result(
            opened.path,
            head,
            result=result_entry(result, population, data_spec=prepared.table.spec, **settings),
            constant=constant,
            predictions=prediction_rows(
                result, population, ids=prepared.ids[rows].tolist(), labels=labels, classes=classes
            ),
        )
    return document


def stratified_draw(labels: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Draw n positions, each class in proportion to its size but at least one of each while n allows.

    Args:
        labels: `(N,)` class numbers.
        n: how many; all are returned if N is not larger.
        seed: of the draw.

    Returns:
        Ascending positions, int64.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)
    take = np.floor(exact).astype(np.int64)
    if n >= len(classes):
        take = np.maximum(take, 1)
    while take.sum() != n:
        step = 1 if take.sum() < n else -1
        allowed = take < counts if step > 0 else take > 1
        take[np.argmax(np.where(allowed, step * (exact - take), -np.inf))] += step
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == k))[:count] for k, count in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def resolve_device(device: str) -> str:
    """Turn "auto" into the best device there is.

    Raises:
        UserError: not a device, or one that this machine does not have.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError):
        raise UserError(f"device {device!r} is not available here; use auto or cpu") from None
    return device


def _check_options(*, norm: str, split: str, batch_size: int, max_samples: int | None) -> None:
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if batch_size < 1:
        raise UserError(f"batch size: {batch_size} must be at least 1")
    if max_samples is not None and max_samples < 1:
        raise UserError(f"max samples: {max_samples} must be at least 1")


def _check_writable(run: Path) -> None:
    probe = run / f".write-test-{os.getpid()}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{run}: results cannot be written there ({error.strerror})") from None


def _prepare(run: Run, data: str | None, *, progress: bool) -> PreparedData:
    own = run.info["fingerprint"]
    if data is not None:
        config = run.config
        other = prepare(data, image_size=config.image_size, fit=config.fit, seed=config.seed, progress=progress)
        if other.fingerprint != own:
            return other
        # The same images under another spec: split anew, they would put training images into the test split.
    return run.prepare(progress=progress)


def _match_classes(prepared: PreparedData, classes: tuple[str, ...], *, run: Path) -> np.ndarray:
    strange = [name for name in prepared.classes if name not in classes]
    if strange:
        raise UserError(
            f"{prepared.table.spec}: classes unknown to {run}: {', '.join(strange)}; it knows {', '.join(classes)}"
        )
    return np.array([classes.index(name) for name in prepared.classes], dtype=np.int64)


def _channels(prepared: PreparedData, run: Run) -> int:
    found, needed = int(prepared.images.shape[1]), int(run.info["channels"])
    if found not in (1, needed):
        raise UserError(f"{prepared.table.spec}: RGB images, but {run.path} was trained on grey ones")
    return needed
