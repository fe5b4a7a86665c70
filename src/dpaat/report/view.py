"""What run folders hold, as far as a report needs it."""

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
from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.results import outdated, predictions_part, read_evaluation
from dpaat.evaluation.stored import read_frame
from dpaat.runs import CONFIG, read_folder
from dpaat.storage import read_json

EXPLANATIONS = "interpretability.json"


@dataclass(frozen=True)
class RunView:
    """What a run folder holds, as far as the page needs it."""

    name: str  # how the page calls it, different for each run
    path: Path
    info: dict[str, Any]  # `run.json`
    config: TrainConfig
    config_text: str  # `config.yaml`, as written
    evaluation: Document | None  # `evaluation.json`, None before the first evaluation
    epochs: pd.DataFrame | None  # `metrics.csv`, None if absent or empty
    seconds: pd.DataFrame | None  # `timing.csv`, None if absent or empty
    radii: pd.DataFrame | None  # last epoch of the perturbation log: id, class, eps, loss; None for methods without
    explanations: Document | None  # `interpretability.json`, None before the first explanation
    outdated: Sequence[str] = ()  # what to say of results left out, as they are of weights that the run has no more

    def predictions(self, entry: Entry) -> pd.DataFrame | None:
        """Read the predictions behind a result, None if they are not there; raises UserError for an unreadable file."""
        return read_frame(self.path, entry) if predictions_part(self.path, entry).is_file() else None

    def radii_over_epochs(self, ids: Sequence[str]) -> pd.DataFrame:
        """Radii of some training images, a row per epoch and a column per id; UserError for an unreadable file."""
        rows = {}
        for part in _radii_parts(self.path):
            frame = _read_part(part, self.info["classes"]).set_index("id")["eps"]
            rows[int(part.stem.removeprefix("epoch-"))] = frame.reindex(list(ids))
        return pd.DataFrame(rows).T


def read_run(path: Path, name: str) -> RunView:
    """Read a run folder, which need not have a checkpoint; raises UserError for what is unreadable or does not fit."""
    run = read_folder(path)
    evaluation = read_evaluation(path)
    explanations = read_json(path / EXPLANATIONS) if (path / EXPLANATIONS).is_file() else None
    found = {"evaluate": evaluation, "explain": explanations}
    old = {remedy: text for remedy, each in found.items() if each and (text := outdated(path, each, remedy))}
    return RunView(
        name=name,
        path=path,
        info=run.info,
        config=run.config,
        config_text=(path / CONFIG).read_text(encoding="utf-8"),
        evaluation=None if "evaluate" in old else evaluation,
        epochs=_read_epochs(path / "metrics.csv"),
        seconds=_read_epochs(path / "timing.csv"),
        radii=_read_part(parts[-1], run.info["classes"]) if (parts := _radii_parts(path)) else None,
        explanations=None if "explain" in old else explanations,
        outdated=list(old.values()),
    )


def unique(runs: Sequence[RunView], field: str) -> list[str]:
    """What the runs say in a field of `run.json`, each only once."""
    return list(dict.fromkeys(text for run in runs if (text := run.info.get(field))))


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


def _radii_parts(path: Path) -> list[Path]:
    return sorted((path / "perturbation.parquet").glob("epoch-*.parquet"))


def _read_part(part: Path, classes: Sequence[str]) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(part, columns=["id", "class", "eps", "loss"]).to_pandas()
    except (ValueError, OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{part}: not readable ({str(error).splitlines()[0]})") from None
    sound = "eps" in frame and pd.api.types.is_float_dtype(frame["eps"])
    if not sound or not np.isfinite(frame["eps"]).all() or not set(frame["class"]) <= set(classes):
        raise UserError(f"{part}: damaged, its radii or classes are not those of the run")
    return frame


def window_text(window: str | None) -> str:
    """What to say after the name of data that were read through a window of values; nothing for the whole range."""
    return "" if window in (None, "", "full") else f"; values {window} are black and white"
