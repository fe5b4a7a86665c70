"""Measure models: metrics, attacks at fixed radii, results in the run folder, tables."""

from __future__ import annotations

from dpaat.evaluation.metrics import Metrics, classification_metrics, constant_predictor
from dpaat.evaluation.predict import predict
from dpaat.evaluation.results import read_evaluation
from dpaat.evaluation.run import evaluate_run
from dpaat.evaluation.suite import AttackSpec, Result, attack_logits, attack_spec, evaluate_model, run_suite
from dpaat.evaluation.table import comparison_table, evaluation_table

__all__ = [
    "AttackSpec",
    "Metrics",
    "Result",
    "attack_logits",
    "attack_spec",
    "classification_metrics",
    "comparison_table",
    "constant_predictor",
    "evaluate_model",
    "evaluate_run",
    "evaluation_table",
    "predict",
    "read_evaluation",
    "run_suite",
]
