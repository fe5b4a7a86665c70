import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional.classification import binary_average_precision

from dpaat.evaluation.means import design_effect, recall_interval
from dpaat.evaluation.metrics import classification_metrics
from dpaat.evaluation.replicates import Predictions
from dpaat.evaluation.resampling import find_clusters, leave_out_precision, merge_clusters, recall_moments
from dpaat.evaluation.statistics import few_runs, holm, intervals, paired_difference, pooled_intervals

CLASSES = ("a", "b", "c")
LESIONS = (12, 30, 60)
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def images_of(lesions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of lesions with one, two and three images in turn."""
    labels = np.repeat(np.arange(len(lesions)), lesions)
    sizes = np.arange(len(labels)) % 3 + 1
    return np.repeat(labels, sizes), np.repeat(np.arange(len(labels)), sizes)


def make_run(seed: int, *, shift: float = 1.0, fold: int = 0, lesions: Sequence[int] = LESIONS) -> Predictions:
    """Gaussian logits with a part that the images of a lesion share."""
    labels, groups = images_of(lesions)
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((len(labels), 3)) + rng.standard_normal((sum(lesions), 3))[groups]
    logits[np.arange(len(labels)), labels] += shift
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = np.array([f"{fold}-{i}" for i in range(len(labels))])
    return Predictions(ids, labels, groups + 1000 * fold, logits.argmax(axis=1), probabilities, CLASSES)


def scores_of(run: Predictions) -> dict[str, float]:
    assert run.probabilities is not None
    metrics = classification_metrics(torch.from_numpy(run.probabilities), torch.from_numpy(run.labels), CLASSES)
    return {name: metrics[name] for name in ("accuracy", "balanced_accuracy", "map")}


def torch_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    return float(binary_average_precision(torch.from_numpy(scores), torch.from_numpy(positive).long()))


@pytest.mark.parametrize("decimals", [1, 8], ids=["ties", "no ties"])
@pytest.mark.parametrize("target", [0, 2])
def test_precision_without_a_lesion_is_that_of_repeated_rows(target, decimals):
    run = make_run(0, lesions=(3, 4, 5))
    assert run.probabilities is not None
    scores = run.probabilities[:, target].round(decimals)
    clusters = find_clusters(run.labels, run.groups)
    found = leave_out_precision(scores, run.labels, target, clusters)
    assert found[0] == pytest.approx(torch_precision(scores, run.labels == target), abs=1e-6)
    for block, k in enumerate(clusters.label):
        left_out = clusters.index == block
        same_class = run.labels == k
        # The rest of the class is weighted up by n / (n - m): n copies of it, n - m of all others.
        times = np.where(same_class, same_class.sum(), same_class.sum() - left_out.sum()) * ~left_out
        expected = torch_precision(np.repeat(scores, times), np.repeat(run.labels == target, times))
        assert found[1 + block] == pytest.approx(expected, abs=1e-6)


def test_lesions_of_a_large_class_are_left_out_in_blocks():
    labels, groups = images_of(LESIONS)
    blocks = merge_clusters(find_clusters(labels, groups), limit=20)
    assert blocks.per_class(3).tolist() == [12, 20, 20]
    for group in np.unique(groups):
        assert len(np.unique(blocks.index[groups == group])) == 1
    assert all(len(np.unique(labels[blocks.index == block])) == 1 for block in range(52))


def test_a_group_with_two_classes_is_two_clusters():
    clusters = find_clusters(np.array([0, 1, 0, 1]), np.array(["x", "x", "y", "x"]))
    assert clusters.label.tolist() == [0, 1, 0]
    assert clusters.size.tolist() == [1, 2, 1]


def test_variance_of_a_recall_by_hand():
    values, groups = np.array([1.0, 0, 1, 1]), np.array([0, 1, 2, 2])
    clusters = find_clusters(np.zeros(4, dtype=int), groups)
    moments = recall_moments(values, clusters, np.array([1.0]), 0.0, paired=True)
    # r = 3/4; moves (1 - r, 0 - r, 2 - 2r) / 4 = (1, -3, 2) / 16; G / (G - 1) = 3/2
    assert moments.value == 0.75
    assert moments.variance == pytest.approx(14 / 256 * 3 / 2)
    smoothed = recall_moments(values, clusters, np.array([1.0]), 0.3, paired=False)
    # Two lesions of 4/3 images weigh 0.3 each, one of them right.
    assert smoothed.center == pytest.approx((3 + 0.4) / (4 + 0.8))


@pytest.mark.parametrize("right", [0, 3, 20])
def test_recall_of_independent_images_has_the_jeffreys_interval(right):
    correct = np.arange(20) < right
    low, high = recall_interval(correct, np.arange(20))
    expected = stats.beta.ppf([0.025, 0.975], right + 0.5, 20 - right + 0.5)
    assert low == pytest.approx(0.0 if right == 0 else expected[0])
    assert high == pytest.approx(1.0 if right == 20 else expected[1])


def test_design_effect_by_hand():
    pairs = np.array([0, 0, 1, 1, 2, 2])
    assert design_effect(np.array([1, 1, 0, 0, 1, 1]), pairs) == pytest.approx(2.0)
    assert design_effect(np.array([1, 0, 0, 1, 1, 0]), pairs) == pytest.approx(1.0)
    # between = 1/2, within = 1/6, rho = (1/2 - 1/6) / (1/2 + 1/6)
    assert design_effect(np.array([1, 1, 0, 0, 1, 0]), pairs) == pytest.approx(1.5)
    assert design_effect(np.ones(6), pairs) == pytest.approx(2.0)
    assert design_effect(np.array([1, 0, 1]), np.arange(3)) == pytest.approx(1.0)


def test_clustered_images_give_a_wider_interval():
    correct = np.repeat([1, 0, 1, 1, 0, 1, 0, 1], 3)
    alone, clustered = recall_interval(correct, np.arange(24)), recall_interval(correct, np.repeat(np.arange(8), 3))
    assert clustered == pytest.approx(recall_interval(correct[::3], np.arange(8)))
    assert clustered[0] < alone[0]
    assert clustered[1] > alone[1]


def test_intervals_hold_the_metrics_and_are_json():
    run = make_run(1)
    assert run.probabilities is not None
    found = intervals(run.predicted, run.probabilities, run.labels, run.groups, CLASSES)
    metrics = classification_metrics(torch.from_numpy(run.probabilities), torch.from_numpy(run.labels), CLASSES)
    for name in ("accuracy", "balanced_accuracy", "map"):
        low, high = found[name]
        assert 0 < low < metrics[name] < high < 1
    for name, (low, high) in found["per_class_recall"].items():
        assert low < metrics["per_class_recall"][name] < high
    assert json.loads(json.dumps(found)) == found
    narrow = pooled_intervals([run], level=0.5)
    assert narrow["map"]["interval"][0] > found["map"][0]


def test_verdicts_alone_and_absent_classes():
    run = make_run(2, lesions=(0, 40, 150))
    found = intervals(run.predicted, None, run.labels, run.groups, CLASSES)
    assert found["map"] is None
    assert found["per_class_recall"]["a"] is None
    scores = pooled_intervals([run])
    for name, score in scores_of(run).items():
        assert scores[name]["value"] == pytest.approx(score, abs=1e-6)


def test_a_perfect_model_is_not_known_to_be_perfect():
    run = make_run(3, shift=100.0)
    scores = pooled_intervals([run])
    for score in scores.values():
        assert score["interval"][1] == score["value"] == 1.0
        assert 0.8 < score["interval"][0] < 0.999


def test_a_class_of_one_lesion_leaves_much_open():
    low, high = pooled_intervals([make_run(4, lesions=(1, 100, 100))])["balanced_accuracy"]["interval"]
    assert high - low > 0.5


def test_a_class_of_one_lesion_leaves_no_more_open_than_its_recall_does():
    labels = np.repeat([0, 1, 2], [1, 50, 50])
    correct = np.arange(101) == 1  # one image of all
    predicted = np.where(correct, labels, (labels + 1) % 3)
    found = intervals(predicted, None, labels, np.arange(101), ["a", "b", "c"])
    low, high = np.mean(list(found["per_class_recall"].values()), axis=0)
    assert found["balanced_accuracy"][1] == pytest.approx(high)
    assert low <= found["balanced_accuracy"][0] < 0.02
    assert high < 0.4
    weights = np.array([1, 50, 50]) / 101
    assert found["accuracy"][1] <= weights @ np.array(list(found["per_class_recall"].values()))[:, 1] + 1e-12


def test_a_run_compared_with_itself_gives_exactly_0():
    runs = [make_run(seed, fold=fold) for fold in range(2) for seed in (5, 6)]
    for chosen in (runs[:1], runs[:2], runs):
        found = paired_difference(chosen, chosen)
        assert set(found) == {"accuracy", "balanced_accuracy", "map"}
        for difference in found.values():
            assert difference["difference"] == 0
            assert difference["interval"] == [0, 0]
            assert difference["p_value"] == 1


def test_differences_change_sign_with_the_order():
    good, bad = make_run(7, shift=3.0), make_run(8, shift=0.5)
    there, back = paired_difference([good], [bad]), paired_difference([bad], [good])
    for name, found in there.items():
        assert found["difference"] == pytest.approx(found["first"]["value"] - found["second"]["value"])
        assert found["interval"][0] > 0
        assert found["p_value"] < 0.001
        assert back[name]["interval"] == pytest.approx([-end for end in reversed(found["interval"])])
        assert back[name]["p_value"] == pytest.approx(found["p_value"])


def test_p_value_and_interval_agree():
    one, other = make_run(9, shift=1.2), make_run(10)
    p_value = paired_difference([one], [other])["balanced_accuracy"]["p_value"]
    assert 0.001 < p_value < 0.999
    low, high = paired_difference([one], [other], level=1 - p_value)["balanced_accuracy"]["interval"]
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)


def test_folds_are_pooled_and_their_precision_averaged():
    folds = [make_run(seed, fold=seed, lesions=lesions) for seed, lesions in enumerate([(5, 20, 60), (9, 30, 60)])]
    labels = np.concatenate([run.labels for run in folds])
    correct = np.concatenate([run.predicted == run.labels for run in folds])
    scores = pooled_intervals(folds)
    assert scores["accuracy"]["value"] == pytest.approx(correct.mean())
    recalls = [correct[labels == k].mean() for k in range(3)]
    assert scores["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))
    single = [pooled_intervals([run])["map"]["value"] for run in folds]
    assert scores["map"]["value"] == pytest.approx(np.mean(single))


def test_seeds_are_averaged_and_their_spread_counts():
    weak, strong = make_run(11, shift=0.0), make_run(12, shift=3.0)
    alone, twice, both = (pooled_intervals(runs) for runs in ([weak], [weak, weak], [weak, strong]))
    for name, score in both.items():
        assert twice[name]["interval"] == pytest.approx(alone[name]["interval"])
        assert score["value"] == pytest.approx((alone[name]["value"] + pooled_intervals([strong])[name]["value"]) / 2)
        assert score["interval"][1] - score["interval"][0] > 0.5


def test_runs_that_do_not_fit_together():
    run = make_run(13)
    with pytest.raises(ValueError, match="same images"):
        paired_difference([run], [make_run(13, fold=1)])
    part = Predictions(run.ids[:9], run.labels[:9], run.groups[:9], run.predicted[:9], None, CLASSES)
    with pytest.raises(ValueError, match="or none"):
        pooled_intervals([run, part])
    with pytest.raises(ValueError, match="no runs"):
        pooled_intervals([])
    with pytest.raises(ValueError, match="between 0 and 1"):
        Predictions(run.ids, run.labels, run.groups, run.predicted, None, CLASSES[:2])
    with pytest.raises(ValueError, match="one length"):
        recall_interval(np.ones(3), np.arange(2))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("replicates", "scenarios"),
    [
        ([(None, 0), (None, 1)], ("typical, 2 seeds", "typical, 2 seeds, very noisy training")),
        ([("1/3", 0), ("2/3", 0), ("3/3", 0)], ("typical, 3 folds, noisy training",)),
    ],
)
def test_too_short_intervals_of_few_runs_are_spoken_of_as_measured(replicates, scenarios):
    files = ("interval-coverage", "interval-coverage-replicates")
    entries = [e for f in files for e in json.loads((RESULTS / f"{f}.json").read_text())["limits"]]
    found = [each["coverage"] for each in entries if each["scenario"]["name"] in scenarios]
    shares = [100 * share for metrics in found for sides in metrics.values() for share in sides.values()]
    assert f"{math.floor(min(shares))} to {math.ceil(max(shares))} %" in few_runs(replicates)


@pytest.mark.parametrize(
    "replicates",
    [
        [(None, 0)],
        [(None, 0), (None, 1), (None, 2)],
        [(f"{fold}/3", seed) for fold in (1, 2, 3) for seed in (0, 1)],
        [(f"{fold}/5", 0) for fold in range(1, 6)],
    ],
)
def test_nothing_is_said_of_runs_whose_intervals_hold(replicates):
    assert few_runs(replicates) is None


def test_coverage():
    """A short form of `benchmarks/interval_coverage.py`, on a set as small and uneven."""
    truth = [
        scores_of(make_run(seed, shift=shift, lesions=[200 * n for n in LESIONS]))
        for seed, shift in enumerate((1.5, 2))
    ]
    hits: dict[str, list[bool]] = {}
    for draw in range(200):
        first, second = make_run(2 * draw, shift=1.5), make_run(2 * draw + 1, shift=2.0)
        for name, found in paired_difference([first], [second]).items():
            low, high = found["first"]["interval"]
            hits.setdefault(name, []).append(low <= truth[0][name] <= high)
            low, high = found["interval"]
            hits.setdefault(f"difference of {name}", []).append(low <= truth[0][name] - truth[1][name] <= high)
    assert len(hits) == 6
    for name, outcomes in hits.items():
        assert 0.9 <= np.mean(outcomes) <= 0.99, name
