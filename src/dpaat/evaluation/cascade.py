"""Worst case over several attacks: which images fall, at what radius, and to which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpaat.attacks import find_attack
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.specs import AttackSpec
from dpaat.radii import format_radius


class Cascade:
    """Worst case over attacks noted one by one, from labels and clean predictions `(N,)`.

    An image that falls at a radius has fallen at every larger one, and one that is misclassified clean has fallen at
    0. Only verdicts come out of this: ranking outputs of different attacks against each other would mean nothing.
    `fell` is the smallest radius at which each image is known to fall, `(N,)`, infinite where it stands.
    """

    def __init__(self, labels: np.ndarray, predicted: np.ndarray) -> None:
        self.labels = labels
        self.fell = np.full(len(labels), np.inf)
        self._notes: list[tuple[str, np.ndarray, np.ndarray]] = []
        self.note("clean", np.arange(len(labels)), predicted, 0.0)

    def standing(self, eps: float) -> np.ndarray:
        """Positions of the images not known to fall at this radius, ascending."""
        return np.flatnonzero(self.fell > eps)

    def note(self, label: str, positions: np.ndarray, predicted: np.ndarray, radius: float | np.ndarray) -> None:
        """Take an attack's verdicts on some images `(n,)` in; `radius` is how far it went, one number or `(n,)`."""
        reached, answer = np.full(len(self.labels), np.inf), self.labels.copy()
        reached[positions] = np.where(predicted != self.labels[positions], radius, np.inf)
        answer[positions] = predicted
        self.fell = np.minimum(self.fell, reached)
        self._notes.append((label, reached, answer))

    def at(self, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """The worst case at a radius: predicted class of every image `(N,)`, and the attack that it falls to `(N,)`.

        The attack is the first of those noted that suffices at this radius, "" where the image stands.
        """
        predicted, by = self.labels.copy(), np.full(len(self.labels), "", dtype=object)
        for label, reached, answer in self._notes:
            new = (by == "") & (reached <= eps)
            predicted[new], by[new] = answer[new], label
        return predicted, by.astype(str)


def run_cascade(attacker: Attacker, cascade: Cascade, plan: Sequence[tuple[AttackSpec, Sequence[float]]]) -> None:
    """Attack what still stands: attack by attack, each at growing radii; verdicts are taken further in place.

    Attacks that find the nearest adversarial image run once, at the largest of their radii, on everything that
    stands at the smallest.
    """
    stages: list[tuple[AttackSpec, float, float]] = []  # the last: radius at which an image must stand to be attacked
    for spec, radii in plan:
        minimal = find_attack(spec.name).minimal
        stages += [(spec, radii[-1], radii[0])] if minimal else [(spec, eps, eps) for eps in radii]
    for number, (spec, eps, smallest) in enumerate(stages):
        left = (
            len(cascade.standing(lowest)) * later.passes(attacker.num_classes) for later, _, lowest in stages[number:]
        )
        attacker.bar.expect(f"{spec.label} {format_radius(eps)}", sum(left))
        positions = cascade.standing(smallest)
        outputs = attacker.outputs(spec, eps, positions)
        radius = outputs.distance if find_attack(spec.name).minimal else eps
        cascade.note(spec.label, positions, outputs.predicted, radius)
