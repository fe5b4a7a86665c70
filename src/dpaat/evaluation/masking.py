"""Gradient-masking diagnostics: tell a model that is robust from one that hides its gradient."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dpaat.evaluation import masking_verdicts as verdicts
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.images import stratified_draw
from dpaat.evaluation.labels import strata
from dpaat.evaluation.masking_bench import FRACTIONS, MEAN_OF, PATH, Bench
from dpaat.evaluation.masking_verdicts import Check

LARGE_RADIUS = 0.5
GRADIENT_CHECKS = ["start", "loss along the gradient", "large radius", "more budget", "single step", "black box"]
GRADIENT_CHECKS += ["transfer", "targets"]


def run_masking(
    attacker: Attacker,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 50,
    queries: int = 1000,
    max_samples: int = 100,
) -> list[Check]:
    """Gradient-masking diagnostics, each attack alone on the correctly classified images of a stratified draw.

    Attacks are compared at the radius, among `eps` and its halves down to 1/32, at which PGD-10 leaves most nearly
    half of the images unbroken: where an attack succeeds on all, or on none, two attacks cannot be told apart.

    Costs at most 2 * steps * (9 + min(9, K - 1)) + queries + 280 forward passes per image, that is 2,780 with 7
    classes and 3,080 with 10 or more; less in practice, as several attacks stop once they succeed. A model that
    answers at random costs 410 more.

    `eps` is the reference radius in units of a [0, 1] image, the largest at which robustness is claimed, in the `norm`
    "linf" or "l2"; `steps` are of APGD, `queries` of Square; `max_samples` images are drawn. The attacker's `source` is
    used for transfer. Returns the checks in a fixed order, "skipped" where one could not be done; `masking_verdicts`
    holds the thresholds, `docs/masking.md` the reasons and sources. Raises UserError for outputs that are not finite
    logits.
    """
    drawn = stratified_draw(strata(attacker.labels), max_samples, seed=attacker.seed)
    labels = attacker.labels[drawn]
    options: dict[str, Any] = {"norm": norm, "eps": eps, "steps": steps, "queries": queries}
    bench = Bench(attacker, **options)
    logits = bench.clean(drawn)
    predictions = verdicts.judge_predictions(logits[:, 0], labels)
    repeatability = verdicts.judge_repeatability(logits, several=attacker.several)
    answers = (logits[:, 0] > 0 if attacker.several else logits[:, 0].argmax(1)) == labels
    right = answers
    if attacker.several:  # attacks have to turn what is right
        right, aim = answers.any(axis=1), np.full(attacker.labels.shape, -1, dtype=np.int8)
        aim[drawn] = np.where(answers, labels, -1)
        bench = Bench(attacker.aimed(aim), **options)
    correct = drawn[right]
    if predictions.verdict == "fail" or len(correct) < verdicts.MIN_CORRECT:
        reason = "the model is degenerate" if predictions.verdict == "fail" else "too few images classified correctly"
        skipped = [Check(name, "skipped", reason) for name in ("gradient", *GRADIENT_CHECKS)]
        return [predictions, repeatability, *skipped]
    if not bench.reached(correct[:1]).all():
        lost = Check("gradient", "fail", "no gradient reaches the image; attacks that follow it cannot even be run")
        skipped = [Check(name, "skipped", "there is no gradient") for name in GRADIENT_CHECKS]
        return [predictions, repeatability, lost, *skipped]

    gradient = bench.gradient(correct)
    curve = {eps * part: 1 - float(bench.fallen("search", correct, eps * part).mean()) for part in FRACTIONS}
    # Of radii alike to a tenth the largest: where the search is blind, all are alike, and small ones would hide it.
    radius = min(curve, key=lambda each: (round(abs(curve[each] - 0.5), 1), -each))
    roles = (role for role in bench.attacks if role != "search")
    fell = {role: (bench.attacks[role].name, bench.fallen(role, correct, radius)) for role in roles}
    standing = answers.copy()
    standing[right] &= ~bench.fallen("ce", correct, LARGE_RADIUS, norm="linf", by_label=attacker.several)
    if repeatability.verdict == "fail":
        repeatability = _with_mean(repeatability, bench, correct, radius, fell["random"])
    points = [_words(eps * part, norm) for part in PATH]
    shares = {_words(each, norm): share for each, share in sorted(curve.items())}
    against = partial(verdicts.compare, radius=_words(radius, norm))
    no_source = Check("transfer", "skipped", "no other model was given to make images on")
    return [
        predictions,
        repeatability,
        verdicts.judge_gradient(gradient["silent"]),
        verdicts.judge_start(gradient["ratio"], against("start", fell["random"], fell["zero"])),
        verdicts.judge_ascent(gradient["odds"], gradient["standing"], points, curve[eps]),
        verdicts.judge_large_radius(standing, labels, shares),
        against("more budget", fell["more"], fell["ce"]),
        against("single step", fell["single"], fell["ce"]),
        against("black box", fell["square"], fell["targeted"]),
        against("transfer", fell["transfer"], fell["targeted"]) if "transfer" in fell else no_source,
        against("targets", fell["targeted"], fell["ce"], gain=verdicts.TARGETED_GAIN),
    ]


def _with_mean(
    check: Check, bench: Bench, positions: np.ndarray, radius: float, single: tuple[str, np.ndarray]
) -> Check:
    """Add what the attack finds on the expectation over the model's randomness."""
    name, fallen = single
    values = {"fallen": int(fallen.sum())}
    values["fallen_in_mean"] = int(bench.fallen("random", positions, radius, in_mean=True).sum())
    evidence = (
        f"{check.evidence}; at {_words(radius, bench.norm)} {name} succeeds on {values['fallen']} of {len(positions)} "
        f"images, and {values['fallen_in_mean']} if every answer is the mean of {MEAN_OF} passes: attack the mean"
    )
    return replace(check, evidence=evidence, values=check.values | values)


def _words(eps: float, norm: str) -> str:
    return f"{eps * 255:.3g}/255" if norm == "linf" else f"L2 {eps:.3g}"
