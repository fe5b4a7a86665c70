"""Verdict box of a report: from scores with intervals to sentences, by the rules of `docs/verdict.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dpaat.evaluation.statistics import SIGNIFICANT, few_runs
from dpaat.evaluation.tables import MASKING
from dpaat.radii import format_radius
from dpaat.report.figures import Estimate, around

CLEAN = "clean"
FEW = 200
"""Images below which no subgroups are compared: two halves of fewer than 100 have intervals wider than +-10 points."""
RARE = 10
"""Images of a class below which its recall is not spoken of."""
WIDE = 0.1
"""Half an interval, as a fraction, above which a difference cannot be told."""


@dataclass(frozen=True)
class Findings:
    """What is known of a run; scores are balanced accuracies by condition: "clean", then radii such as "4/255"."""

    name: str
    scores: Mapping[str, Estimate]
    masking: str = ""  # verdict of the checks, "" without any
    checked: int = 0  # images that were checked
    one_answer: str | None = None  # such as "answers nv for all 40 images: the constant answer"
    validation: float | None = None  # clean balanced accuracy where the epoch was chosen
    replicate: tuple[str | None, int | None] = (None, None)  # its fold and seed
    recipe: str = ""  # the same for runs that differ in seed or fold only, "" where nothing else is known to be alike

    @property
    def invalid(self) -> bool:
        """Whether scores under attack say nothing about robustness."""
        return self.masking in ("masked", "degenerate") or self.one_answer is not None


@dataclass(frozen=True)
class Contrast:
    """Paired differences in balanced accuracy of runs (several seeds are pooled) from the reference, by condition."""

    runs: Sequence[str]
    reference: Sequence[str]
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Line(NamedTuple):
    """A line of the box: what it is about, the sentence, whether it is a caution."""

    about: str
    text: str
    caution: bool = False


def verdict(
    runs: Sequence[Findings],
    contrasts: Sequence[Contrast],
    *,
    attack: str,
    constant: float | None,
    support: Mapping[str, int],
    images: int | None = None,
    split: str = "test",
) -> list[Line]:
    """Write the box, of `runs` on the same images of a split, with `support` of them per class.

    `images` is their number, by default the sum of `support`, which is larger where images have several labels.

    There are no `contrasts` for a single run, or where runs could not be paired; `attack` is such as "worst case" or
    "PGD-20", "" for none; `constant` the balanced accuracy of the constant answer.
    """
    n = sum(support.values()) if images is None else images
    known = {run.name: run for run in runs}
    lines = [_contrast(each, known, n) for each in contrasts]
    if not contrasts:
        lines += [Line(run.name, "; ".join(f"{at(c)} {written(s)}" for c, s in run.scores.items())) for run in runs]
    if constant is not None:
        lines += [line for run in runs if (line := _constant(run, constant))]
    if attack:
        alike: dict[tuple[str, bool], list[str]] = {}  # runs of which the same is to be said
        for run in runs:
            alike.setdefault(_masking(run), []).append(run.name)
        lines += [Line("gradient masking", f"{', '.join(names)}: {text}", bad) for (text, bad), names in alike.items()]
        if not attack.startswith("worst case"):
            lines.append(Line("attack", f"{attack} only: further attacks can only lower the scores", True))
    lines += [line for run in runs if (line := _optimism(run, split))]
    lines += _images(n, support, split)
    recipes: dict[str, list[tuple[str | None, int | None]]] = {}
    for run in runs:
        recipes.setdefault(run.recipe or run.name, []).append(run.replicate)
    if max(map(len, recipes.values()), default=0) == 1:
        count = "one run each" if len(recipes) > 1 else "one run"
        lines.append(Line("training", f"{count}: the intervals say nothing about another seed", True))
    cautions = filter(None, map(few_runs, recipes.values()))
    lines += [Line("training", text, True) for text in dict.fromkeys(cautions)]
    return lines


def condition_of(entry: Mapping[str, Any]) -> str:
    """Name a result's condition: "clean", or the radius such as "4/255" or "0.5 L2"."""
    radius = format_radius(entry["eps"]) + (" L2" if entry["norm"] == "l2" else "")
    return CLEAN if entry["label"] == CLEAN else radius


def at(condition: str) -> str:
    """A condition in a sentence, such as "at 4/255"."""
    return condition if condition == CLEAN else f"at {condition}"


def under_attack(attack: str) -> str:
    """Such as "under PGD-20", or "in the worst case"."""
    return f"in the {attack}" if attack.startswith("worst case") else f"under {attack}"


def written(score: Estimate) -> str:
    """Such as "70.6 % [65.2, 75.1]"."""
    return f"{100 * score.value:.1f} %{around(score.interval)}"


def difference(name: str, found: Mapping[str, Any], images: int) -> str:
    """What a paired difference with its interval and adjusted p-value allows to say."""
    low, high = found["interval"]
    if low == high:
        return f"no image differs among {images:,}"
    points = f"{100 * found['difference']:+.1f} points{around((low, high))}"
    if low * high > 0:
        if found["p_adjusted"] < SIGNIFICANT:
            return f"{name} {points}"
        return f"no clear difference, {points}, p = {found['p_adjusted']:.2g} after adjustment"
    if high - low > 2 * WIDE:
        return f"cannot be told from {images:,} images, {points}"
    return f"no clear difference, {points}"


def _contrast(contrast: Contrast, known: Mapping[str, Findings], images: int) -> Line:
    name, reference = ", ".join(contrast.runs), ", ".join(contrast.reference)
    invalid = [run for run in (*contrast.runs, *contrast.reference) if run in known and known[run].invalid]
    texts = {condition: difference(name, found, images) for condition, found in contrast.differences.items()}
    if invalid:
        texts |= {condition: f"not compared, see {invalid[0]} below" for condition in texts if condition != CLEAN}
    parts = [f"{at(condition)}: {text}" for condition, text in texts.items()]
    return Line(f"{name} against {reference}", "; ".join(parts) or "not compared on these images", not parts)


def _constant(run: Findings, constant: float) -> Line | None:
    """How the scores relate to the constant answer; nothing where all intervals lie above it."""
    if run.one_answer:
        return Line(run.name, run.one_answer, True)
    scores = {at(condition): score for condition, score in run.scores.items()}
    below = [c for c, s in scores.items() if s.interval and s.interval[1] < constant]
    unclear = [
        c for c, s in scores.items() if c not in below and (s.interval[0] if s.interval else s.value) <= constant
    ]
    told = {"below the constant answer": below, "not clearly above the constant answer": unclear}
    text = "; ".join(f"{words} {', '.join(places)}" for words, places in told.items() if places)
    return Line(run.name, text, True) if text else None


def _masking(run: Findings) -> tuple[str, bool]:
    text = MASKING[run.masking][2] if run.masking in MASKING else run.masking or "not checked"
    return f"{text} in {run.checked:,} images" if run.masking == "believable" else text, run.masking != "believable"


def _optimism(run: Findings, split: str) -> Line | None:
    """The score by which an epoch was chosen is too high where it lies above the interval on other images."""
    clean = run.scores.get(CLEAN)
    if run.validation is None or clean is None or not clean.interval or run.validation <= clean.interval[1]:
        return None
    chosen = f"{100 * run.validation:.1f} % on validation, where the epoch was chosen"
    return Line(run.name, f"clean: {chosen}, {written(clean)} on {split}: the score on {split} counts", True)


def _images(n: int, support: Mapping[str, int], split: str) -> list[Line]:
    rare = [name for name, count in support.items() if 0 < count < RARE]
    absent = [name for name, count in support.items() if not count]
    parts = [f"{n:,} {split} images" + (": too few for subgroups" if n < FEW else "")]
    parts += [f"fewer than {RARE} of {', '.join(rare)}: too few for their recall"] if rare else []
    parts += [f"none of {', '.join(absent)}: the scores say nothing about it"] if absent else []
    return [Line("images", "; ".join(parts), n < FEW or bool(rare or absent))]
