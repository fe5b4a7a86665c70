"""Read what run folders hold, as far as a report needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.evaluation.results import Document, read_evaluation
from dpaat.runs import CONFIG, INFO, read_config, read_json

NEEDED = ("data", "fingerprint", "classes", "train_counts")


@dataclass(frozen=True)
class RunView:
    """What a run folder holds, as far as the page needs it.

    Attributes:
        name: how the page calls it, different for each run.
        path: the folder.
        info: `run.json`.
        config: `config.yaml`, read.
        config_text: `config.yaml`, as written.
        evaluation: `evaluation.json`, None before the first evaluation.
        epochs: `metrics.csv`, None if absent or empty.
        radii: the last epoch of the perturbation log (columns class, eps), None for methods without.
    """

    name: str
    path: Path
    info: dict[str, Any]
    config: TrainConfig
    config_text: str
    evaluation: Document | None
    epochs: pd.DataFrame | None
    radii: pd.DataFrame | None


def read_run(path: Path, name: str) -> RunView:
    """Read a run folder; unlike for an evaluation, it need not have a checkpoint.

    Raises:
        UserError: not a run folder, or an unreadable file in it.
    """
    if not (path / INFO).is_file() or not (path / CONFIG).is_file():
        raise UserError(f"{path}: not a run folder, it has no {INFO} and {CONFIG}; give the --out of a training run")
    info = read_json(path / INFO)
    missing = [field for field in NEEDED if field not in info]
    if missing:
        raise UserError(f"{path / INFO}: lacks {', '.join(missing)}; was it written by another version of dpaat?")
    return RunView(
        name=name,
        path=path,
        info=info,
        config=read_config(path / CONFIG),
        config_text=(path / CONFIG).read_text(encoding="utf-8"),
        evaluation=read_evaluation(path),
        epochs=_read_epochs(path / "metrics.csv"),
        radii=_read_radii(path / "perturbation.parquet"),
    )


def _read_epochs(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as CSV ({str(error).splitlines()[0]})") from None
    if "epoch" not in frame:
        raise UserError(f"{path}: has no column 'epoch'")
    return frame if len(frame) else None


def _read_radii(folder: Path) -> pd.DataFrame | None:
    parts = sorted(folder.glob("epoch-*.parquet"))
    if not parts:
        return None
    try:
        return pd.read_parquet(parts[-1], columns=["class", "eps"])
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{parts[-1]}: not readable ({str(error).splitlines()[0]})") from None
