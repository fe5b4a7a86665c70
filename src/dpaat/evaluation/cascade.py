"""Attack ensemble: the worst case over several attacks, each made on the images that withstood the others."""

from collections.abc import Iterable, Sequence

import numpy as np

from dpaat.attacks import find_attack
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.specs import AttackSpec
from dpaat.radii import format_radius


class Cascade:
    """Worst case over attacks noted one by one, from labels and clean predictions `(N,)`.

    With several labels an image, `(N, K)`, an attack succeeds on a label where it turns its answer, and on the image
    where it turns the first right answer.

    An attack that succeeds at a radius succeeds at every larger one; an image that is misclassified clean has `fell` =
    0. Only verdicts come out of this: ranking outputs of different attacks against each other would mean nothing.
    `fell` is the smallest radius at which an attack is known to succeed, `(N,)`, infinite if at none; `spared`
    counts images by the attack and radius that they were spared.
    """

    def __init__(self, labels: np.ndarray, predicted: np.ndarray) -> None:
        self.labels = labels
        self.right = predicted == labels
        self.fell = np.full(len(labels), np.inf)
        self.spared: dict[str, int] = {}
        self._notes: list[tuple[str, np.ndarray, np.ndarray]] = []
        self.note("clean", np.arange(len(labels)), predicted, 0.0)

    def standing(self, eps: float) -> np.ndarray:
        """Positions of the images on which no attack is known to succeed at this radius, ascending."""
        return np.flatnonzero(self.fell > eps)

    def note(self, label: str, positions: np.ndarray, predicted: np.ndarray, radius: float | np.ndarray) -> None:
        """Take an attack's verdicts on some images `(n,)` in; `radius` is how far it went, one number or `(n,)`.

        Of an image that is given several times, the smallest radius counts.
        """
        reached, answer = np.full(self.labels.shape, np.inf), self.labels.copy()
        wrong = predicted != self.labels[positions]
        if wrong.ndim == 2:
            wrong, radius = wrong & (self.labels[positions] >= 0), np.reshape(radius, (-1, 1))
        fell = np.where(wrong, radius, np.inf)
        np.minimum.at(reached, positions, fell)
        rows, *columns = np.nonzero(wrong & (fell == reached[positions]))
        answer[(positions[rows], *columns)] = predicted[(rows, *columns)]
        self.fell = np.minimum(self.fell, self._of_images(reached))
        self._notes.append((label, reached, answer))

    def at(self, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """The worst case at a radius: predicted class of every image `(N,)`, and the attack that succeeds `(N,)`.

        The attack is the first of those noted that succeeds at this radius, "" where none does.
        """
        predicted, by = self.labels.copy(), np.full(len(self.labels), "", dtype=object)
        stands = np.ones(self.labels.shape, dtype=bool)
        for label, reached, answer in self._notes:
            new = stands & (reached <= eps)
            predicted[new], stands[new] = answer[new], False
            by[(by == "") & (self._of_images(reached) <= eps)] = label
        return predicted, by.astype(str)

    def _of_images(self, reached: np.ndarray) -> np.ndarray:
        """Smallest successful radius of each image, `(N,)`, by that of its class, or of each of its labels."""
        if reached.ndim == 1:
            return reached
        first = np.where(self.right, reached, np.inf).min(axis=1)
        # An image with no right answer has fallen at 0.
        return np.asarray(np.where(self.right.any(axis=1), first, reached.min(axis=1)))


def run_cascade(
    attacker: Attacker,
    cascade: Cascade,
    plan: Sequence[tuple[AttackSpec, Sequence[float]]],
    *,
    quick: bool = False,
) -> None:
    """Attack the images that withstood all attacks so far, attack by attack; verdicts are taken further in place.

    All radii and targets of an attack share its batches, so that these are full: an image that falls leaves at once.
    Attacks that find the nearest adversarial image run once, at the largest of their radii, on everything that
    stands at the smallest. If `quick`, radii shrink, and images that withstand an attack are spared it from then on.
    """
    for number, (spec, radii) in enumerate(plan):

        def show(radii: Sequence[float], here: AttackSpec = spec, later: int = number + 1) -> None:
            costs = (_images(cascade, some) * other.passes(attacker.num_classes) for other, some in plan[later:])
            left = _images(cascade, radii) * here.passes(attacker.num_classes) + sum(costs)
            attacker.bar.expect(f"{here.label} {', '.join(map(format_radius, radii))}", left)

        if find_attack(spec.name).minimal:
            show(radii[-1:])
            positions = cascade.standing(radii[0])
            outputs = attacker.outputs(spec, radii[-1], positions)
            cascade.note(spec.label, positions, outputs.predicted, outputs.distance)
            continue
        together = find_attack(spec.name).mixes and not quick
        withstood = np.zeros(len(cascade.labels), dtype=bool)
        for some in [list(radii)] if together else [[eps] for eps in (reversed(radii) if quick else radii)]:
            show(some)
            if spared := int((withstood & (cascade.fell > some[0])).sum()):
                cascade.spared[f"{spec.label} {format_radius(some[0])}"] = spared
            _attack(attacker, cascade, spec, some, ~withstood)
            withstood |= quick & (cascade.fell > some[-1])


def _attack(attacker: Attacker, cascade: Cascade, spec: AttackSpec, radii: Sequence[float], wanted: np.ndarray) -> None:
    """Make one attack at some radii on the wanted images, `(N,)`, that have withstood all so far."""
    info = find_attack(spec.name)
    if not info.mixes:
        (radius,) = radii
        positions = np.flatnonzero(wanted & (cascade.fell > radius))
        cascade.note(spec.label, positions, attacker.outputs(spec, radius, positions).predicted, radius)
        return
    by_target = info.cost.each == "target"
    ranks = range(info.cost.repeats(attacker.num_classes - (not attacker.several)) if by_target else 1)
    rank = 0
    while rank < len(ranks):
        found = [(position, eps) for eps in radii for position in np.flatnonzero(wanted & (cascade.fell > eps))]
        if not found:
            return
        some = ranks[rank : rank + max(1, attacker.batch_size // len(found))]
        positions, eps = (np.tile(column, len(some)) for column in zip(*found, strict=True))
        targets = np.repeat(some, len(found)) if by_target else None
        cascade.note(spec.label, positions, attacker.mixed(spec, positions, eps, targets).predicted, eps)
        rank += len(some)


def _images(cascade: Cascade, radii: Iterable[float]) -> int:
    return sum(len(cascade.standing(eps)) for eps in radii)
