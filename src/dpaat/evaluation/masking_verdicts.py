"""Verdicts of the gradient-masking diagnostics: from what was measured to pass, warn or fail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest

Verdict = Literal["pass", "warn", "fail", "skipped"]
Summary = Literal["believable", "suspicious", "masked", "degenerate"]

PREDICTIONS = "predictions"  # the check that tells a degenerate model

MIN_CORRECT = 10  # with fewer correctly classified images no comparison of attacks is made
ONE_CLASS = 0.99  # a model that predicts one class for more than this share of the images is degenerate
NOISE = 1e-3  # largest difference between passes, in parts of the spread of the logits; rounding makes about 1e-6
FEW, MANY = 0.02, 0.10  # shares of images whose gradient is lost: more than the first warns, more than the second fails
VANISHING = 0.01  # a gradient at the image below this part of the one at a random point of the ball counts as vanishing
RISING = (0.90, 0.75)
"""Shares of images whose loss rises over an eighth of the radius: fewer than the first warns, than the second fails."""
LOWER = (0.08, 0.12)
"""Shares of images whose loss is lower after a longer step than at the image: more warns, fails; sound: up to 0.04."""
STEP_GAP = (0.30, 0.45)
"""Share that one full step leaves standing minus that of PGD: more warns, fails; sound: to 0.16, overfitted: 0.53."""
SIGNIFICANT = 0.05  # level of the one-sided exact McNemar test
GAIN = 0.02  # smallest gain of one attack over another that counts, as a share of the images
TARGETED_GAIN = (0.20, 0.30)
"""The same for APGD-T over APGD-CE, to warn and to fail: sound models were seen to show up to 0.19."""


@dataclass(frozen=True)
class Check:
    """One gradient-masking check and its verdict."""

    name: str
    verdict: Verdict  # "skipped" if it could not be done
    evidence: str  # one sentence with the numbers, or the reason for skipping
    values: dict[str, Any] = field(default_factory=dict)  # the numbers, ready for JSON


def summary(checks: Sequence[Check]) -> tuple[Summary, str]:
    """Overall verdict of all checks, and a line that names those behind it.

    "degenerate" if the model gives one answer whatever the image, "masked" if a check fails, "suspicious" if one warns.
    """
    words = {"pass": "passed", "warn": "warns of", "fail": "failed", "skipped": "skipped"}
    named = {kind: [check.name for check in checks if check.verdict == kind] for kind in words}
    parts = [f"{words[kind]}: {', '.join(names)}" for kind, names in named.items() if names and kind != "pass"]
    if named["pass"]:
        parts.insert(0, f"{len(named['pass'])} passed")
    verdict: Summary = "suspicious" if named["warn"] else "believable"
    if named["fail"]:
        verdict = "degenerate" if PREDICTIONS in named["fail"] else "masked"
    return verdict, f"{verdict} ({'; '.join(parts)})"


def images_checked(masking: Mapping[str, Any]) -> int:
    """Images that masking checks ran on, which draw from those that were evaluated."""
    drawn = (check.get("values", {}).get("images") for check in masking["checks"] if check["name"] == PREDICTIONS)
    return int(next((n for n in drawn if n), masking["n"]))


def judge_predictions(logits: np.ndarray, labels: np.ndarray) -> Check:
    """Fail a model whose clean logits `(N, K)` do not depend on the image; warn of one no better than guessing."""
    several = labels.ndim == 2
    predicted = (logits > 0).astype(np.int8) if several else logits.argmax(1)
    top, commonest = (
        float(np.unique(each, axis=0, return_counts=True)[1].max() / len(labels)) for each in (predicted, labels)
    )
    balanced, chance = balanced_share(predicted == labels, labels), 0.5 if several else 1 / len(np.unique(labels))
    right = (predicted == labels).any(axis=1) if several else predicted == labels
    constant = len(labels) > 1 and float(np.ptp(logits, axis=0).max()) <= 1e-6 * float(np.abs(logits).max())
    said = "have an answer that is right" if several else "are classified correctly"
    evidence = (
        f"{right.sum()} of {len(labels)} clean images {said}, balanced accuracy {balanced:.1%}; the "
        f"{'answer given' if several else 'class predicted'} most is given to {top:.1%} of them"
    )
    verdict: Verdict = "pass"
    if constant or (top > ONE_CLASS and top > commonest):
        verdict, evidence = "fail", f"{evidence}: the answer hardly depends on the image"
    elif right.sum() < MIN_CORRECT or (chance < 1 and balanced <= chance):
        verdict, evidence = "warn", f"{evidence}: too few, or no better than guessing ({chance:.1%})"
    values = {"images": len(labels), "correct": int(right.sum()), "balanced_accuracy": balanced, "largest_share": top}
    return Check(PREDICTIONS, verdict, evidence, values)


def judge_repeatability(passes: np.ndarray, *, several: bool = False) -> Check:
    """Fail a model that gives two answers for the same image: logits pass after pass `(N, P, K)`."""
    first = passes[:, :1]
    difference = float(np.abs(passes - first).max() / max(float(np.ptp(first)), np.finfo(np.float32).tiny))
    answers = passes > 0 if several else passes.argmax(2)[..., None]
    changed = int((answers != answers[:, :1]).any(axis=(1, 2)).sum())
    evidence = (
        f"{passes.shape[1]} passes over the same images differ by at most {difference:.2g} of the spread of the "
        f"logits, and in their predictions for {changed} of {len(passes)}"
    )
    verdict: Verdict = "fail" if difference > NOISE else "pass"
    return Check("repeatability", verdict, evidence, {"difference": difference, "changed": changed})


def judge_gradient(silent: np.ndarray) -> Check:
    """Fail a model whose cross-entropy has no gradient to follow: it is `silent` at each image or not `(n,)`."""
    share = float(silent.mean())
    evidence = f"the cross-entropy has no gradient at {silent.sum()} of {len(silent)} correctly classified images"
    return Check("gradient", _above(share, FEW, MANY), evidence, {"images": len(silent), "share": share})


def judge_start(ratio: np.ndarray, fell: Check) -> Check:
    """Fail a model whose gradient vanishes at the images themselves, so that attacks from there go nowhere.

    `ratio` is the length of the gradient at the image over that at a random point of the ball `(n,)`; `fell` compares
    PGD from a random start with PGD from the image.
    """
    lost = ratio < VANISHING
    share = float(lost.mean())
    evidence = (
        f"the gradient at the image is below {VANISHING:.0%} of that at a random point nearby for {lost.sum()} of "
        f"{len(ratio)} images (median {float(np.median(ratio)):.2g}); {fell.evidence}"
    )
    return Check("start", _worst(_above(share, FEW, MANY), fell.verdict), evidence, {"vanishing": share, **fell.values})


def judge_ascent(odds: np.ndarray, standing: np.ndarray, points: Sequence[str], many_steps: float) -> Check:
    """Fail a model whose loss does not rise along its gradient, or that withstands one full step and not several.

    Both are marks of catastrophic overfitting to single-step attacks. `odds` are the log-odds of the other classes at
    the image and along the gradient, `standing` whether the model is right there `(n, 1 + T)`; `points` the radii in
    words `(T,)`, ascending; `many_steps` the share that PGD leaves standing at the last of them.
    """
    change = odds[:, 1:] - odds[:, :1]
    rising, lower = float((change[:, 0] > 0).mean()), (change[:, 1:] < 0).mean(0)
    worst, along = len(lower) - 1 - int(lower[::-1].argmax()), standing[:, 1:].mean(0)
    gap = float(along[-1]) - many_steps
    evidence = (
        f"after a step of {points[0]} along the gradient the loss is higher for {rising:.1%} of {len(odds)} images; "
        f"after one of {points[1 + worst]} it is lower than at the image for {lower[worst]:.1%}; one step of "
        f"{points[-1]} leaves {along[-1]:.1%} correct, PGD-10 {many_steps:.1%}"
    )
    verdict = _worst(_above(1 - rising, *(1 - share for share in RISING)), _above(float(lower[worst]), *LOWER))
    values = {"points": list(points), "rising": rising, "lower": lower.tolist(), "standing": along.tolist(), "gap": gap}
    return Check("loss along the gradient", _worst(verdict, _above(gap, *STEP_GAP)), evidence, values)


def judge_large_radius(standing: np.ndarray, labels: np.ndarray, curve: dict[str, float]) -> Check:
    """Fail attacks that leave a balanced accuracy of more than 1/K at Linf 0.5, K the classes among the labels.

    Within 0.5 every image can be made the same uniform grey, for which a model has one answer: the worst case has a
    balanced accuracy of at most 1/K whatever the model, so there is no tolerance. `standing` is whether each image
    withstands the attack there `(N,)`, `curve` the share that PGD leaves standing, by radius.
    """
    balanced, limit = balanced_share(standing, labels), 0.5 if labels.ndim == 2 else 1 / len(np.unique(labels))
    steps = ", ".join(f"{share:.1%} at {radius}" for radius, share in curve.items())
    evidence = f"at Linf 0.5 APGD-CE leaves a balanced accuracy of {balanced:.1%}, at most {limit:.1%} is possible; "
    evidence += f"PGD-10 leaves {steps} of the images correct"
    values = {"balanced_accuracy": balanced, "limit": limit, "standing": curve}
    return Check("large radius", "fail" if balanced > limit else "pass", evidence, values)


def compare(
    name: str,
    challenger: tuple[str, np.ndarray],
    reference: tuple[str, np.ndarray],
    *,
    radius: str,
    gain: tuple[float, float] = (GAIN, GAIN),
) -> Check:
    """Paired comparison of attacks: fail if one that should be no stronger is stronger beyond noise.

    That is: the one-sided exact McNemar test gives p < 0.05, and the difference, as a share of the images, is above
    `gain`, from which it warns and fails. Attacks come with their names and whether they succeed on each image `(n,)`.
    """
    (one, first), (two, second) = challenger, reference
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, discordant = len(first), only_first + only_second
    p_value = float(binomtest(only_first, discordant, alternative="greater").pvalue) if discordant else 1.0
    difference = (only_first - only_second) / n
    evidence = (
        f"at {radius}, {one} succeeds on {first.sum()} and {two} on {second.sum()} of {n} images, {only_first} and "
        f"{only_second} of them alone (McNemar p = {p_value:.2g})"
    )
    values = {"radius": radius, "images": n, "attacks": [one, two], "fallen": [int(first.sum()), int(second.sum())]}
    values |= {"alone": [only_first, only_second], "gain": difference, "p_value": p_value}
    return Check(name, _above(difference, *gain) if p_value < SIGNIFICANT else "pass", evidence, values)


def balanced_share(true: np.ndarray, labels: np.ndarray) -> float:
    """Share of images for which something is true, averaged over the classes present.

    Of several labels an image, `(N, K)`: averaged over positives and negatives of each label.
    """
    if labels.ndim == 2:
        cells = [true[labels[:, k] == value, k] for k in range(labels.shape[1]) for value in (0, 1)]
        return float(np.mean([cell.mean() for cell in cells if len(cell)]))
    return float(np.mean([true[labels == k].mean() for k in np.unique(labels)]))


def _worst(one: Verdict, other: Verdict) -> Verdict:
    return max(one, other, key=("pass", "warn", "fail").index)


def _above(value: float, warn: float, fail: float) -> Verdict:
    return "fail" if value > fail else "warn" if value > warn else "pass"
