"""The rules of docs/verdict.md on planted outcomes."""

import pytest

from dpaat.evaluation.statistics import few_runs
from dpaat.report.figures import Estimate
from dpaat.report.verdict import Contrast, Findings, verdict

MANY = {"nv": 1300, "mel": 200}


def score(value: float, reach: float = 0.03) -> Estimate:
    return Estimate(value, [value - reach, value + reach])


def gap(value: float, reach: float = 0.03, p: float | None = None) -> dict[str, object]:
    clear = abs(value) > reach
    interval = [value - reach, value + reach]
    return {"difference": value, "interval": interval, "p_adjusted": (0.001 if clear else 0.4) if p is None else p}


def told(clean=None, attacked=None, *, dpaat=None, support=MANY, attack="worst case", constant=0.14) -> dict[str, str]:
    """The box on two runs with the given differences, by what the lines are about."""
    standard = Findings("standard", {"clean": score(0.7), "4/255": score(0.3)}, "believable", 100)
    ours = {"masking": "believable", "checked": 100} | (dpaat or {})
    scores = ours.pop("scores", {"clean": score(0.7), "4/255": score(0.4)})
    differences = {"clean": clean or gap(0.0), "4/255": attacked or gap(0.132, 0.04)}
    contrast = Contrast(["dpaat"], ["standard"], differences)
    lines = verdict(
        [standard, Findings("dpaat", scores, **ours)], [contrast], attack=attack, constant=constant, support=support
    )
    found: dict[str, str] = {}
    for line in lines:
        found[line.about] = " | ".join(filter(None, [found.get(line.about), line.text]))
    return found


PAIR = "dpaat against standard"


def test_equal() -> None:
    found = told(gap(0.003), gap(0.0, 0.0))
    assert found[PAIR] == (
        "clean: no clear difference, +0.3 points [-2.7, 3.3]; at 4/255: no image differs among 1,500"
    )
    assert "dpaat" not in found
    assert "standard" not in found


def test_better_and_worse() -> None:
    found = told(gap(-0.05, 0.02), gap(0.132, 0.04))
    assert found[PAIR] == "clean: dpaat -5.0 points [-7.0, -3.0]; at 4/255: dpaat +13.2 points [9.2, 17.2]"
    assert found["training"] == "one run each: the intervals say nothing about another seed"
    assert found["images"] == "1,500 test images"
    assert "attack" not in found


def test_a_difference_that_the_adjustment_takes_back_is_not_claimed() -> None:
    assert "no clear difference, +4.0 points [1.0, 7.0], p = 0.08" in told(gap(0.04, p=0.08))[PAIR]


def test_too_few_images() -> None:
    found = told(gap(0.05, 0.2), support={"nv": 33, "mel": 7, "df": 0})
    assert found[PAIR].startswith("clean: cannot be told from 40 images, +5.0 points [-15.0, 25.0]")
    assert found["images"] == (
        "40 test images: too few for subgroups; fewer than 10 of mel: too few for their recall; none of df: the scores "
        "say nothing about it"
    )


@pytest.mark.parametrize("word", ["masked", "degenerate"])
def test_masked(word: str) -> None:
    found = told(dpaat={"masking": word})
    assert found[PAIR] == "clean: no clear difference, +0.0 points [-3.0, 3.0]; at 4/255: not compared, see dpaat below"
    assert "dpaat: " in found["gradient masking"]
    assert "the scores under attack are not valid" in found["gradient masking"]
    assert "standard: no sign of gradient masking in 100 images" in found["gradient masking"]


def test_masking_that_is_suspected_or_unknown() -> None:
    suspected = told(dpaat={"masking": "suspicious"})
    assert "dpaat: a check for gradient masking warns" in suspected["gradient masking"]
    assert "+13.2" in suspected[PAIR]
    assert "dpaat: not checked" in told(dpaat={"masking": ""})["gradient masking"]


def test_constant_answer() -> None:
    answer = "answers nv for all 1,500 images: the constant answer"
    found = told(dpaat={"one_answer": answer})
    assert found["dpaat"] == answer
    assert "at 4/255: not compared, see dpaat below" in found[PAIR]


def test_scores_below_the_constant_answer_and_near_it() -> None:
    scores = {"clean": score(0.7), "4/255": score(0.15), "8/255": score(0.05), "16/255": Estimate(0.1)}
    assert told(dpaat={"scores": scores})["dpaat"] == (
        "below the constant answer at 8/255; not clearly above the constant answer at 4/255, at 16/255"
    )


def test_selection_optimism() -> None:
    assert "dpaat" not in told(dpaat={"validation": 0.72})
    assert told(dpaat={"validation": 0.8})["dpaat"] == (
        "clean: 80.0 % on validation, where the epoch was chosen, 70.0 % [67.0, 73.0] on test: the score on test counts"
    )


def test_one_attack_is_an_upper_bound() -> None:
    assert told(attack="PGD-20")["attack"] == "PGD-20 only: further attacks can only lower the scores"
    assert "gradient masking" not in told(attack="")


def test_a_single_run_gets_its_scores() -> None:
    run = Findings("dpaat", {"clean": score(0.7), "4/255": score(0.4)})
    lines = verdict([run], [], attack="worst case", constant=None, support=MANY)
    assert lines[0][:2] == ("dpaat", "clean 70.0 % [67.0, 73.0]; at 4/255 40.0 % [37.0, 43.0]")


def test_seeds_are_pooled_and_runs_that_were_not_paired_are_named() -> None:
    known = [Findings(name, {"clean": score(0.7)}, recipe=name[0]) for name in ("a0", "a1", "b0", "b1")]
    pooled = Contrast(["b0", "b1"], ["a0", "a1"], {"clean": gap(0.1)})
    lines = verdict(known, [pooled], attack="", constant=None, support=MANY)
    assert lines[0][:2] == ("b0, b1 against a0, a1", "clean: b0, b1 +10.0 points [7.0, 13.0]")
    (line, *_) = verdict(known, [Contrast(["b0"], ["a0"])], attack="", constant=None, support=MANY)
    assert line[1:] == ("not compared on these images", True)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a0"], "one run: the intervals say nothing about another seed"),
        (["a0", "b0"], "one run each: the intervals say nothing about another seed"),
        (["a0", "a1"], few_runs([(None, 0), (None, 1)])),
        (["a0", "a1", "b0"], few_runs([(None, 0), (None, 1)])),
        (["a0", "a1", "a2", "b0"], None),
        (["a0/1", "a0/2", "a0/3"], few_runs([("1/3", 0), ("2/3", 0), ("3/3", 0)])),
    ],
)
@pytest.mark.parametrize("paired", [True, False])
def test_another_seed_is_spoken_of_by_the_runs_of_a_method(names: list[str], said: str | None, paired: bool) -> None:
    runs = [Findings(n, {"clean": score(0.7)}, recipe=n[0], replicate=(n[2:] or None, int(n[1]))) for n in names]
    contrasts = [Contrast([name], [names[0]], {"clean": gap(0.1)} if paired else {}) for name in names[1:]]
    lines = verdict(runs, contrasts, attack="", constant=None, support=MANY)
    assert [line.text for line in lines if line.about == "training"] == ([said] if said else [])
