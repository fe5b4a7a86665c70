"""Temperature scaling, against planted temperatures and hand-computed errors."""

import json
import math

import numpy as np
import pytest

from dpaat.evaluation.clinical import calibration, fit_temperature, log_probabilities


def planted(temperature: float, *, n: int = 20_000, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated once divided by `temperature`."""
    rng = np.random.default_rng(seed)
    calibrated = 1.5 * rng.standard_normal((n, k))
    labels = (calibrated + rng.gumbel(size=(n, k))).argmax(1)  # draws from softmax(calibrated)
    return temperature * calibrated, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_planted_temperature_is_recovered(temperature):
    logits, labels = planted(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_scaling_mends_overconfidence():
    logits, labels = planted(3.0)
    found = calibration(logits, labels, fit_temperature(logits, labels))
    assert found["ece"] > 0.15
    assert found["ece_scaled"] < 0.02
    assert found["nll_scaled"] < found["nll"]


@pytest.mark.parametrize("step", [0.99, 1.01])
def test_no_neighbour_is_likelier(step):
    logits, labels = planted(1.7, n=300)
    fitted = fit_temperature(logits, labels)
    here = calibration(logits, labels, fitted)["nll_scaled"]
    assert here < calibration(logits, labels, fitted * step)["nll_scaled"]


def test_stored_probabilities_do_as_well_as_logits():
    logits, labels = planted(1.7, n=300)
    stored = log_probabilities(softmax(logits + 5.0))
    assert fit_temperature(stored, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-5)
    assert calibration(stored, labels, 1.7) == pytest.approx(calibration(logits, labels, 1.7), abs=1e-6)


def test_errors_by_hand():
    # Probabilities 3/4 and 1/4 at T = 1; dividing the logits (log 3, 0) by 1/2 makes them 9/10 and 1/10.
    logits, labels = np.array([[math.log(3), 0.0]] * 4), np.array([0, 0, 0, 1])
    found = calibration(logits, labels, 0.5)
    assert found["temperature"] == 0.5
    assert found["ece"] == pytest.approx(0.0, abs=1e-6)
    assert found["ece_scaled"] == pytest.approx(0.15, abs=1e-6)
    assert found["nll"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
    assert found["nll_scaled"] == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)
    assert fit_temperature(logits, labels) == pytest.approx(1.0, rel=1e-4)


def test_no_minimum_inside_ends_near_an_end():
    logits = np.array([[4.0, 0.0], [0.0, 4.0], [3.0, 0.0]])
    assert fit_temperature(logits, np.array([0, 1, 0])) < 0.5  # never wrong: any smaller temperature is likelier
    assert fit_temperature(logits, np.array([1, 0, 1])) == pytest.approx(20.0, rel=1e-3)


def test_probabilities_of_zero_stay_finite():
    logits = log_probabilities(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    labels = np.array([0, 1, 1])
    found = calibration(logits, labels, fit_temperature(logits, labels))
    json.dumps(found, allow_nan=False)
    assert found["nll"] == pytest.approx(-math.log(np.finfo(float).tiny) / 3)


@pytest.mark.parametrize(
    ("logits", "labels", "temperature", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, dtype=int), 1.0, "must fit"),
        (np.zeros(3), np.zeros(3, dtype=int), 1.0, "must fit"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), 1.0, "must fit"),
        (np.array([[0.0, -np.inf]]), np.array([0]), 1.0, "finite"),
        (np.zeros((1, 2)), np.array([0]), 0.0, "positive"),
        (np.zeros((1, 2)), np.array([0]), math.nan, "positive"),
    ],
)
def test_wrong_arguments(logits, labels, temperature, message):
    with pytest.raises(ValueError, match=message):
        calibration(logits, labels, temperature)
