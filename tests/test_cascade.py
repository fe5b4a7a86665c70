"""The worst case over several attacks, by hand and against a model whose robust radius is known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.specs import AttackSpec, attack_spec
from dpaat.evaluation.suite import Cascade, Curve, Result, run_cascade, run_standard
from dpaat.journal import Journal

RADII = [2 / 255, 8 / 255, 32 / 255]
STEPS = {"pgd": 5, "apgd-ce": 10, "apgd-t": 10, "fab-t": 20, "square": 50}


class Level(nn.Module):
    """K classes by brightness; an image falls exactly where its distance to the next boundary is passed."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter((torch.arange(classes) + 0.5) / classes)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        return -20 * (x.flatten(1).mean(1, keepdim=True) - self.centres) ** 2


def make_images(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of even brightness, their labels, and the radius at which each falls, in grey levels."""
    levels = np.random.default_rng(seed).integers(0, 256, 40)
    images = np.broadcast_to(levels[:, None, None, None], (40, 1, 4, 4)).astype(np.uint8)
    width = 255 / classes
    labels = np.minimum(levels // width, classes - 1).astype(np.int64)
    below, above = levels - labels * width, (labels + 1) * width - levels
    below[labels == 0], above[labels == classes - 1] = np.inf, np.inf
    return images.copy(), labels, np.minimum(below, above)


def test_verdicts_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 0])
    cascade = Cascade(labels, np.array([0, 0, 1, 0, 0]))
    assert np.flatnonzero(cascade.fell > 0.1).tolist() == [0, 1, 2, 4]
    cascade.note("A", np.array([0, 1, 2, 4]), np.array([1, 0, 2, 0]), 0.2)
    assert np.flatnonzero(cascade.fell > 0.1).tolist() == [0, 1, 2, 4]
    assert np.flatnonzero(cascade.fell > 0.2).tolist() == [1, 4]
    assert cascade.at(0.1)[0].tolist() == [0, 0, 1, 0, 0]
    assert cascade.at(0.2)[0].tolist() == [1, 0, 2, 0, 0]
    cascade.note("B", np.array([0, 1, 4]), np.array([2, 1, 1]), np.array([0.05, 0.15, 0.3]))
    predicted, by = cascade.at(0.06)
    assert predicted.tolist() == [2, 0, 1, 0, 0]
    assert by.tolist() == ["B", "", "", "clean", ""]
    predicted, by = cascade.at(0.2)  # where two suffice, the first one counts
    assert predicted.tolist() == [1, 1, 2, 0, 0]
    assert by.tolist() == ["A", "B", "A", "clean", ""]


@pytest.mark.parametrize("classes", [2, 3, 7, 10])
def test_worst_case_is_the_known_radius_for_any_number_of_classes(classes) -> None:
    images, labels, known = make_images(classes)
    names = [f"c{k}" for k in range(classes)]
    attacker = Attacker(Level(classes), images, labels, num_classes=classes, batch_size=16, progress=False)
    found = list(run_standard(attacker, RADII, names, steps=STEPS))
    worst = {r.eps: r for r in found if isinstance(r, Result) and r.spec.name == "worst-case"}
    assert list(worst) == RADII
    for eps, result in worst.items():
        robust = result.predicted == labels
        grey = eps * 255
        assert not robust[known < grey - 0.01].any()
        assert robust[known > grey + 0.01].all()
        assert result.metrics["map"] is None
        assert result.metrics["accuracy"] == pytest.approx(robust.mean())
        assert ((result.fell_to == "") == robust).all()
    (curve,) = [r for r in found if isinstance(r, Curve)]
    assert curve.eps == [0, *RADII, 64 / 255, 0.5]
    assert curve.accuracy == sorted(curve.accuracy, reverse=True)
    assert curve.accuracy[0] == 1
    assert (known > 127.51).mean() <= curve.accuracy[-1] + 1e-6 <= (known > 127.49).mean() + 2e-6  # a tie may fall
    assert curve.area == RADII[-1]


def test_single_attacks_are_scored_on_all_images_and_the_rest_attack_what_stands() -> None:
    images, labels, _ = make_images(3)
    model = Level(3)
    attacker = Attacker(model, images, labels, num_classes=3, progress=False)
    found = [r for r in run_standard(attacker, RADII, ["a", "b", "c"], steps=STEPS) if isinstance(r, Result)]
    scored = [(r.spec.name, r.eps) for r in found if r.probabilities is not None]
    assert scored == [("clean", 0.0), *((name, eps) for name in ("fgsm", "pgd", "apgd-ce") for eps in RADII)]
    assert all(len(r.predicted) == 40 for r in found)

    cascade = Cascade(labels, labels)
    cascade.note("all", np.arange(35), 1 + labels[:35], 1 / 255)
    model.forwards = 0
    run_cascade(attacker, cascade, [attack_spec("pgd", steps=5)], [2 / 255])
    assert model.forwards == 5 * (5 + 1)


def test_an_attack_for_the_nearest_image_runs_once_for_all_radii() -> None:
    images, labels, known = make_images(3)
    attacker = Attacker(Level(3), images, labels, num_classes=3, progress=False)
    calls = []
    genuine = attacker.mixed

    def mixed(spec: AttackSpec, positions: np.ndarray, eps: np.ndarray, rank: np.ndarray | None):
        calls.append((spec.name, positions.tolist(), eps.tolist()))
        return genuine(spec, positions, eps, rank)

    attacker.mixed = mixed
    cascade = Cascade(labels, labels)
    cascade.note("all", np.arange(10), 1 + labels[:10], RADII[0])
    cascade.note("some", np.arange(15), 1 + labels[:15], RADII[1])
    run_cascade(attacker, cascade, [attack_spec("fab-t", steps=20)], RADII)
    assert calls == [("fab-t", list(range(10, 40)), [RADII[0]] * 5 + [RADII[2]] * 25)]
    for rest, largest in ((slice(10, 15), RADII[0]), (slice(15, 40), RADII[2])):
        near = known[rest] < largest * 255 - 0.1
        assert np.allclose(cascade.fell[rest][near] * 255, known[rest][near], atol=0.1)


def test_journal_makes_an_interrupted_suite_end_as_an_unbroken_one(tmp_path) -> None:
    images, labels, _ = make_images(3)

    def suite(model: Level, journal: Journal) -> list[Result | Curve]:
        attacker = Attacker(model, images, labels, num_classes=3, batch_size=16, journal=journal, progress=False)
        return list(run_standard(attacker, RADII, ["a", "b", "c"], steps=STEPS))

    class Interrupted(Level):
        def forward(self, x: Tensor) -> Tensor:
            if self.forwards > 4000:
                raise KeyboardInterrupt
            return super().forward(x)

    whole = Level(3)
    expected = suite(whole, Journal())
    broken = Interrupted(3)
    with pytest.raises(KeyboardInterrupt):
        suite(broken, Journal(tmp_path / "partial"))
    rest = Level(3)
    found = suite(rest, Journal(tmp_path / "partial"))
    assert [vars(r)["eps"] for r in found] == [vars(r)["eps"] for r in expected]
    for one, two in zip(found, expected, strict=True):
        if isinstance(one, Result) and isinstance(two, Result):
            assert np.array_equal(one.predicted, two.predicted)
            assert one.metrics == two.metrics
        else:
            assert one == two
    lost = broken.forwards + rest.forwards - whole.forwards
    assert 0 <= lost <= 16 * 101
    assert rest.forwards < whole.forwards
