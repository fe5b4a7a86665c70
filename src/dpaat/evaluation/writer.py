"""Writes the results of an evaluation as they come, and keeps finished batches until all is done."""

from __future__ import annotations

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
from dpaat.evaluation.journal import Journal
from dpaat.evaluation.metrics import constant_predictor, one_answer
from dpaat.evaluation.results import prediction_rows, save_result
from dpaat.evaluation.specs import CLEAN
from dpaat.evaluation.statistics import intervals
from dpaat.evaluation.subject import Subject
from dpaat.evaluation.suite import Result
from dpaat.locks import RESULTS, locked
from dpaat.measurement import EvaluateConfig

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
        metrics = constant_predictor(torch.from_numpy(self.labels), subject.classes, subject.majority)
        self.constant = constant_entry(metrics, self.population, subject.majority)
        self.document: Document = {}

    @contextmanager
    def attacker(self, device: str, source: Subject | None, progress: bool) -> Iterator[Attacker]:
        """Make the attacker; what it finishes is kept until all is done."""
        plan, subject = self.plan, self.subject
        with self._journal() as journal:
            attacker = Attacker(
                subject.model,
                self.images,
                self.labels,
                num_classes=len(subject.classes),
                batch_size=plan.batch_size,
                device=device,
                seed=plan.seed,
                precision=plan.precision,
                source=None if source is None else source.model,
                journal=journal,
                progress=progress,
            )
            try:
                yield attacker
            finally:
                attacker.bar.close()

    def save(self, result: Result) -> None:
        """Write one result with its intervals and predictions."""
        subject = self.subject
        entry = result_entry(
            result,
            self.population,
            dict(
                intervals(
                    result.predicted,
                    None if result.probabilities is None else result.probabilities.numpy(),
                    self.labels,
                    self.groups,
                    subject.classes,
                )
            ),
            data_spec=subject.data.table.spec,
            **self.settings,
        )
        if result.spec == CLEAN and (answer := one_answer(np.array(subject.classes)[result.predicted], self.labels)):
            entry["one_answer"] = answer
        predictions = prediction_rows(
            result,
            self.population,
            ids=self.ids.tolist(),
            groups=self.groups.tolist(),
            labels=self.labels,
            classes=subject.classes,
        )
        self.document = save_result(
            subject.folder, self._full_head, result=entry, constant=self.constant, predictions=predictions
        )

    def save_analyses(self, analyses: dict[str, dict[str, Any]]) -> None:
        """Write what was concluded from several results."""
        common = {**vars(self.population), **self.settings, "norm": self.plan.norm}
        entries = {name: {**common, **values} for name, values in analyses.items()}
        self.document = save_result(self.subject.folder, self._full_head, constant=self.constant, analyses=entries)

    @property
    def _full_head(self) -> dict[str, Any]:
        return {**self.subject.head, **self.settings}

    @contextmanager
    def _journal(self) -> Iterator[Journal]:
        """Hold the place where finished batches of this plan stand until all is done.

        A second evaluation by the same plan waits for the first; another one has a place of its own. What evaluations
        of models that are gone have left is removed, unless one is still at work.
        """
        plan, folder, checkpoint = self.plan, self.subject.folder, self.settings["checkpoint"]
        attacks = [list(names) for names in (plan.suites, plan.attacks, plan.ensemble)]
        what = {"attacks": attacks, "steps": dict(plan.steps), "eps": plan.radii, "norm": plan.norm}
        depends = {
            **self.settings,
            **vars(self.population),
            **what,
            "version": dpaat.__version__,
            "ids": self.ids.tolist(),
        }
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        for left in (folder / PARTIAL).glob("*"):
            if not left.name.startswith(f"{checkpoint}-"):
                with suppress(UserError), _claimed(folder, left.name, busy="is at work"):
                    shutil.rmtree(left, ignore_errors=True)
        name = f"{checkpoint}-{digest}"
        with _claimed(folder, name):
            with locked(folder / RESULTS):  # where another removes the folder around it
                (folder / PARTIAL / name).mkdir(parents=True, exist_ok=True)
            yield (journal := Journal(folder / PARTIAL / name))
            with locked(folder / RESULTS):
                journal.clear()


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
