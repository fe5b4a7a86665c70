"""Subgroups compared within class, on cases computed by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from dpaat.evaluation.means import recall_interval
from dpaat.evaluation.subgroups import excess_accuracy, subgroups

CLASSES = ("easy", "hard")


def images(cells: list[tuple[str, int, int, int]]) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Frame, verdicts, labels and groups from (site, class, right, wrong); every image a group of its own."""
    rows = [(site, k, i < right) for site, k, right, wrong in cells for i in range(right + wrong)]
    site, labels, correct = zip(*rows, strict=True)
    return pd.DataFrame({"site": site}), np.array(correct), np.array(labels), np.arange(len(rows)).astype(str)


def test_a_harder_mix_of_classes_is_no_excess():
    # Recall is 0.9 and 0.4 at both sites; the foot merely has more of the hard class.
    case = images([("back", 0, 90, 10), ("back", 1, 4, 6), ("foot", 0, 18, 2), ("foot", 1, 40, 60)])
    sites = subgroups(*case, CLASSES)["site"]
    assert sites["foot"]["accuracy"] == pytest.approx(58 / 120)
    assert sites["back"]["accuracy"] == pytest.approx(94 / 110)
    for found in sites.values():
        assert found["excess"] == pytest.approx(0, abs=1e-12)
        low, high = found["excess_interval"]
        assert low < 0 < high


def test_excess_by_hand():
    # Recall of the class over all images is 1/2, at the foot 1/4.
    frame, correct, labels, groups = images([("back", 0, 15, 5), ("foot", 0, 5, 15)])
    excess, interval = excess_accuracy((frame["site"] == "foot").to_numpy(), correct, labels, groups)
    assert excess == pytest.approx(-0.25)
    # 40 images of weight 1/2 either way, residuals 1/2: 40 squares of 1/16 over 20 images.
    deviation = np.sqrt(20 / 19 * 40 / 16) / 20
    assert interval == pytest.approx([-0.25 - 2.093024 * deviation, -0.25 + 2.093024 * deviation], abs=1e-5)


def test_images_of_one_group_count_as_one():
    frame, correct, labels, groups = images([("back", 0, 40, 40), ("foot", 0, 20, 20)])
    member = (frame["site"] == "foot").to_numpy()
    order = np.argsort(correct, kind="stable")
    pairs = np.empty(len(order), dtype=int)
    pairs[order] = np.arange(len(order)) // 2  # two images of the same verdict
    single = excess_accuracy(member, correct, labels, groups)[1]
    paired = excess_accuracy(member, correct, labels, pairs)[1]
    expected = np.sqrt(2) * 2.093024 / 2.022691 * np.sqrt(20 / 19 * 39 / 40)
    assert (paired[1] - paired[0]) / (single[1] - single[0]) == pytest.approx(expected, abs=1e-4)


def test_interval_covers_the_true_excess():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 60])
    member = rng.random(360) < 0.15
    lesion = np.arange(360) // 2
    chance = np.where(labels == 0, 0.9, 0.5) - 0.2 * member
    recall = np.array([chance[labels == k].mean() for k in (0, 1)])
    true = (chance - recall[labels])[member].mean()
    hits = 0
    for _ in range(400):
        correct = rng.random(180)[lesion] < chance
        low, high = excess_accuracy(member, correct, labels, lesion)[1]
        hits += low <= true <= high
    assert 0.91 <= hits / 400 <= 0.99


@pytest.mark.parametrize("n", [10, 30])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("rates", [(0.05, 0.05, 0.05), (0.95, 0.95, 0.95), (0.08, 0.02, 0.02)])
def test_interval_holds_no_difference_where_recalls_are_near_0_or_1(rates, size, n):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [600, 140, 60])
    groups = np.arange(800) // size
    hits = []
    for _ in range(400):
        drawn = rng.choice(800 // size, n // size, replace=False)
        correct = (rng.random(800)[groups * size]) < np.array(rates)[labels]
        excess, interval = excess_accuracy(np.isin(groups, drawn), correct, labels, groups)
        low, high = interval or (excess, excess)
        hits.append(low <= 0 <= high)
    assert np.mean(hits) >= 0.93


@pytest.mark.parametrize("rate", [0.03, 0.97])
def test_interval_of_several_labels_holds_no_difference(rate):
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 3)) < 0.3).astype(np.int8)
    hits = []
    for _ in range(300):
        member = np.isin(np.arange(600), rng.choice(600, 12, replace=False))
        low, high = excess_accuracy(member, rng.random((600, 3)) < rate, labels, np.arange(600))[1]
        hits.append(low <= 0 <= high)
    assert np.mean(hits) >= 0.93


@pytest.mark.parametrize(
    "cells",
    [
        [("back", 0, 30, 0), ("foot", 0, 20, 0)],
        [("back", 0, 0, 30), ("foot", 0, 0, 20)],
        [("back", 0, 10, 20), ("foot", 1, 10, 10)],  # no class stands at both sites
    ],
)
def test_nothing_to_compare_has_no_interval(cells):
    for found in subgroups(*images(cells), CLASSES)["site"].values():
        assert found["excess"] == pytest.approx(0, abs=1e-12)
        assert found["excess_interval"] is None


def test_one_group_has_no_interval():
    frame, correct, labels, groups = images([("back", 0, 15, 15), ("foot", 0, 4, 8)])
    groups[30:] = "one"
    assert subgroups(frame, correct, labels, groups, CLASSES)["site"]["foot"]["excess_interval"] is None


def test_recalls_per_class_and_their_intervals():
    frame, correct, labels, _ = images([("back", 0, 6, 2), ("back", 2, 1, 3), ("foot", 1, 3, 17)])
    groups = np.arange(32) // 2
    found = subgroups(frame, correct, labels, groups, ("a", "b", "c"))["site"]
    assert found["back"]["n"] == 12
    per_class = found["back"]["per_class"]
    assert list(per_class) == ["a", "c"]
    assert (per_class["a"]["n"], per_class["a"]["recall"]) == (8, 0.75)
    assert (per_class["c"]["n"], per_class["c"]["recall"]) == (4, 0.25)
    assert per_class["c"]["interval"] == list(recall_interval(correct[8:12], groups[8:12]))


def test_few_images_are_counted_only():
    found = subgroups(*images([("back", 0, 20, 5), ("foot", 0, 5, 4), ("hand", 0, 5, 5)]), CLASSES)["site"]
    assert found["foot"] == {"n": 9}
    assert found["hand"]["accuracy"] == 0.5


def test_age_bands_and_missing_values():
    ages = [0, 29.9, 30, 44, 45, 59, 60, 74, 75, 120, np.nan, None, -1, np.inf]
    frame = pd.DataFrame(
        {
            "source": ["x", None, "", " ", np.nan, "unknown", *["y"] * 8],
            "age": ages,
            "id": range(14),
        }
    )
    verdicts = np.arange(14) % 2 == 0
    found = subgroups(frame, verdicts, np.zeros(14, dtype=int), np.arange(14), CLASSES)
    assert list(found) == ["age", "source"]
    expected = {"0-29": 2, "30-44": 2, "45-59": 2, "60-74": 2, "75+": 2, "unknown": 4}
    assert {name: each["n"] for name, each in found["age"].items()} == expected
    assert {name: each["n"] for name, each in found["source"].items()} == {"x": 1, "y": 8, "unknown": 5}
    assert list(found["age"]) == list(expected)
    assert list(found["source"]) == ["x", "y", "unknown"]


def test_ages_all_missing():
    frame = pd.DataFrame({"age": [np.nan] * 12})
    found = subgroups(frame, np.arange(12) % 2 == 0, np.zeros(12, dtype=int), np.arange(12), CLASSES)
    assert found["age"]["unknown"]["accuracy"] == 0.5


def test_order_of_rows_changes_nothing_and_json_takes_it():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"age": rng.choice([20, 50, np.nan], 200), "sex": rng.choice(["male", "female"], 200), "site": "back"}
    )
    correct, labels, groups = rng.random(200) < 0.6, rng.integers(2, size=200), rng.integers(120, size=200)
    found = subgroups(frame, correct, labels, groups, CLASSES)
    turned = rng.permutation(200)
    shuffled = subgroups(frame.iloc[turned], correct[turned], labels[turned], groups[turned], CLASSES)
    text, other = (json.dumps(each, allow_nan=False) for each in (found, shuffled))
    assert [*found["sex"]] == [*shuffled["sex"]] == ["female", "male"]
    assert json.loads(text)["age"]["45-59"]["per_class"] == json.loads(other)["age"]["45-59"]["per_class"]
    assert found["sex"]["male"]["excess"] == pytest.approx(shuffled["sex"]["male"]["excess"])


def test_lengths_must_agree():
    frame, correct, labels, groups = images([("back", 0, 3, 3)])
    with pytest.raises(ValueError, match="6 rows, 5 verdicts"):
        subgroups(frame, correct[:5], labels, groups, CLASSES)
