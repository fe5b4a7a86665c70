import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from dpaat.errors import UserError
from dpaat.evaluation.labels import label_metrics
from dpaat.evaluation.metrics import (
    calibration_error,
    classification_metrics,
    constant_predictor,
    curve_area,
    require_labels,
    verdict_metrics,
)


def _random(n: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    labels[:k] = torch.arange(k)
    logits = torch.randn(n, k, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), labels] += 1
    return logits.softmax(1), labels


@pytest.mark.parametrize("k", [2, 3, 7, 100])
def test_agrees_with_scikit_learn(k: int) -> None:
    probabilities, labels = _random(400, k)
    metrics = classification_metrics(probabilities, labels, [f"c{i}" for i in range(k)])
    predicted = probabilities.argmax(1).numpy()
    one_hot = np.eye(k)[labels]
    assert metrics["accuracy"] == pytest.approx((predicted == labels.numpy()).mean(), abs=1e-6)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-6)
    assert metrics["map"] == pytest.approx(average_precision_score(one_hot, probabilities, average="macro"), abs=1e-6)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(one_hot, probabilities, average="macro"), abs=1e-6)
    assert metrics["absent"] == []
    assert sum(metrics["support"].values()) == 400


def test_two_classes_give_the_usual_binary_auroc() -> None:
    probabilities, labels = _random(300, 2)
    metrics = classification_metrics(probabilities, labels, ["normal", "pneumonia"])
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, probabilities[:, 1]), abs=1e-6)


def test_absent_classes_are_named_and_do_not_count() -> None:
    probabilities, labels = _random(200, 4)
    keep = labels != 2
    metrics = classification_metrics(probabilities[keep], labels[keep], ["a", "b", "c", "d"])
    assert metrics["absent"] == ["c"]
    assert metrics["per_class_recall"]["c"] is None
    assert metrics["support"]["c"] == 0
    present = [0, 1, 3]
    one_hot = np.eye(4)[labels[keep]][:, present]
    expected = average_precision_score(one_hot, probabilities[keep][:, present], average="macro")
    assert metrics["map"] == pytest.approx(expected, abs=1e-6)
    recalls = [r for r in metrics["per_class_recall"].values() if r is not None]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_one_class_only_has_no_auroc() -> None:
    metrics = classification_metrics(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]), ["a", "b"])
    assert metrics["auroc"] is None
    assert metrics["balanced_accuracy"] == 0.5


def test_confident_predictions_keep_their_ranking() -> None:
    logits = torch.tensor([[0.0, 20.0], [0.0, 30.0], [0.0, 25.0], [0.0, 22.0]])
    labels = torch.tensor([0, 1, 1, 0])
    assert classification_metrics(logits.double().softmax(1), labels, ["a", "b"])["auroc"] == 1.0


def test_constant_predictor_scores_its_share() -> None:
    labels = torch.tensor([1] * 6 + [0] * 3 + [2])
    metrics = constant_predictor(labels, ["a", "nv", "c"], "nv")
    assert metrics["accuracy"] == pytest.approx(0.6)
    assert metrics["balanced_accuracy"] == pytest.approx(1 / 3)
    assert metrics["map"] == pytest.approx(1 / 3)
    assert metrics["auroc"] == pytest.approx(0.5)
    with pytest.raises(UserError, match="'x' is not among"):
        constant_predictor(labels, ["a", "nv", "c"], "x")


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.full((3, 2), float("nan")), torch.tensor([0, 1, 0]), "NaN or infinite outputs for 3 of 3 images"),
        (torch.rand(3, 5), torch.tensor([0, 1, 0]), "2 classes need"),
        (torch.rand(3), torch.tensor([0, 1, 0]), "2 classes need"),
        (torch.rand(3, 2), torch.tensor([0, 1]), "3 images but labels"),
        (torch.rand(3, 2), torch.tensor([0, 2, -1]), r"label 2 is outside 0 to 1 \(2 such"),
        (torch.rand(3, 2), torch.tensor([0.0, 1.0, 0.5]), "whole numbers, class 0 to 1"),
        (torch.rand(0, 2), torch.zeros(0, dtype=torch.long), "no images"),
    ],
)
def test_bad_input_is_one_line(probabilities: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        classification_metrics(probabilities, labels, ["a", "b"])
    assert "\n" not in str(caught.value)


def test_verdicts_score_as_predictions_do_and_rank_nothing() -> None:
    probabilities, labels = _random(300, 4)
    keep = labels != 1
    scored = classification_metrics(probabilities[keep], labels[keep], ["a", "b", "c", "d"])
    verdicts = verdict_metrics(probabilities[keep].argmax(1), labels[keep], ["a", "b", "c", "d"])
    assert verdicts == {**scored, "map": None, "auroc": None, "ece": None}
    assert scored["map"] is not None
    assert scored["ece"] is not None


def test_verdicts_by_hand() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    metrics = verdict_metrics(predicted, labels, ["a", "b", "c"])
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["balanced_accuracy"] == pytest.approx((0.75 + 0.5) / 2)
    assert metrics["per_class_recall"] == {"a": 0.75, "b": 0.5, "c": None}
    assert metrics["support"] == {"a": 4, "b": 2, "c": 0}
    assert metrics["absent"] == ["c"]
    for wrong in (torch.tensor([0, 0, 0, 1, 1, 3]), torch.tensor([0, 0, 0, 1, 1, -1]), predicted[:, None]):
        with pytest.raises(ValueError, match="6 classes from 0 to 2"):
            verdict_metrics(wrong, labels, ["a", "b", "c"])
    with pytest.raises(UserError, match="no images"):
        verdict_metrics(predicted[:0], labels[:0], ["a", "b", "c"])
    with pytest.raises(UserError, match="5 images but labels"):
        require_labels(labels, 5, 3)


def test_no_score_of_a_perfect_ranking_is_above_1() -> None:
    rng, classes = np.random.default_rng(0), ["a", "b"]
    for n in range(5, 305):
        y = rng.random(n) < rng.uniform(0.1, 0.9)
        y[:2] = True, False
        score = (y + 0.9 * rng.random(n)) / 2
        both, labels = np.stack([1 - score, score], axis=1), np.stack([~y, y], axis=1).astype(np.int8)
        of_images = classification_metrics(torch.from_numpy(both), torch.from_numpy(y.astype(np.int64)), classes)
        of_labels = label_metrics(both > 0.5, labels, classes, both)
        assert of_images["map"] == pytest.approx(1, abs=1e-6)
        eps = [0.0, *np.sort(rng.uniform(0.01, 1, 4)).tolist()]
        found = [of_images["map"], of_images["auroc"], of_labels["map"], of_labels["auroc"], of_images["ece"]]
        found += [each[name] for each in of_labels["per_label"].values() for name in ("ap", "auroc")]
        found += [curve_area(eps, [share] * 5) / share for share in (1.0, 0.7)]
        assert max(found) <= 1, (n, found)


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: 0.68 and 0.72 share [10/15, 11/15), 0.76 stands alone.
    confidence = torch.tensor([0.68, 0.72, 0.76], dtype=torch.float64)
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    error = calibration_error(probabilities, torch.tensor([0, 1, 0]))
    assert error == pytest.approx((2 * abs(0.5 - 0.70) + abs(1 - 0.76)) / 3, abs=1e-6)


def test_certain_predictions_share_the_last_bin() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.95, 0.05]], dtype=torch.float64)
    assert calibration_error(probabilities, torch.tensor([1, 0])) == pytest.approx(abs(0.5 - 0.975), abs=1e-6)


def test_constant_predictor_is_certain_and_wrong() -> None:
    assert constant_predictor(torch.tensor([0, 0, 0, 1]), ["a", "b"], "a")["ece"] == pytest.approx(0.25, abs=1e-6)


def test_curve_area_by_hand() -> None:
    assert curve_area([0, 1, 2, 4], [0.8, 0.6, 0.4, 0.0]) == pytest.approx((0.7 + 0.5 + 2 * 0.2) / 4)
    assert curve_area([0, 1 / 255, 8 / 255], [0.3, 0.3, 0.3]) == pytest.approx(0.3)
    assert curve_area([0], [0.6]) == 0.6


@pytest.mark.parametrize(
    ("eps", "values"),
    [([], []), ([1, 2], [0.5, 0.4]), ([0, 2, 1], [1, 1, 1]), ([0, 1, 1], [1, 1, 1]), ([0, 1], [1])],
)
def test_a_curve_starts_at_zero_and_ascends(eps: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending radii from 0"):
        curve_area(eps, values)
