"""Read what run folders hold, as far as a report needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.evaluation.results import Document, read_evaluation
from dpaat.runs import CONFIG, INFO, read_config, read_info


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
    info = read_info(path / INFO)
    return RunView(
        name=name,
        path=path,
        info=info,
        config=read_config(path / CONFIG),
        config_text=(path / CONFIG).read_text(encoding="utf-8"),
        evaluation=read_evaluation(path),
        epochs=_read_epochs(path / "metrics.csv"),
        radii=_read_radii(path / "perturbation.parquet", info["classes"]),
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
    text = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    if text and len(frame):
        raise UserError(f"{path}: column {text[0]!r} holds something else than numbers")
    return frame.replace([np.inf, -np.inf], np.nan) if len(frame) else None


def _read_radii(folder: Path, classes: Sequence[str]) -> pd.DataFrame | None:
    parts = sorted(folder.glob("epoch-*.parquet"))
    if not parts:
        return None
    try:
        frame: pd.DataFrame = pq.read_table(parts[-1], columns=["class", "eps"]).to_pandas()
    except (ValueError, OSError, pa.ArrowException) as error:
        raise UserError(f"{parts[-1]}: not readable ({str(error).splitlines()[0]})") from None
    sound = list(frame) == ["class", "eps"] and pd.api.types.is_float_dtype(frame["eps"])
    if not sound or not np.isfinite(frame["eps"]).all() or not set(frame["class"]) <= set(classes):
        raise UserError(f"{parts[-1]}: damaged, its radii or classes are not those of the run")
    return frame
