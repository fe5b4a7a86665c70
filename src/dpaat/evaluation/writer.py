"""Writes the results of an evaluation as they come, and keeps finished batches until all is done."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dpaat
from dpaat.errors import UserError
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.entries import Document, Population, constant_entry, result_entry
from dpaat.evaluation.labels import constant_labels, named
from dpaat.evaluation.metrics import constant_predictor, one_answer
from dpaat.evaluation.results import prediction_rows, save_result
from dpaat.evaluation.specs import CLEAN
from dpaat.evaluation.statistics import intervals
from dpaat.evaluation.suite import Result
from dpaat.evaluation.target import EvalTarget
from dpaat.journal import Journal
from dpaat.measurement import EvaluateConfig
from dpaat.storage import RESULTS, locked

PARTIAL = "evaluation.partial"
Analyses = dict[str, dict[str, Any]]
"""What is concluded from several results, by name."""


class Writer:
    """Writes results of one evaluation as they come."""

    def __init__(self, target: EvalTarget, plan: EvaluateConfig, rows: np.ndarray, source: EvalTarget | None) -> None:
        self.target, self.plan, self.rows = target, plan, rows
        self.images, self.labels = target.view(target.data, rows)
        self.ids = target.data.ids[rows]
        self.groups = target.data.table.frame["group"].to_numpy(dtype=str)[rows]
        draw = plan.seed if len(rows) < len(target.rows(plan.split)) else 0
        self.population = Population(target.data.table.name, target.data.fingerprint, plan.split, len(rows), draw)
        self.settings = {
            "checkpoint": target.head["checkpoint"],
            "seed": plan.seed,
            "device": target.head["device"],
            "batch_size": plan.batch_size,
            "precision": plan.precision,
            "source": None if source is None else source.head["checkpoint"],
        }
        if target.left_out is not None:
            self.settings["left_out"] = vars(target.left_out)
        if plan.split == "all" and (learned := target.learned(rows)):
            self.settings["learned"] = learned
        if self.labels.ndim == 2:
            metrics = constant_labels(self.labels, target.classes, target.majority)
        else:
            metrics = constant_predictor(torch.from_numpy(self.labels), target.classes, target.majority)
        self.constant = constant_entry(metrics, self.population, target.majority)
        self.document: Document = {}
        self.saved: list[Result] = []

    @contextmanager
    def attacker(self, source: EvalTarget | None, progress: bool) -> Iterator[Attacker]:
        """Make the attacker; batches that it finishes are kept in a place of this plan until all is done.

        A second evaluation by the same plan waits for the first; another one has a place of its own. What evaluations
        of models that are gone have left is removed, unless one is still at work.
        """
        plan, target, folder, checkpoint = self.plan, self.target, self.target.folder, self.settings["checkpoint"]
        attacks = [list(names) for names in (plan.suites, plan.attacks, plan.ensemble)]
        depends = {**self.settings, **vars(self.population), "version": dpaat.__version__, "ids": self.ids.tolist()}
        depends |= {"attacks": attacks, "steps": dict(plan.steps), "eps": plan.radii, "norm": plan.norm}
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        for left in (folder / PARTIAL).glob("*"):
            if not left.name.startswith(f"{checkpoint}-"):
                with suppress(UserError), _claimed(folder, left.name, busy="is at work"):
                    shutil.rmtree(left, ignore_errors=True)
        name = f"{checkpoint}-{digest}"
        journal = Journal(folder / PARTIAL / name)
        options: dict[str, Any] = {"batch_size": plan.batch_size, "seed": plan.seed, "precision": plan.precision}
        options |= {"num_classes": len(target.classes), "source": None if source is None else source.model}
        options |= {"device": target.device, "thresholds": target.thresholds, "progress": progress, "journal": journal}
        with _claimed(folder, name):
            with locked(folder / RESULTS):  # where another removes the folder around it
                (folder / PARTIAL / name).mkdir(parents=True, exist_ok=True)
            with Attacker(target.model, self.images, self.labels, **options) as attacker:
                yield attacker
            with locked(folder / RESULTS):
                journal.clear()

    def save(self, result: Result | Analyses) -> None:
        """Write one result with its intervals and predictions, or what was concluded from several."""
        if not isinstance(result, Result):
            common = {**vars(self.population), **self.settings, "norm": self.plan.norm}
            return self._merge(analyses={name: {**common, **values} for name, values in result.items()})
        self.saved.append(result)
        target = self.target
        probabilities = None if result.probabilities is None else result.probabilities.numpy()
        found = intervals(result.predicted, probabilities, self.labels, self.groups, target.classes)
        spec = target.data.table.spec
        entry = result_entry(result, self.population, dict(found), data_spec=spec, **self.settings)
        answers = (named(each, target.classes) for each in (result.predicted, self.labels))
        if result.spec == CLEAN and (answer := one_answer(*answers)):
            entry["one_answer"] = answer
        names: dict[str, Any] = {"ids": self.ids.tolist(), "groups": self.groups.tolist(), "classes": target.classes}
        rows = prediction_rows(result, self.population, labels=self.labels, **names)
        return self._merge(result=entry, predictions=rows)

    def _merge(self, **new: Any) -> None:
        head = {**self.target.head, **self.settings}
        self.document = save_result(self.target.folder, head, constant=self.constant, **new)


@contextmanager
def _claimed(folder: Path, name: str, busy: str = "") -> Iterator[None]:
    """Hold the lock of a journal, and remove its file."""
    path = folder / f".{name}.lock"
    with locked(path, busy=busy):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps what is open
                path.unlink()
