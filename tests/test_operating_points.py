"""Thresholds, sensitivities and binary tasks on cases computed by hand."""

import json
import math

import numpy as np
import pytest

from data_makers import make_ham
from dpaat.data import load_table
from dpaat.data.ham10000 import CLASSES as HAM_CLASSES
from dpaat.data.medmnist import CLASSES as MEDMNIST_CLASSES
from dpaat.data.medmnist import TASKS as MEDMNIST_TASKS
from dpaat.data.table import tasks_of
from dpaat.evaluation.clinical import (
    choose_thresholds,
    log_probabilities,
    operating_points,
    task_scores,
    threshold_at,
)
from dpaat.evaluation.means import recall_interval

CLASSES = ("healthy", "sick")


def binary(scores: list[float]) -> np.ndarray:
    """Logits whose log-odds of the second class are the scores."""
    return np.stack([np.zeros(len(scores)), np.array(scores)], axis=1)


def test_scores_are_log_odds_of_the_summed_probabilities():
    probabilities = np.array([[0.5, 0.2, 0.3], [0.9, 0.06, 0.04]])
    scores = task_scores(log_probabilities(probabilities), ("b", "c"), ("a", "b", "c"))
    assert scores == pytest.approx([0.0, math.log(0.1 / 0.9)])
    shifted = task_scores(log_probabilities(probabilities) + 7.0, ("c", "b"), ("a", "b", "c"))
    assert shifted == pytest.approx(scores)


def test_confident_scores_do_not_tie():
    logits = np.array([[0, 60, 50], [0, 70, 50], [0, 80, 50]], dtype=np.float32)
    scores = task_scores(logits, ("b", "c"), ("a", "b", "c"))
    assert scores == pytest.approx([60, 70, 80], abs=1e-3)


def test_temperature_divides_the_logits():
    logits = np.array([[0.0, 4.0, 2.0]])
    expected = math.log(math.exp(2) + math.exp(1))
    assert task_scores(logits, ("b", "c"), ("a", "b", "c"), temperature=2.0) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("negatives", "wanted", "threshold", "reached"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.80, 8, 0.8),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.75, 8, 0.8),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 1.00, 10, 1.0),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.01, 1, 0.1),
        ([1, 2, 3, 4, 4, 4, 4, 8, 9, 10], 0.50, 4, 0.7),  # ties are judged alike
        ([5, 5, 5, 5], 0.95, 5, 1.0),
        ([2], 0.80, 2, 1.0),
    ],
)
def test_threshold_is_the_smallest_that_reaches_the_specificity(negatives, wanted, threshold, reached):
    scores = np.array([*negatives[::-1], 3.5, 99.0])
    positive = np.array([False] * len(negatives) + [True] * 2)
    found = threshold_at(scores, positive, wanted)
    assert found == threshold
    assert np.mean(scores[~positive] <= found) == pytest.approx(reached)
    assert np.mean(scores[~positive] < found) < wanted  # at any smaller threshold


def test_rounding_does_not_move_the_threshold():
    assert 0.07 * 100 > 7
    assert threshold_at(np.arange(1, 101), np.zeros(100, dtype=bool), 0.07) == 7


def test_points_by_hand():
    validation = binary([0, 1, 2, 3, 4, 2.5, 9]), np.array([0, 0, 0, 0, 0, 1, 1])
    thresholds = choose_thresholds(*validation, tasks={"sick": ("sick",)}, classes=CLASSES, specificities=[0.6, 0.8])
    assert [threshold.value for threshold in thresholds] == [2, 3]
    test = binary([1, 2, 3, 5, 2, 2.1, 3, 3.5, 7]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    loose, strict = operating_points(thresholds, *test, classes=CLASSES)
    assert (loose["sensitivity"], loose["specificity"]) == (0.8, 0.5)
    assert (strict["sensitivity"], strict["specificity"]) == (0.4, 0.75)
    # Pairs won by the positive, ties half: 2 over (1, 2), 2.1 over 2, 3 over 2 and 3, 3.5 over 3, 7 over 4.
    assert loose["auroc"] == strict["auroc"] == pytest.approx((1.5 + 2 + 2.5 + 3 + 4) / 20)
    assert strict == {
        "task": "sick",
        "positives": ["sick"],
        "specificity_wanted": 0.8,
        "threshold": 3.0,
        "sensitivity": 0.4,
        "sensitivity_interval": None,
        "specificity": 0.75,
        "specificity_interval": None,
        "auroc": loose["auroc"],
        "n_positive": 5,
        "n_negative": 4,
    }


def test_intervals_belong_to_the_images_they_are_about():
    validation = binary([0.0, 1.0]), np.array([0, 1])
    scores, labels = np.linspace(-3, 3, 40), np.arange(40) % 4 // 2
    groups = np.array([f"lesion-{i // 2}" for i in range(40)])
    thresholds = choose_thresholds(*validation, tasks={"sick": ("sick",)}, classes=CLASSES)
    point = operating_points(thresholds, binary(list(scores)), labels, classes=CLASSES, groups=groups)[0]
    sick = labels == 1
    assert point["sensitivity_interval"] == list(recall_interval(scores[sick] > 0, groups[sick]))
    assert point["specificity_interval"] == list(recall_interval(scores[~sick] <= 0, groups[~sick]))
    json.dumps(point, allow_nan=False)


def test_a_point_keeps_the_temperature_of_its_threshold():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.standard_normal((200, 3)), rng.integers(3, size=200)
    tasks = {"ill": ("b", "c")}
    thresholds = choose_thresholds(logits, labels, tasks=tasks, classes=("a", "b", "c"), temperature=3.0)
    divided = choose_thresholds(logits / 3, labels, tasks=tasks, classes=("a", "b", "c"))
    points = operating_points(thresholds, logits, labels, classes=("a", "b", "c"))
    assert points == operating_points(divided, logits / 3, labels, classes=("a", "b", "c"))
    assert [point["specificity"] >= point["specificity_wanted"] for point in points] == [True] * 3


def test_nothing_to_count_is_none():
    thresholds = choose_thresholds(binary([0, 1]), np.array([0, 1]), tasks={"sick": ("sick",)}, classes=CLASSES)
    point = operating_points(thresholds[:1], binary([0, 1]), np.array([1, 1]), classes=CLASSES, groups=np.arange(2))[0]
    assert (point["specificity"], point["specificity_interval"], point["auroc"]) == (None, None, None)
    assert point["sensitivity"] == 0.5
    assert point["n_negative"] == 0


def test_no_negatives_in_validation_no_threshold():
    tasks = {"sick": ("sick",), "healthy": ("healthy",)}
    found = choose_thresholds(binary([0, 1]), np.array([1, 1]), tasks=tasks, classes=CLASSES, specificities=[0.9])
    assert [threshold.task for threshold in found] == ["healthy"]


@pytest.mark.parametrize("positives", [(), ("dead",), CLASSES])
def test_positives_are_some_of_the_classes(positives):
    with pytest.raises(ValueError, match="some, not all"):
        task_scores(binary([0.0]), positives, CLASSES)


@pytest.mark.parametrize(
    ("scores", "wanted", "message"), [([1.0], 0.0, "above 0"), ([1.0], 1.1, "at most 1"), ([], 0.9, "negative images")]
)
def test_wrong_thresholds(scores, wanted, message):
    with pytest.raises(ValueError, match=message):
        threshold_at(np.array(scores), np.zeros(len(scores), dtype=bool), wanted)


def test_logits_must_fit_and_be_finite():
    for wrong in (np.zeros((2, 3)), np.zeros(2), np.array([[0.0, -np.inf]])):
        with pytest.raises(ValueError, match="must be finite and"):
            task_scores(wrong, ("sick",), CLASSES)


def test_tasks_of_datasets(tmp_path):
    ham = tasks_of(load_table(f"ham10000:{make_ham(tmp_path / 'ham')}"))
    assert ham == {"melanoma": ("mel",), "malignant": ("akiec", "bcc", "mel")}
    assert set(ham["malignant"]) < set(HAM_CLASSES)
    assert tasks_of(load_table("synthetic:50")) == {}
    for flag, tasks in MEDMNIST_TASKS.items():
        assert all(set(positives) < set(MEDMNIST_CLASSES[flag]) for positives in tasks.values())


@pytest.mark.parametrize(
    ("flag", "tasks"),
    [
        ("pneumoniamnist", {"pneumonia": ("pneumonia",)}),
        ("breastmnist", {"malignant": ("malignant",)}),  # the first of its two classes
        ("retinamnist", {}),
    ],
)
def test_tasks_of_medmnist(tmp_path, flag, tasks):
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.zeros((4, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array([[0], [1], [0], [1]])
    np.savez(tmp_path / "x.npz", **arrays)
    assert tasks_of(load_table(f"medmnist:{flag}:{tmp_path / 'x.npz'}")) == tasks
