"""Interpretability: attribution maps, scored against masks, against each other and against chance."""

from dpaat.interpret.document import read_interpretability, read_maps, read_scores
from dpaat.interpret.layers import Layer, find_layer, list_layers
from dpaat.interpret.maps import MAPS, Attribution
from dpaat.interpret.metrics import (
    area_chance,
    deletion_insertion,
    energy_inside,
    gradient_alignment,
    iou_chance,
    pointing_game,
    top_area_iou,
)
from dpaat.interpret.run import explain, explain_run
from dpaat.interpret.scoring import compare_explanations
from dpaat.interpret.similarity import Verdict, randomization_check, rank_correlation, structural_similarity
from dpaat.interpret.tables import explanation_tables
from dpaat.measurement import ExplainConfig

__all__ = [
    "MAPS", "Attribution", "ExplainConfig", "Layer", "Verdict", "area_chance", "compare_explanations",
    "deletion_insertion", "energy_inside", "explain", "explain_run", "explanation_tables", "find_layer",
    "gradient_alignment", "iou_chance", "list_layers", "pointing_game", "randomization_check", "rank_correlation",
    "read_interpretability", "read_maps", "read_scores", "structural_similarity", "top_area_iou",
]  # fmt: skip
