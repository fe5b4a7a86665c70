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
from dpaat.evaluation.subject import Subject
from dpaat.evaluation.suite import Result
from dpaat.journal import Journal
from dpaat.measurement import EvaluateConfig
from dpaat.storage import RESULTS, locked

PARTIAL = "evaluation.partial"


class Writer:
    """Writes results of one evaluation as they come."""

    def __init__(self, subject: Subject, plan: EvaluateConfig, rows: np.ndarray, source: Subject | None) -> None:
        self.subject, self.plan, self.rows = subject, plan, rows
        self.images, self.labels = subject.view(subject.data, rows)
        self.ids = subject.data.ids[rows]
        self.groups = subject.data.table.frame["group"].to_numpy(dtype=str)[rows]
        self.population = Population(subject.data.table.name, subject.data.fingerprint, plan.split, len(rows))
        self.settings = {
            "checkpoint": subject.head["checkpoint"],
            "seed": plan.seed,
            "device": subject.head["device"],
            "batch_size": plan.batch_size,
            "precision": plan.precision,
            "source": None if source is None else source.head["checkpoint"],
        }
        if subject.left_out is not None:
            self.settings["left_out"] = vars(subject.left_out)
        if self.labels.ndim == 2:
            metrics = constant_labels(self.labels, subject.classes, subject.majority)
        else:
            metrics = constant_predictor(torch.from_numpy(self.labels), subject.classes, subject.majority)
        self.constant = constant_entry(metrics, self.population, subject.majority)
        self.document: Document = {}
        self.saved: list[Result] = []

    @contextmanager
    def attacker(self, device: str, source: Subject | None, progress: bool) -> Iterator[Attacker]:
        """Make the attacker; batches that it finishes are kept in a place of this plan until all is done.

        A second evaluation by the same plan waits for the first; another one has a place of its own. What evaluations
        of models that are gone have left is removed, unless one is still at work.
        """
        plan, subject, folder, checkpoint = self.plan, self.subject, self.subject.folder, self.settings["checkpoint"]
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
        options |= {"num_classes": len(subject.classes), "source": None if source is None else source.model}
        options |= {"device": device, "progress": progress, "journal": journal, "thresholds": subject.thresholds}
        with _claimed(folder, name):
            with locked(folder / RESULTS):  # where another removes the folder around it
                (folder / PARTIAL / name).mkdir(parents=True, exist_ok=True)
            with Attacker(subject.model, self.images, self.labels, **options) as attacker:
                yield attacker
            with locked(folder / RESULTS):
                journal.clear()

    def save(self, result: Result) -> None:
        """Write one result with its intervals and predictions."""
        self.saved.append(result)
        subject = self.subject
        probabilities = None if result.probabilities is None else result.probabilities.numpy()
        found = intervals(result.predicted, probabilities, self.labels, self.groups, subject.classes)
        spec = subject.data.table.spec
        entry = result_entry(result, self.population, dict(found), data_spec=spec, **self.settings)
        answers = (named(each, subject.classes) for each in (result.predicted, self.labels))
        if result.spec == CLEAN and (answer := one_answer(*answers)):
            entry["one_answer"] = answer
        names: dict[str, Any] = {"ids": self.ids.tolist(), "groups": self.groups.tolist(), "classes": subject.classes}
        rows = prediction_rows(result, self.population, labels=self.labels, **names)
        self._merge(result=entry, predictions=rows)

    def save_analyses(self, analyses: dict[str, dict[str, Any]]) -> None:
        """Write what was concluded from several results."""
        common = {**vars(self.population), **self.settings, "norm": self.plan.norm}
        self._merge(analyses={name: {**common, **values} for name, values in analyses.items()})

    def _merge(self, **new: Any) -> None:
        head = {**self.subject.head, **self.settings}
        self.document = save_result(self.subject.folder, head, constant=self.constant, **new)


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
