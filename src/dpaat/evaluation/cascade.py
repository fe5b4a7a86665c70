"""Attack ensemble: the worst case over several attacks, each made on the images that withstood the others."""

from collections.abc import Sequence

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
    attacker: Attacker, cascade: Cascade, specs: Sequence[AttackSpec], radii: Sequence[float], *, spare: bool = False
) -> None:
    """Attack the images that still withstand at some ascending radii, attack by attack; verdicts are taken further.

    Radii and targets of an attack share its batches, so that these are full: an image that falls leaves at once.
    Attacks that find the nearest adversarial image run once, at the largest radius at which an image stands, and serve
    the smaller ones. If `spare`, the others attack an image only at the largest radius at which it stands: where it
    falls, the next smaller one follows; where it withstands all of them, it is spared them at smaller radii.
    """
    eps, infos = np.asarray(radii), [find_attack(spec.name) for spec in specs]
    nearest = np.array([info.minimal for info in infos], dtype=bool)
    costs = [spec.passes(attacker.num_classes) for spec in specs]
    left = np.ones((len(specs), len(cascade.labels), len(eps)), dtype=bool)

    def due() -> np.ndarray:
        """Images and radii `(N, R)` that each attack is to be made on now."""
        stands = np.broadcast_to(cascade.fell[:, None] > eps, left.shape).copy()
        stands[nearest, :, 1:] = False
        if spare:
            stands[~nearest, :, :-1] &= ~stands[~nearest, :, 1:]
        return np.asarray(left & stands)

    while (rows := due()).any():
        number = int(rows.any(axis=(1, 2)).argmax())
        spec, info, wanted = specs[number], infos[number], rows[number].copy()
        if not info.mixes:
            wanted &= np.arange(len(eps)) == wanted.any(0).argmax()
        asked = eps if info.minimal else eps[wanted.any(0)]
        passes = int(rows.sum(axis=(1, 2)) @ costs)
        attacker.bar.expect(f"{spec.label} {', '.join(map(format_radius, asked))}", passes)
        column, positions = np.nonzero(wanted.T)
        if info.minimal:
            largest = eps[(cascade.fell[positions, None] > eps).sum(1) - 1]
            outputs = attacker.mixed(spec, positions, largest, None)
            cascade.note(spec.label, positions, outputs.predicted, outputs.distance)
        elif info.mixes:
            _mix(attacker, cascade, spec, positions, eps[column])
        else:
            outputs = attacker.outputs(spec, float(asked[0]), positions)
            cascade.note(spec.label, positions, outputs.predicted, asked[0])
        left[number] &= ~(wanted.any(1, keepdims=True) if info.minimal else wanted)
    for spec, spared in zip(specs, (left & (cascade.fell[:, None] > eps)).sum(1), strict=True):
        found = zip(radii, spared.tolist(), strict=True)
        cascade.spared |= {f"{spec.label} {format_radius(radius)}": count for radius, count in found if count}


def _mix(attacker: Attacker, cascade: Cascade, spec: AttackSpec, positions: np.ndarray, eps: np.ndarray) -> None:
    """Make one attack on images `(n,)`, each at a radius of its own, in common batches, target by target."""
    info = find_attack(spec.name)
    by_target = info.cost.each == "target"
    ranks = range(info.cost.repeats(attacker.num_classes - (not attacker.several)) if by_target else 1)
    rank = 0
    while rank < len(ranks) and len(positions):
        some = ranks[rank : rank + max(1, attacker.batch_size // len(positions))]
        each, radii = np.tile(positions, len(some)), np.tile(eps, len(some))
        targets = np.repeat(some, len(positions)) if by_target else None
        cascade.note(spec.label, each, attacker.mixed(spec, each, radii, targets).predicted, radii)
        stands = cascade.fell[positions] > eps
        positions, eps, rank = positions[stands], eps[stands], rank + len(some)
