"""Areas and fronts from simulated predictions: by hand, against the plain statistics, and by resampling."""

import numpy as np
import pytest

from benchmark_makers import write_grid
from dpaat.benchmark.contrasts import Point, combine, front_contrast
from dpaat.benchmark.document import ALL, summarize
from dpaat.benchmark.grid import Grid, Job, read_grid
from dpaat.benchmark.outcomes import JobOutcome, Outcome, conditions
from dpaat.benchmark.tables import _evidence
from dpaat.evaluation.fronts import pareto_front, upper_hull
from dpaat.evaluation.metrics import area_weights, curve_area
from dpaat.evaluation.replicates import Fold, Predictions, find_fold, find_folds
from dpaat.evaluation.statistics import contrast, fold_scores, paired_difference, pooled_intervals

CLASSES = ("a", "b", "c")
COUNTS = (120, 45, 15)
MODELS = ["test_resnet", {"model": "test_resnet", "stem": "small", "name": "small"}]


def predictions(rates: tuple[float, ...], seed: int, *, fold: int = 0, scored: bool = True) -> Predictions:
    """Images in lesions of three, right with their class's rate, hard ones for all models alike."""
    labels = np.repeat(np.arange(3), COUNTS)
    n = len(labels)
    hardness = np.random.default_rng(fold).normal(size=n) + np.repeat(np.random.default_rng(99).normal(size=n // 3), 3)
    ease = -hardness + 0.7 * np.random.default_rng(seed).normal(size=n)
    right = np.zeros(n, dtype=bool)
    for k, rate in enumerate(rates):
        members = np.flatnonzero(labels == k)
        right[members[np.argsort(-ease[members])[: round(rate * len(members))]]] = True
    predicted = np.where(right, labels, (labels + 1) % 3)
    probabilities = np.random.default_rng(seed + 1000).dirichlet(np.ones(3), n) / 2 + np.eye(3)[predicted] / 2
    return Predictions(
        ids=np.array([f"{fold}-{k:03d}" for k in range(n)]),
        labels=labels,
        groups=np.array([f"{fold}-{k // 3}" for k in range(n)]),
        predicted=predicted,
        probabilities=probabilities if scored else None,
        classes=CLASSES,
    )


def folds_of(*rates: float, seed: int) -> list[Fold]:
    return find_folds([predictions(rates, seed + 10 * fold, fold=fold) for fold in range(2)])


def test_area_weights_are_those_of_the_trapezoid():
    eps, values = [0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255], [0.6, 0.5, 0.35, 0.2, 0.05]
    assert np.dot(area_weights(eps), values) == pytest.approx(curve_area(eps, values))
    assert area_weights([0.0, 0.1]) == pytest.approx([0.5, 0.5])


def test_the_pooled_area_is_the_area_under_the_pooled_curve():
    radii = [2 / 255, 8 / 255]
    clean, outcomes = [], []
    for fold in range(2):
        runs = [
            predictions(rates, 10 * fold + k, fold=fold) for k, rates in enumerate(((0.8,) * 3, (0.6,) * 3, (0.1,) * 3))
        ]
        clean.append(runs[0])
        under = dict(zip(radii, map(find_fold, runs[1:]), strict=True))
        outcomes.append(Outcome(find_fold(runs[0]), under, under))
    found = {
        name: fold_scores(each.folds)[metric]
        for each in conditions(outcomes, radii)
        for metric, name in each.names.items()
    }
    curve = [
        found[name]["value"] for name in ("balanced_accuracy", "balanced_accuracy@2/255", "balanced_accuracy@8/255")
    ]
    assert found["area"]["value"] == pytest.approx(curve_area([0.0, *radii], curve))
    plain = pooled_intervals(clean)
    assert {name: found[name] for name in plain} == plain


def test_a_contrast_is_the_paired_difference():
    first = [predictions((0.8, 0.6, 0.5), 10 * fold, fold=fold) for fold in range(2)]
    second = [predictions((0.7, 0.6, 0.4), 10 * fold + 1, fold=fold) for fold in range(2)]
    plain, one_sided = paired_difference(first, second), paired_difference(first, second, level=0.9)
    for name, found in contrast(find_folds(first), find_folds(second)).items():
        assert found["difference"] == plain[name]["difference"]
        assert found["interval"] == pytest.approx(plain[name]["interval"])
        assert found["p_value"] == plain[name]["p_value"]
        assert found["bound"] == pytest.approx(one_sided[name]["interval"][0])


def test_a_sum_of_outcomes_has_the_sum_of_the_metrics():
    one, other = folds_of(0.8, 0.6, 0.5, seed=0), folds_of(0.7, 0.7, 0.2, seed=1)
    parts = [contrast(each, folds_of(0.5, 0.5, 0.5, seed=2)) for each in (one, other)]
    zero = folds_of(0.5, 0.5, 0.5, seed=2)
    both = contrast(combine([(0.25, one), (0.75, other)]), zero)
    for name in ("accuracy", "balanced_accuracy", "map"):
        expected = 0.25 * parts[0][name]["difference"] + 0.75 * parts[1][name]["difference"]
        assert both[name]["difference"] == pytest.approx(expected)


def test_pareto_front():
    places = {"best": (0.6, 0.1), "beaten": (0.4, 0.25), "low": (0.3, 0.35), "mid": (0.5, 0.3), "same": (0.5, 0.2)}
    assert pareto_front(places) == ["low", "mid", "best"]


def test_the_hull_leaves_out_what_lies_below_a_line_between_two_others():
    places = {"a": (0.2, 0.6), "bend": (0.4, 0.5), "dent": (0.5, 0.25), "dent too": (0.55, 0.21), "b": (0.6, 0.2)}
    assert upper_hull(places) == ["a", "bend", "b"]
    assert upper_hull({"a": (0.2, 0.6), "b": (0.6, 0.2)}) == ["a", "b"]
    on_a_line = {"a": (0.0, 1.0), "middle": (0.5, 0.5), "b": (1.0, 0.0)}
    assert upper_hull(on_a_line) == ["a", "middle", "b"]
    assert upper_hull({"low": (0.3, 0.2), "best": (0.4, 0.4)}) == ["best"]


def points_at(places: dict[str, tuple[float, float]]) -> dict[str, Point]:
    return {
        name: Point(folds_of(x, x, x, seed=k), folds_of(y, y, y, seed=k + 50), "balanced_accuracy")
        for k, (name, (x, y)) in enumerate(places.items())
    }


@pytest.fixture
def sweep() -> dict[str, Point]:
    return points_at({"1": (0.8, 0.3), "2": (0.6, 0.4), "4": (0.4, 0.5)})


@pytest.mark.parametrize(
    ("x", "y", "height", "neighbours"),
    [
        (0.6, 0.6, 0.4, ["2", "1"]),
        (0.8, 0.35, 0.3, ["2", "1"]),
        (0.9, 0.35, 0.3, ["2", "1"]),
        (0.2, 0.45, 0.5, ["4", "2"]),
        (2 / 3, 0.5, 0.4 - 0.1 / 3, ["2", "1"]),
        (0.46666667, 0.4, 0.4 + 0.2 / 3, ["4", "2"]),
    ],
)
def test_the_front_is_taken_at_the_own_clean_score(sweep, x, y, height, neighbours):
    challenger = Point(folds_of(x, x, x, seed=7), folds_of(y, y, y, seed=57), "balanced_accuracy")
    found, against = front_contrast(challenger, sweep)
    assert against == neighbours
    assert found["difference"] == pytest.approx(challenger.place[1] - height, abs=0.02)
    assert found["interval"][0] < found["bound"] <= found["difference"] < found["interval"][1]


def test_a_point_of_the_front_does_not_rise_above_it(sweep):
    found, against = front_contrast(sweep["2"], sweep)
    assert against == ["2", "1"]
    assert found["difference"] == pytest.approx(0)
    assert found["p_value"] == pytest.approx(1)


@pytest.mark.parametrize(("x", "y", "end", "sign"), [(0.81, 0.3, "1", 1), (0.59, 0.75, "4", -1)])
def test_to_stand_outside_of_a_front_is_no_proof(x, y, end, sign):
    """By chance perhaps: to the right the front is lower than to the left of its end, to the left it is higher."""
    points = points_at({"4": (0.6, 0.9), "1": (0.8, 0.1), "ours": (x, y)})
    ours = points.pop("ours")
    found, against = front_contrast(ours, points)
    height = contrast(ours.y, points[end].y)["balanced_accuracy"]
    assert against == ["4", "1"]
    assert found["difference"] == height["difference"]
    assert min(sign * each for each in height["interval"]) > 0 > min(sign * each for each in found["interval"])
    assert found["p_value"] > 0.05 > height["p_value"]
    assert front_contrast(ours, {end: points[end]}) == (height, [end])


def test_a_front_of_one_point_is_no_surer_of_its_end():
    """By chance perhaps the second point is not on the front: ours is far below its end, but not below their line."""
    points = points_at({"4": (0.79, 0.8), "1": (0.78, 0.2), "low": (0.5, 0.1), "ours": (0.785, 0.4)})
    ours = points.pop("ours")
    places = {name: point.place for name, point in points.items()}
    assert upper_hull(places) == ["4"]
    assert places["low"][0] < places["1"][0] < places["4"][0]
    found, against = front_contrast(ours, points)
    height = contrast(ours.y, points["4"].y)["balanced_accuracy"]
    assert against == ["1", "4"]
    assert found["difference"] == height["difference"]
    assert height["p_value"] < 0.001 < 0.05 < found["p_value"]


@pytest.mark.parametrize(("x", "y", "certain"), [(0.77, 0.4, False), (0.6, 0.3, True)])
def test_to_stand_below_a_front_beside_a_bend_is_no_proof(x, y, certain):
    """By chance perhaps: a point of clean score more and the front would be lower than ours."""
    points = points_at({"4": (0.5, 0.9), "1": (0.78, 0.7), "0": (0.8, 0.1), "ours": (x, y)})
    ours = points.pop("ours")
    found, against = front_contrast(ours, points)
    lowest = contrast(ours.y, points.pop("0").y)["balanced_accuracy"]
    flat, same = front_contrast(ours, points)
    assert against == same == ["4", "1"]
    assert (found["difference"], found["bound"]) == (flat["difference"], flat["bound"])
    assert found["interval"][0] == flat["interval"][0] < flat["interval"][1] < 0
    assert flat["p_value"] < 0.001
    assert (found["p_value"] < 0.001) == (found["interval"][1] < 0) == certain
    assert found["interval"][1] <= lowest["interval"][1]


def test_a_point_below_the_hull_is_no_neighbour():
    points = points_at({"4": (0.4, 0.9), "dent": (0.75, 0.15), "1": (0.8, 0.1), "ours": (0.77, 0.5)})
    found, against = front_contrast(points.pop("ours"), points)
    assert against == ["4", "1"]
    assert found["difference"] == pytest.approx(0.5 - (0.9 - 0.37 * 2), abs=0.05)


def test_the_interval_of_a_front_agrees_with_resampled_lesions():
    """One fold, neighbours fixed: the spread of the difference over bootstrap samples of lesions within class."""

    def place(correct: np.ndarray, weights: np.ndarray) -> float:
        return float(np.mean([np.average(correct[labels == k], weights=weights[labels == k]) for k in range(3)]))

    rates = {"a": (0.5, 0.45), "b": (0.75, 0.3), "c": (0.6, 0.5)}
    runs = {
        name: [predictions((value,) * 3, 20 * k + axis) for axis, value in enumerate(values)]
        for k, (name, values) in enumerate(rates.items())
    }
    labels = runs["a"][0].labels
    points = {name: Point(*(find_folds([run]) for run in pair), "balanced_accuracy") for name, pair in runs.items()}
    found, against = front_contrast(points["c"], {name: points[name] for name in "ab"})
    assert against == ["a", "b"]

    rng = np.random.default_rng(0)
    correct = {name: [run.predicted == labels for run in pair] for name, pair in runs.items()}
    lesions = np.arange(len(labels)) // 3
    draws = []
    for _ in range(1000):
        weights = np.zeros(len(labels))
        for k in range(3):
            own = np.unique(lesions[labels == k])
            drawn = np.bincount(rng.choice(own, len(own)), minlength=lesions.max() + 1)
            weights += drawn[lesions] * (labels == k)
        (x_a, y_a), (x_b, y_b), (x_c, y_c) = ([place(each, weights) for each in correct[name]] for name in "abc")
        t = (x_c - x_a) / (x_b - x_a)
        draws.append(y_c - (1 - t) * y_a - t * y_b)
    half = (found["interval"][1] - found["interval"][0]) / 2
    assert half == pytest.approx(1.96 * np.std(draws), rel=0.25)


def outcome_of(cell: Job, grid: Grid, number: int) -> JobOutcome:
    clean, *attacked = (
        find_fold(predictions((0.9, rate, rate + 0.1 * (cell.model == "small")), 7 * number, fold=int(cell.fold[0])))
        for rate in (0.8 if cell.recipe == "standard" else 0.6, 0.4, 0.2)
    )
    at = dict(zip(grid.plans.main.radii, attacked, strict=True))
    return JobOutcome({"seconds_per_epoch": 1.0, "masking": []}, Outcome(clean, at, at), None)


def test_an_unfinished_member_does_not_confine_a_front(tmp_path):
    sweep = {"method": "pgd", "eps": ["2/255", "8/255"]}
    recipes = {"standard": {"method": "standard"}, "pgd": sweep, "free": {"method": "dpaat"}}
    grid = read_grid(write_grid(tmp_path / "grid.yaml", recipes=recipes, data="synthetic:200"))
    outcomes = [(cell, outcome_of(cell, grid, number)) for number, cell in enumerate(grid.cells)]
    partly = [(cell, outcome) for cell, outcome in outcomes if cell.name != "pgd-8-test_resnet-synthetic-200-f2-s0"]
    without = [(cell, outcome) for cell, outcome in outcomes if cell.recipe != "pgd-8"]
    full, part, none = (
        {row["recipe"]: row["fronts"] for row in summarize(grid, each)[0]["rows"]}["free"]["pgd"]
        for each in (outcomes, partly, without)
    )
    assert full["members"] == ["standard", "pgd-2", "pgd-8"]
    assert part["members"] == ["standard", "pgd-2"]
    assert part == none
    planes = ["area", *(f"{metric}@{at}" for metric in ("map", "accuracy") for at in ("2/255", "8/255"))]
    assert list(full["differences"]) == planes  # accuracy is compared as mAP is, each at the same clean metric


def test_a_table_over_all_models_averages_their_differences(tmp_path):
    grid = read_grid(write_grid(tmp_path / "grid.yaml", models=MODELS, data="synthetic:200"))
    finished = [(cell, outcome_of(cell, grid, number)) for number, cell in enumerate(grid.cells)]
    single, other, both = summarize(grid, finished)
    assert [table["model"] for table in (single, other, both)] == ["test_resnet", "small", ALL]
    assert [table["replicates"] for table in (single, other, both)] == [2, 2, 4]
    assert both["n"] == single["n"] == 2 * sum(COUNTS)
    rows = [table["rows"][1] for table in (single, other, both)]
    for metric in ("accuracy", "balanced_accuracy", "map"):
        first, second, pooled = (row["differences"][metric]["difference"] for row in rows)
        assert pooled == pytest.approx((first + second) / 2)
    assert [row["seconds_per_epoch"] for row in rows] == [1.0, 1.0, None]


def test_no_model_counts_more_than_another(tmp_path):
    recipes = {
        "standard": {"method": "standard"},
        "pgd": {"method": "pgd"},
        "own": {"method": "pgd", "models": "small"},
    }
    grid = read_grid(write_grid(tmp_path / "grid.yaml", models=MODELS, recipes=recipes, data="synthetic:200"))
    outcomes = [(cell, outcome_of(cell, grid, number)) for number, cell in enumerate(grid.cells)]
    finished = [(cell, outcome) for cell, outcome in outcomes if cell.name != "pgd-test_resnet-synthetic-200-f2-s0"]
    assert len(finished) == len(outcomes) - 1
    rows = {row["recipe"]: row["cells"] for row in summarize(grid, finished)[-1]["rows"]}
    assert {recipe: len(cells) for recipe, cells in rows.items()} == {"standard": 4, "pgd": 2}
    assert all("-f1-" in cell for cell in rows["pgd"])


def test_a_run_in_two_tables_is_doubted_once():
    doubt = {"cell": "standard-small-f1-s0", "verdict": "masked", "summary": "masked", "evidence": {"steps": "why"}}
    tables = [{"rows": [{"masking": [doubt]}]}, {"rows": [{"masking": [doubt]}]}]
    assert _evidence({"tables": tables}) == ["standard-small-f1-s0: masked; steps: why"]


def test_one_model_has_no_table_over_all(tmp_path):
    grid = read_grid(write_grid(tmp_path / "grid.yaml", models=MODELS, data="synthetic:200"))
    cell = grid.cells[0]
    clean = find_fold(predictions((0.9, 0.8, 0.7), 1))
    at = dict.fromkeys(grid.plans.main.radii, clean)
    outcome = JobOutcome({"seconds_per_epoch": None, "masking": []}, Outcome(clean, at, at), None)
    assert [table["model"] for table in summarize(grid, [(cell, outcome)])] == [cell.model]
