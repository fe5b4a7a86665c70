"""The robustness suite: single attacks at fixed radii, and the worst case over several."""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from dpaat.attacks import find_attack
from dpaat.evaluation.attacking import Attacker, ImageArray, Outputs
from dpaat.evaluation.cascade import Cascade, run_cascade
from dpaat.evaluation.labels import verdicts
from dpaat.evaluation.metrics import Metrics, curve_area
from dpaat.evaluation.specs import CLEAN, QUICK, WORST_CASE, AttackSpec, attack_spec, worst_of, worst_of_suite
from dpaat.radii import format_radius, parse_radii

SCORED = ("fgsm", "pgd", "apgd-ce")
"""Attacks of the standard suite that are run on all images, so that their outputs can be ranked and scored."""
ENSEMBLE = ("apgd-t", "fab-t", "square")  # attacks of the standard suite on images that withstood the rest
SUITE_ATTACKS, QUICK_ATTACKS = (*SCORED, *ENSEMBLE), (SCORED[-1], *ENSEMBLE)
CURVE = {"linf": (16 / 255, 32 / 255, 64 / 255, 0.5), "l2": (4.0, 8.0, 16.0)}
"""Radii of the security curve beyond the fixed ones, by APGD-CE on images that are still correct."""


@dataclass(frozen=True, eq=False)
class Result:
    """Outcome of one attack, or of the worst case over several, at one radius."""

    spec: AttackSpec
    eps: float  # in units of a [0, 1] image, 0 for clean images
    predicted: np.ndarray  # class of every image `(N,)`, or answers to its labels `(N, K)`
    metrics: Metrics  # those that rank probabilities are None in the worst case
    probabilities: Tensor | None = None  # `(N, K)`, float64; None in the worst case
    fell_to: np.ndarray | None = None  # in the worst case: the first attack that succeeds on each, "" where none does


@dataclass(frozen=True)
class Curve:
    """Security curve: the worst case over growing radii, from 0."""

    eps: list[float]  # radii, ascending, the first 0
    accuracy: list[float]  # robust accuracy at each
    balanced_accuracy: list[float]  # the same, balanced
    area: float  # the largest fixed radius, up to which the areas are taken
    accuracy_area: float  # normalized area under the robust accuracy, in [0, 1]
    balanced_accuracy_area: float
    fallen_to: list[dict[str, int]]  # by radius: images that each attack succeeds on first, "" withstand all
    spared: dict[str, int]  # by attack and radius: images that were not attacked since they withstood a larger radius
    budgets: dict[str, int]  # steps or queries of each attack behind the worst case


def evaluate_model(
    model: nn.Module,
    images: ImageArray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    radii: Sequence[float],
    specs: Sequence[AttackSpec] | None = None,
    norm: str = "linf",
    steps: Mapping[str, int] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> list[Result]:
    """Measure any `nn.Module` that maps [0, 1] images to logits.

    Args:
        model: maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        images: `(N, C, H, W)`, uint8, or floating in [0, 1].
        labels: `(N,)`, int64, 0 to K - 1.
        classes: K class names.
        radii: in units of a [0, 1] image, ascending.
        specs: single attacks; None runs the standard suite.
        norm: of the standard suite.
        steps: budgets of the standard suite by attack, where not the attack's own.
        out: folder to keep the results in, which `report`, `compare` and `explain` take; None keeps nothing.
        options: of `Attacker`: batch_size, device, seed, precision, source, progress.

    Returns:
        The results, clean first; those of the standard suite end with the worst case at every radius.

    Raises:
        UserError: outputs that are not finite logits, images outside [0, 1], labels outside K, radii out of order.
    """
    if out is not None:
        from dpaat.evaluation.run import evaluate_arrays

        options |= {"eps": tuple(radii), "norm": norm, "steps": dict(steps or {})}
        return evaluate_arrays(model, images, labels, classes=classes, specs=specs, out=Path(out), **options)
    with Attacker(model, images, labels, num_classes=len(classes), **options) as attacker:
        if specs is not None:
            return list(run_attacks(attacker, specs, radii, classes))
        suite = run_standard(attacker, radii, classes, norm=norm, steps=steps)
        return [result for result in suite if isinstance(result, Result)]


def run_attacks(
    attacker: Attacker, specs: Sequence[AttackSpec], radii: Sequence[float], classes: Sequence[str]
) -> Iterator[Result]:
    """Evaluate on clean images, then under every attack at every radius, on all images; results come one by one.

    Radii are in units of a [0, 1] image, ascending; 0 adds nothing to the clean result.
    """
    radii = _above_zero(radii)
    plan = [(CLEAN, 0.0), *((spec, eps) for spec in specs for eps in radii)]
    clean: Outputs | None = None
    nearest: dict[AttackSpec, Outputs] = {}
    for number, (spec, eps) in enumerate(plan):
        left = sum(later.passes(attacker.num_classes) for later, _ in plan[number:]) * len(attacker)
        attacker.bar.expect(f"{spec.label} {format_radius(eps)}" if eps else spec.label, left)
        if clean is not None and find_attack(spec.name).minimal:
            if spec not in nearest:  # one run, at the largest radius, serves all
                nearest[spec] = attacker.outputs(spec, radii[-1])
            outputs = nearest[spec].within(eps, clean)
        else:
            outputs = attacker.outputs(spec, eps)
        clean = outputs if clean is None else clean
        probabilities = attacker.probabilities(outputs)
        predicted = outputs.predicted if attacker.several else probabilities.argmax(1).numpy()
        yield Result(spec, eps, predicted, attacker.metrics(outputs, classes), probabilities)


def run_standard(
    attacker: Attacker,
    radii: Sequence[float],
    classes: Sequence[str],
    *,
    norm: str = "linf",
    steps: Mapping[str, int] | None = None,
    quick: bool = False,
) -> Iterator[Result | Curve]:
    """Run the standard suite: single attacks on all images, then an ensemble on what they leave, then the curve.

    FGSM, PGD and APGD-CE are scored on all images. APGD-T, FAB-T and Square attack what is still correct; with APGD-CE
    they are the ensemble of AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690), for any number of classes. An
    image counts as robust in the worst case if it withstands every one of the six. `steps` are budgets by attack, where
    not the attack's own.

    An image that withstands all of the ensemble at a radius is spared APGD-T and Square at smaller ones, whose balls
    lie in this one; so what they would find in a smaller ball only is missed. FAB-T, which finds the nearest image,
    and the attacks on all images leave no radius out. The `quick` suite looks for verdicts only: it spares APGD-CE as
    well, and leaves FGSM and PGD out.

    Yields a result per attack and radius, then the worst case at every radius, then the curve.
    """
    specs = {name: attack_spec(name, steps=(steps or {}).get(name), norm=norm) for name in SUITE_ATTACKS}
    radii = _above_zero(radii)
    beyond = [] if quick else [eps for eps in CURVE[norm] if eps > max(radii, default=0.0)]
    names = ((), QUICK_ATTACKS) if quick else (SCORED, ENSEMBLE)
    scored, ensemble = ([specs[name] for name in some] for some in names)
    worst = worst_of_suite(QUICK if quick else WORST_CASE, [*scored, *ensemble], norm)
    cascade = yield from run_ensemble(
        attacker, scored, ensemble, radii, classes, beyond=beyond, worst=worst, spare=True
    )
    eps, fixed = [0.0, *radii, *beyond], len(radii) + 1
    verdicts = [_verdicts(cascade, radius, classes) for radius in eps]
    accuracy = [metrics["accuracy"] for *_, metrics in verdicts]
    balanced = [metrics["balanced_accuracy"] for *_, metrics in verdicts]
    yield Curve(
        eps=eps,
        accuracy=accuracy,
        balanced_accuracy=balanced,
        area=eps[fixed - 1],
        accuracy_area=curve_area(eps[:fixed], accuracy[:fixed]),
        balanced_accuracy_area=curve_area(eps[:fixed], balanced[:fixed]),
        fallen_to=[dict(Counter(fell_to.tolist())) for _, fell_to, _ in verdicts],
        spared=cascade.spared,
        budgets=dict(worst.budgets),
    )


def run_ensemble(
    attacker: Attacker,
    specs: Sequence[AttackSpec],
    ensemble: Sequence[AttackSpec],
    radii: Sequence[float],
    classes: Sequence[str],
    *,
    worst: AttackSpec | None = None,
    beyond: Sequence[float] = (),
    spare: bool = False,
) -> Generator[Result, None, Cascade]:
    """Run attacks on all images, then an ensemble, of which verdicts are wanted only, on what they leave standing.

    Yields a result per attack of `specs` and radius, clean first, then the worst case over both at every radius, which
    is called `worst`; returns all verdicts, with those of APGD-CE, one of `specs`, at radii `beyond`. If `spare`, all
    search on a copy of the model, and the ensemble spares images as in `run_cascade`.
    """
    radii = _above_zero(radii)
    results = run_attacks(attacker.faster(stop=False) if spare else attacker, specs, radii, classes)
    yield (clean := next(results))
    cascade = Cascade(attacker.labels, clean.predicted)
    for result in results:
        cascade.note(result.spec.label, np.arange(len(attacker)), result.predicted, result.eps)
        yield result
    if attacker.several:  # what is wrong already need not be turned
        attacker = attacker.aimed(np.where(cascade.right, attacker.labels, np.int8(-1)))
    if radii or beyond:
        faster = attacker.faster()
        run_cascade(faster, cascade, ensemble, radii, spare=spare)
        run_cascade(faster, cascade, [spec for spec in specs if spec.name == "apgd-ce"], beyond)
    for eps in radii:
        predicted, fell_to, metrics = _verdicts(cascade, eps, classes)
        yield Result(worst or worst_of([*specs, *ensemble]), eps, predicted, metrics, fell_to=fell_to)
    return cascade


def _above_zero(radii: Sequence[float]) -> list[float]:
    """Radii above 0; UserError where they do not ascend, as the last one is taken for the largest."""
    return [eps for eps in parse_radii(map(float, radii), "radii", "l2") if eps > 0] if len(radii) else []


def _verdicts(cascade: Cascade, eps: float, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, Metrics]:
    predicted, fell_to = cascade.at(eps)
    metrics = verdicts(predicted, cascade.labels, classes)
    if predicted.ndim == 2:
        metrics["standing"] = float((cascade.fell > eps).mean())
    return predicted, fell_to, metrics
