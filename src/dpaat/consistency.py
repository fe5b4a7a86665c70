"""Consistency checks: the files of a run folder belong to one training and evaluation."""

import csv
import dataclasses
import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpaat.config import PLACE, TrainConfig, complete
from dpaat.errors import UserError

CONFIG, SPLITS = "config.yaml", "splits.csv"
LOG = "metrics.csv"
ANEW = "put a copy back, or train anew into another --out"
MOVABLE = (*PLACE, "data")
"""Fields that may change after a run was begun: where it is computed, and where its data are, told by a fingerprint."""


def seal(config: TrainConfig, splits: Path) -> dict[str, Any]:
    """What `run.json` keeps at the start, to notice later changes: the configuration, and a digest of the splits."""
    return {"config": json.loads(json.dumps(vars(config))), "splits_digest": file_digest(splits)}


def seal_end(folder: Path) -> dict[str, Any]:
    """What `run.json` keeps of a training that has ended or paused: a digest of each file that it wrote."""
    paths = [folder / LOG, *folder.glob("checkpoints/*.ckpt"), *folder.glob("perturbation.parquet/*.parquet")]
    return {"files": {p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(paths) if p.is_file()}}


def check_choices(out: Path, given: Mapping[str, Any], *, told: bool) -> TrainConfig | None:
    """How a run was begun, at the place that is given now; None where one is begun that somebody `told` of.

    Raises UserError for other options than it was begun with, or where neither is so.
    """
    from dpaat.runs import read_config

    if not (out / CONFIG).is_file():
        if not told and "data" not in given and not (out.is_dir() and any(out.iterdir())):
            raise UserError(f"{out}: holds no run to resume; give the options of the training, to begin it")
        return None
    begun = read_config(out / CONFIG)
    same_method = given.get("method", begun.method) == begun.method
    kept = {"options": begun.options if same_method else {}, "trainer": begun.trainer}
    nested = {name: values | given.get(name, {}) for name, values in kept.items()}
    wanted = complete(dataclasses.replace(begun, **dict(given) | nested))
    for name in given:
        before, now = getattr(begun, name), getattr(wanted, name)
        # The data may have been moved: the training looks at the images.
        same = before == now or (name == "precision" and now == "auto")  # which has been settled since
        if not same and name not in MOVABLE and (name != "eps" or begun.radius != wanted.radius):
            raise UserError(
                f"{out}: was begun with {name} {before!r}, not {now!r}; resume it without that option, or train anew "
                "into another --out"
            )
    return dataclasses.replace(begun, **{name: given[name] for name in PLACE if name in given})


def is_sealed(folder: Path, name: str, info: Mapping[str, Any]) -> bool:
    """Whether a file is as the training left it; True where `run.json` does not say, or the training is at work."""
    digest = _sealed(info).get(name)
    return digest is None or file_digest(folder / name) == digest


def _sealed(info: Mapping[str, Any]) -> dict[str, str]:
    return {} if info.get("status") == "running" else info.get("files") or {}


def check_end(folder: Path, info: Mapping[str, Any]) -> None:
    """Compare what a training left with what `run.json` says of it; checkpoints are looked at where they are loaded.

    Raises UserError: names the first file that is another one, or is missing among others.
    """
    for path in (folder / name for name in _sealed(info) if not name.startswith("checkpoints/")):
        if path.is_file() and not is_sealed(folder, path.relative_to(folder).as_posix(), info):
            raise UserError(f"{path}: damaged, or not what this training wrote; {ANEW}")
        if not path.exists() and path.parent.is_dir():
            raise UserError(f"{path}: is missing; {ANEW}")


def file_digest(path: Path) -> str:
    """16 hex digits over the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_start(folder: Path, config: TrainConfig, info: Mapping[str, Any]) -> None:
    """Compare a run folder with what `run.json` says it was begun with; old ones, which do not say, pass.

    Raises UserError: names the file, and what to do.
    """
    begun: dict[str, Any] = info.get("config") or {}
    now, defaults = vars(config), vars(TrainConfig())
    for name in now if begun else ():
        before, after = (_comparable(name, value) for value in (begun.get(name, defaults[name]), now[name]))
        if name not in MOVABLE and before != after:
            raise UserError(
                f"{folder / CONFIG}: says {name} {now[name]!r}, but the run was begun with {begun.get(name)!r}, as "
                "run.json says; put that back, or train anew into another --out"
            )
    splits = folder / SPLITS
    if info.get("splits_digest") and not splits.is_file():
        raise UserError(f"{splits}: is missing; {ANEW}")
    if splits.is_file() and not _same_splits(splits, info):
        raise UserError(f"{splits}: was changed after the run was begun; put it back, or train anew into another --out")


def _same_splits(splits: Path, info: Mapping[str, Any]) -> bool:
    if sealed := info.get("splits_digest"):
        return file_digest(splits) == str(sealed)
    with splits.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        now = Counter(row.get("split") for row in csv.DictReader(file))
    counts = info.get("split_counts") or {}
    return all(now[name] == sum(of.values()) for name, of in counts.items())


def check_log(folder: Path, info: Mapping[str, Any]) -> None:
    """Compare the log of the epochs with `run.json`, see `require_epochs`; without a log, pass."""
    epochs, done = logged_epochs(folder), int(info.get("epochs_done") or 0)
    if epochs is not None:
        # A run that was stopped may have gone on, and been killed before it could say so.
        require_epochs(folder, done if info.get("status") == "finished" and done else max(done, len(epochs)))


def require_epochs(folder: Path, count: int) -> None:
    """Check that the log holds so many epochs; a UserError says that one is missing or is there twice."""
    if (logged_epochs(folder) or []) != list(range(count)):
        raise UserError(
            f"{folder / LOG}: does not hold each of {count} epochs once and in order; put the rows back from a copy, "
            "or train anew into another --out"
        )


def logged_epochs(folder: Path) -> list[int] | None:
    """Numbers of the epochs in the log of a run, -1 for what is no number; None without a log."""
    try:
        with (folder / LOG).open(newline="", encoding="utf-8", errors="replace") as file:
            epochs = [row.get("epoch") or "" for row in csv.DictReader(file)]
    except FileNotFoundError:
        return None
    except (OSError, csv.Error) as error:
        raise UserError(f"{folder / LOG}: not readable as CSV ({error})") from None
    return [int(epoch) if epoch.isdecimal() else -1 for epoch in epochs]


def check_checkpoint(path: Path) -> None:
    """Compare the checksums of a checkpoint, which its readers do not; UserError for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged checkpoint; {ANEW}")


def _comparable(name: str, value: Any) -> Any:
    value = json.loads(json.dumps(value))
    return Path(value).name if name == "weights" and value else value
