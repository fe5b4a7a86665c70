"""Aggregation of recipes over models, folds and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpaat.benchmark.contrasts import Point
from dpaat.benchmark.outcomes import AREA, Condition, Outcome, conditions
from dpaat.evaluation.statistics import contrast, fold_scores

Document = dict[str, Any]
Replicate = tuple[str, str, int]
"""Model, fold and seed."""


class Aggregate:
    """The outcomes of all recipes on one kind of images, put together once for every choice of replicates."""

    def __init__(self, outcomes: Mapping[str, Mapping[Replicate, Outcome]], radii: Sequence[float]) -> None:
        self.outcomes, self.radii = outcomes, radii
        self._known: dict[tuple[str, tuple[Replicate, ...]], list[Condition]] = {}

    def conditions(self, recipe: str, replicates: Sequence[Replicate] | None = None) -> list[Condition]:
        """A recipe under every condition, over all its replicates or some."""
        chosen = tuple(self.shared(recipe) if replicates is None else replicates)
        key = recipe, chosen
        if key not in self._known:
            self._known[key] = conditions([self.outcomes[recipe][each] for each in chosen], self.radii)
        return self._known[key]

    def shared(self, *recipes: str) -> list[Replicate]:
        """The models, folds and seeds that all of some recipes have."""
        first, *others = (self.outcomes[recipe] for recipe in recipes)
        kept = [replicate for replicate in first if all(replicate in other for other in others)]
        return sorted(kept)

    def images(self, recipe: str) -> int:
        """How many images a recipe is evaluated on."""
        return sum(len(fold.images.labels) for fold in self.conditions(recipe)[0].folds)

    def scores(self, recipe: str) -> Document:
        """A recipe's metrics over all its replicates, with intervals."""
        return {
            name: found[metric]
            for condition in self.conditions(recipe)
            if (found := fold_scores(condition.folds))
            for metric, name in condition.names.items()
        }

    def differences(self, recipe: str, reference: str) -> Document | None:
        """A recipe minus the reference; None for the reference itself, or without replicates in common."""
        if recipe == reference or reference not in self.outcomes:
            return None
        shared = self.shared(recipe, reference)
        if not shared:
            return None
        pairs = zip(self.conditions(recipe, shared), self.conditions(reference, shared), strict=True)
        return {
            name: found[metric]
            for ours, theirs in pairs
            if (found := contrast(ours.folds, theirs.folds))
            for metric, name in ours.names.items()
        }

    def points(self, recipe: str, replicates: Sequence[Replicate]) -> dict[str, Point]:
        """A recipe in the planes of clean against robust scores: the area, and the mAP at every radius."""
        found = self.conditions(recipe, replicates)
        clean = found[0].folds
        points = {AREA: Point(clean, found[-1].folds, "balanced_accuracy")}
        for condition in found[1:]:
            if "map" in condition.names:
                points[condition.names["map"]] = Point(clean, condition.folds, "map")
        return points
