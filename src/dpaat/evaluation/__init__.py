"""Measure models: metrics, attacks at fixed radii, results in the run folder, tables."""

from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.metrics import Metrics, classification_metrics, constant_predictor
from dpaat.evaluation.predict import predict
from dpaat.evaluation.results import read_evaluation
from dpaat.evaluation.run import evaluate, evaluate_run
from dpaat.evaluation.specs import AttackSpec, attack_spec
from dpaat.evaluation.suite import Curve, Result, evaluate_model, run_attacks, run_standard
from dpaat.evaluation.tables import analyses_summary, comparison_table, evaluation_table
from dpaat.measurement import EvaluateConfig

__all__ = [
    "AttackSpec", "Attacker", "Curve", "EvaluateConfig", "Metrics", "Result", "analyses_summary", "attack_spec",
    "classification_metrics", "comparison_table", "constant_predictor", "evaluate", "evaluate_model", "evaluate_run",
    "evaluation_table", "predict", "read_evaluation", "run_attacks", "run_standard",
]  # fmt: skip
