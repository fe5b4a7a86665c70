"""Writes the results of an evaluation as they come, and keeps finished batches until all is done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

import dpaat
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.entries import Document, Population, constant_entry, result_entry
from dpaat.evaluation.journal import Journal
from dpaat.evaluation.metrics import constant_predictor, one_answer
from dpaat.evaluation.plan import Plan
from dpaat.evaluation.results import prediction_rows, save_result
from dpaat.evaluation.specs import CLEAN
from dpaat.evaluation.statistics import intervals
from dpaat.evaluation.subject import Subject
from dpaat.evaluation.suite import Result

PARTIAL = "evaluation.partial"


class Writer:
    """Writes results of one evaluation as they come."""

    def __init__(self, subject: Subject, plan: Plan, rows: np.ndarray, source: Subject | None) -> None:
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
        metrics = constant_predictor(torch.from_numpy(self.labels), subject.classes, subject.majority)
        self.constant = constant_entry(metrics, self.population, subject.majority)
        self.document: Document = {}

    @contextmanager
    def attacker(self, device: str, source: Subject | None, progress: bool) -> Iterator[Attacker]:
        """Make the attacker; what it finishes is kept until all is done."""
        plan, subject = self.plan, self.subject
        journal = self._journal()
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
        journal.clear()

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

    def _journal(self) -> Journal:
        """Where finished batches stand until all is done; those of models that are gone are removed."""
        root = self.subject.folder / PARTIAL
        depends = {**self.settings, **vars(self.population), "version": dpaat.__version__, "ids": self.ids.tolist()}
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        checkpoint = self.settings["checkpoint"]
        for folder in root.glob("*"):
            if not folder.name.startswith(f"{checkpoint}-"):
                shutil.rmtree(folder, ignore_errors=True)
        return Journal(root / f"{checkpoint}-{digest}")
