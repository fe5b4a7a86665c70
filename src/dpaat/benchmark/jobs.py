"""A cell's run folder: what has been done in it, and how it is begun."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NotRequired

import numpy as np
import pandas as pd
import yaml
from typing_extensions import TypedDict

from dpaat.benchmark.datasets import data_name
from dpaat.benchmark.grid import Job
from dpaat.benchmark.plans import digest
from dpaat.config import OWN_DEFAULTS, PLACE, TrainConfig
from dpaat.data import PreparedData
from dpaat.data.splits import import_splits
from dpaat.errors import UserError
from dpaat.evaluation.results import EVALUATION_FILE
from dpaat.measurement import EvaluateConfig
from dpaat.methods import complete_options, find_method
from dpaat.methods.old_names import present_names
from dpaat.runs import BEST, CONFIG, INFO, LAST, PREVIOUS, SPLITS, write_config
from dpaat.storage import read_json, write_json, writing
from dpaat.validation import load_yaml, misfit

RECORD = "cell.json"


class JobRecord(TypedDict):
    """`cell.json`."""

    status: NotRequired[Literal["begun", "failed", "finished"]]
    error: NotRequired[str | None]  # of the last attempt
    failures: NotRequired[int]  # attempts that failed
    seconds: NotRequired[dict[str, float]]  # spent on "train" and "evaluate" in all attempts
    evaluated: NotRequired[list[str]]  # digests of the plans that were carried out


class JobRun:
    """A cell and its run folder within the folder of the benchmark."""

    def __init__(self, cell: Job, out: Path) -> None:
        self.cell = cell
        self.folder = out / "cells" / cell.name

    @property
    def record(self) -> JobRecord:
        """What `cell.json` says; empty before the first attempt."""
        path = self.folder / RECORD
        if not path.is_file():
            return {}
        found = read_json(path)
        if where := misfit(found, JobRecord):
            raise UserError(f"{path}: damaged at {where!r}; delete it")
        return found  # type: ignore[return-value]

    @property
    def info(self) -> dict[str, Any]:
        """What its `run.json` says."""
        return read_json(self.folder / INFO)

    def note(self, **fields: Any) -> None:
        """Change fields of `cell.json`."""
        write_json(self.folder / RECORD, {**self.record, **fields})

    def failed(self, error: str) -> None:
        """Remember that an attempt failed."""
        self.note(status="failed", error=error, failures=self.record.get("failures", 0) + 1)

    def spent(self, kind: str, seconds: float) -> None:
        """Add to the seconds spent on "train" or "evaluate"."""
        before = self.record.get("seconds", {})
        self.note(seconds=before | {kind: round(before.get(kind, 0.0) + seconds, 1)})

    @property
    def begun(self) -> bool:
        """Whether there is a training that can be resumed."""
        return any((self.folder / name).is_file() for name in (LAST, PREVIOUS, BEST))

    @property
    def trained(self) -> bool:
        """Whether its training is finished."""
        with suppress(UserError):  # damaged, which training will say
            return (self.folder / INFO).is_file() and self.info["status"] == "finished"
        return False

    def evaluated(self, plan: EvaluateConfig) -> bool:
        """Whether a plan was carried out on the finished training."""
        known = (self.folder / EVALUATION_FILE).is_file() and digest(plan) in self.record.get("evaluated", [])
        return known and self.trained

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(self.evaluated(plan) for plan in self.cell.plans.all)

    @property
    def state(self) -> str:
        """Status: "finished", "failed", "begun" or "waiting"."""
        if self.finished:
            return "finished"
        return "failed" if self.record.get("status") == "failed" else "begun" if self.begun else "waiting"

    def begin(self, splits: Path | None) -> None:
        """Make the folder so that `train --resume` finds it; a training that is in it is kept.

        `splits` is the split to train on; None leaves it to the training. Raises UserError if it cannot be written.
        """
        with writing(self.folder):
            if not self.begun:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                if splits is not None:
                    shutil.copyfile(splits, self.folder / SPLITS)
            # Also of a training that goes on: the data may have been moved since.
            write_config(self.folder / CONFIG, self.cell.config)
            self.note(status="begun", error=None)

    def check(self) -> None:
        """Refuse a training begun under another configuration than the grid's; the UserError names the field."""
        if not self.begun:
            return
        path = self.folder / CONFIG
        try:
            before = comparable(load_yaml(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, TypeError, AttributeError):
            raise UserError(f"{path}: not a configuration; delete {self.folder} to train this cell anew") from None
        for name, now in comparable(vars(self.cell.config)).items():
            if before[name] != now:
                raise UserError(
                    f"{self.folder}: was begun with {name} {before[name]!r}, the grid says {now!r}; choose another "
                    "--out, or delete that folder to train this cell anew"
                )

    def check_data(self, data: PreparedData) -> None:
        """Refuse a finished cell that was computed on other images, labels or splits than those of now."""
        same = self.info["fingerprint"] == data.fingerprint
        if not same or (import_splits(self.folder / SPLITS, data.ids) != data.split).any():
            what = "another split of these data" if same else "data that have changed since"
            raise UserError(
                f"{self.folder}: was computed on {what}; choose another --out, or delete that folder to train this "
                "cell anew"
            )

    def seconds_per_epoch(self) -> float | None:
        """Median wall-clock time of its epochs, validation included; None before the first."""
        path = self.folder / "timing.csv"
        seconds = pd.read_csv(path, float_precision="round_trip")["seconds"] if path.is_file() else ()
        return float(np.median(seconds)) if len(seconds) else None


def comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """What two configurations must share to be the same run, on whatever machine; what is missing has its default."""
    full = {**vars(TrainConfig()), **values}
    with suppress(UserError):  # a method or an option that is gone, which will be seen to differ
        full = present_names(full)
        info = find_method(full["method"])
        full["options"] = complete_options(info, full["options"])
        full |= {name: getattr(info, name) for name in OWN_DEFAULTS if full[name] is None}
    full |= {"data": data_name(full["data"]), "weights": full["weights"] and Path(full["weights"]).name}
    return {name: value for name, value in full.items() if name not in PLACE}
