"""What a report reads: run folders."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dpaat.config import TrainConfig
from dpaat.data.label_sets import BETWEEN, NOTHING, numbers
from dpaat.errors import UserError, at, first_line
from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.results import check_results, outdated, predictions_part, read_evaluation
from dpaat.evaluation.stored import read_frame
from dpaat.runs import ELSEWHERE, INFO, SUBJECT, Run, read_folder, read_info
from dpaat.storage import read_json

EXPLANATIONS = "interpretability.json"


@dataclass(frozen=True)
class RunView:
    """What a run folder holds, as far as the page needs it."""

    name: str  # how the page calls it, different for each run
    path: Path
    info: dict[str, Any]  # `run.json`
    config: TrainConfig
    evaluation: Document | None  # `evaluation.json`, None before the first evaluation
    epochs: pd.DataFrame | None  # `metrics.csv`, None if absent or empty
    seconds: pd.DataFrame | None  # `timing.csv`, None if absent or empty
    radii: pd.DataFrame | None  # last epoch of the perturbation log: id, class, eps, loss; None for methods without
    explanations: Document | None  # `interpretability.json`, None before the first explanation
    outdated: Sequence[str] = ()  # what to say of results left out, as they are of weights that the run has no more

    @property
    def elsewhere(self) -> bool:
        """Whether the model was trained elsewhere, so that nothing is known of that."""
        return self.config.method == ELSEWHERE

    @property
    def analyses(self) -> dict[str, list[Entry]]:
        """What was concluded from results, such as "masking"."""
        found: dict[str, list[Entry]] = (self.evaluation or {}).get("analyses", {})
        return found

    @cached_property
    def classes(self) -> list[str]:
        """Classes in the order of every table and figure: the most frequent of the training set first."""
        counts = self.info.get("train_counts") or {}
        return sorted(self.info["classes"], key=lambda name: -counts.get(name, 0))

    def ordered(self, names: Iterable[str]) -> list[str]:
        """Names in the order of the classes, others last."""
        return sorted(names, key=lambda name: (*self.classes, name).index(name))

    @cached_property
    def validation(self) -> float | None:
        """Clean balanced accuracy on the validation split in the epoch that was chosen; None if none was, or no log."""
        name = "val/balanced_accuracy"
        if self.epochs is None or name not in self.epochs or "val/score" not in self.epochs:
            return None
        scores = self.epochs["val/score"].dropna()
        if self.config.select == "last" or len(scores) < 2:
            return None
        value = float(self.epochs[name].to_numpy()[self.epochs.index.get_loc(scores.idxmax())])
        return value if np.isfinite(value) else None

    def predictions(self, entry: Entry) -> pd.DataFrame | None:
        """Read the predictions behind a result, None if they are not there; raises UserError for an unreadable file."""
        return read_frame(self.path, entry) if predictions_part(self.path, entry).is_file() else None

    def radii_over_epochs(self, ids: Sequence[str]) -> pd.DataFrame:
        """Radii of some training images, a row per epoch and a column per id; UserError for an unreadable file."""
        rows = {}
        for part in _radii_parts(self.path):
            frame = _read_part(part, self.info).set_index("id")["eps"]
            rows[int(part.stem.removeprefix("epoch-"))] = frame.reindex(list(ids))
        return pd.DataFrame(rows).T


def read_run(path: Path, name: str) -> RunView:
    """Read a run folder, which need not have a checkpoint; raises UserError for what is unreadable or does not fit."""
    if not (path / INFO).is_file() and (path / SUBJECT).is_file():
        info = read_info(path / SUBJECT)
        with at(str(path / SUBJECT)):
            run = Run(path, TrainConfig(**info.get("config") or {}), info)
        check_results(path)
    else:
        run = read_folder(path)
    explanations = read_json(path / EXPLANATIONS) if (path / EXPLANATIONS).is_file() else None
    found = {"evaluate": read_evaluation(path), "explain": explanations}
    old = {remedy: text for remedy, each in found.items() if each and (text := outdated(path, each, remedy))}
    return RunView(
        name=name,
        path=path,
        info=run.info,
        config=run.config,
        evaluation=None if "evaluate" in old else found["evaluate"],
        epochs=_read_epochs(path / "metrics.csv"),
        seconds=_read_epochs(path / "timing.csv"),
        radii=_read_part(parts[-1], run.info) if (parts := _radii_parts(path)) else None,
        explanations=None if "explain" in old else explanations,
        outdated=list(old.values()),
    )


def _read_epochs(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as CSV ({first_line(error)})") from None
    if "epoch" not in frame:
        raise UserError(f"{path}: has no column 'epoch'")
    text = frame.select_dtypes(exclude=["number", "bool"]).columns
    if len(text) and len(frame):
        raise UserError(f"{path}: column {text[0]!r} holds something else than numbers")
    return frame.replace([np.inf, -np.inf], np.nan) if len(frame) else None


def _radii_parts(path: Path) -> list[Path]:
    return sorted((path / "perturbation.parquet").glob("epoch-*.parquet"))


def _read_part(part: Path, info: Mapping[str, Any]) -> pd.DataFrame:
    try:
        columns = ["id", "class", "eps", "loss", *({"distance"} & {*pq.read_schema(part).names})]
        frame: pd.DataFrame = pq.read_table(part, columns=columns).to_pandas()
    except (ValueError, OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{part}: not readable ({first_line(error)})") from None
    sound = "eps" in frame and pd.api.types.is_float_dtype(frame["eps"])
    if not sound or not np.isfinite(frame["eps"]).all() or not _are_known(frame["class"], info):
        raise UserError(f"{part}: damaged, its radii or classes are not those of the run")
    return frame


def _are_known(names: pd.Series, info: Mapping[str, Any]) -> bool:
    """Whether these are classes of a run, or sets of its labels."""
    try:
        several = bool(info.get("multilabel"))
        return len(numbers(names.unique(), info["classes"], several=several)) > 0 or not several
    except (ValueError, AttributeError):
        return False


def by_label(frame: pd.DataFrame, info: Mapping[str, Any]) -> pd.DataFrame:
    """A frame with a column "class": of several labels an image a row for each that it has, unknown ones left out."""
    if not info.get("multilabel"):
        return frame
    names = frame["class"].str.split(BETWEEN)
    frame = frame.assign(**{"class": names}).explode("class", ignore_index=True)
    return frame[frame["class"].isin([*info["classes"], NOTHING])]


def window_text(window: str | None) -> str:
    """What to say after the name of data that were read through a window of values; nothing for the whole range."""
    if window == "own":
        return "; values through the window of each file (VOI LUT)"
    return "" if window in (None, "", "full") else f"; values {window} are black and white"
