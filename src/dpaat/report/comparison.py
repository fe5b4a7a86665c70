"""Results of runs side by side, sorted by images, and what a report knows of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from dpaat.errors import UserError
from dpaat.evaluation.compare import compare_runs, run_names
from dpaat.evaluation.entries import Entry, Population, groups, population_of
from dpaat.evaluation.masking_verdicts import images_checked
from dpaat.evaluation.metrics import curve_area, one_answer
from dpaat.evaluation.specs import is_worst_case, own_budgets
from dpaat.report.figures import estimate
from dpaat.report.verdict import Contrast, Findings, Line, condition_of, verdict
from dpaat.report.view import RunView

ANY_NORM = ("corruptions", "certified")
"""Analyses that hold whatever the norm of the attack, or say their own."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """All results on the same images."""

    population: Population
    runs: Mapping[str, RunView]  # those with results, by name
    results: Mapping[str, Sequence[Entry]]  # of each run
    constant: Entry | None  # the constant predictor's entry

    @property
    def title(self) -> str:
        """Such as "ham10000, test split, 1,987 images"."""
        return f"{self.population.data}, {self.population.split} split, {self.population.n:,} images"

    @cached_property
    def attacks(self) -> list[str]:
        """Labels of the attacks, those in Linf first: the worst case, else that with most results, stronger of two."""
        attacked = self._attacked
        steps = {e["label"]: e["steps"] or 1 for e in attacked}
        count = Counter(e["label"] for e in attacked)
        worst = {e["label"] for e in attacked if is_worst_case(e["attack"])}
        l2 = {e["label"] for e in attacked if e["norm"] == "l2"}
        return sorted(steps, key=lambda label: (label in l2, label not in worst, -count[label], -steps[label]))

    @property
    def _attacked(self) -> list[Entry]:
        return [e for results in self.results.values() for e in results if e["attack"] != "clean"]

    @cached_property
    def norm(self) -> str | None:
        """Norm of the first attack, "linf" or "l2", by which analyses are taken; None where there is no attack."""
        return next((e["norm"] for e in self._attacked if e["label"] == self.attacks[0]), None)

    @cached_property
    def in_norm(self) -> str:
        """What to add to a title: the norm, such as ", L2"; "" where all is in Linf."""
        shown = self.norm == "l2" or self.other_norm or any(e["norm"] == "l2" for e in self._attacked)
        return f", {self.norm.capitalize()}" if self.norm and shown else ""

    @cached_property
    def other_norm(self) -> list[str]:
        """Analyses that are left out, as they are in another norm than the first attack."""
        every = ((kind, e) for run in self.runs.values() for kind, found in run.analyses.items() for e in found)
        return sorted({k for k, e in every if k not in ANY_NORM and self._here(e) and not self._same_norm(e)})

    def _here(self, entry: Entry) -> bool:
        return (entry["fingerprint"], entry["split"]) == (self.population.fingerprint, self.population.split)

    def _same_norm(self, entry: Entry) -> bool:
        return self.norm is None or entry.get("norm") in (None, self.norm)

    def _same_budgets(self, entry: Entry) -> bool:
        first = next((e for e in self._attacked if e["label"] == self.attacks[0]), {})
        return "budgets" not in entry or own_budgets(entry["budgets"]) == own_budgets(first.get("budgets") or {})

    @property
    def clean(self) -> dict[str, Entry]:
        """Results on clean images, by run."""
        return {name: e for name, results in self.results.items() for e in results if e["attack"] == "clean"}

    def under(self, attack: str) -> dict[str, dict[float, Entry]]:
        """Results under an attack, by run and radius; those on clean images at radius 0."""
        return {
            name: {e["eps"]: e for e in sorted(results, key=lambda e: e["eps"]) if e["label"] in ("clean", attack)}
            for name, results in self.results.items()
        }

    @cached_property
    def reference(self) -> float | None:
        """The radius that represents all: the middle one, or the upper of two, under the first attack."""
        if not self.attacks:
            return None
        radii = sorted({eps for found in self.under(self.attacks[0]).values() for eps in found if eps})
        return radii[len(radii) // 2]

    def at_reference(self, name: str, attack: str | None = None) -> Entry | None:
        """A run's result at the reference radius, under the first attack or another by its key."""
        key, wanted = ("attack", attack) if attack else ("label", self.attacks[0] if self.attacks else None)
        found = (e for e in self.results[name] if e[key] == wanted and e["eps"] == self.reference)
        return next((e for e in found if e["norm"] == self.norm), None)

    def area(self, name: str) -> float | None:
        """Area under balanced accuracy over the radii of the first attack, divided by the largest of them.

        None unless the run was attacked at all radii at which any run was.
        """
        everything = self.under(self.attacks[0]) if self.attacks else {}
        radii = sorted({eps for found in everything.values() for eps in found})
        if not radii or radii[0] or everything[name].keys() != {*radii}:
            return None
        return curve_area(radii, [everything[name][eps]["metrics"]["balanced_accuracy"] for eps in radii])

    def analyses(self, name: str, kind: str) -> list[Entry]:
        """What was concluded from a run's results on these images, in norm and budgets of the first attack."""
        found = [e for e in self.runs[name].analyses.get(kind, []) if population_of(e) == self.population]
        return [e for e in found if kind in ANY_NORM or (self._same_norm(e) and self._same_budgets(e))]

    def masking(self, name: str) -> Entry | None:
        """Masking checks of a run, up to the largest radius shown, on these images or else on a draw of the split."""
        found = [*self.analyses(name, "masking"), *self.runs[name].analyses.get("masking", [])]
        large = max((e["eps"] for e in self.results[name] if e["label"] in self.attacks[:1]), default=0.0)
        return next((e for e in found if self._here(e) and self._same_norm(e) and e.get("eps", large) >= large), None)

    @property
    def masked(self) -> dict[str, Entry]:
        """Masking checks by run, of the runs that were checked."""
        return {name: entry for name in self.runs if (entry := self.masking(name))}

    @cached_property
    def support(self) -> dict[str, int]:
        """Images per class."""
        support = next(e["metrics"]["support"] for results in self.results.values() for e in results)
        return {name: support[name] for name in next(iter(self.runs.values())).ordered(support)}

    @cached_property
    def predicted(self) -> dict[str, pd.DataFrame]:
        """Predictions on clean images, by the names of the runs that have them."""
        frames = {name: self.runs[name].predictions(entry) for name, entry in self.clean.items()}
        return {name: frame for name, frame in frames.items() if frame is not None}

    @cached_property
    def one_answers(self) -> dict[str, str]:
        """What to say of the runs whose answer on clean images is always the same, by name."""
        pairs = {n: (f["predicted"].to_numpy(), f["label"].to_numpy()) for n, f in self.predicted.items()}
        return {name: answer for name, pair in pairs.items() if (answer := one_answer(*pair))}

    def validation(self, name: str) -> float | None:
        """A run's clean balanced accuracy on validation, if these are other images of the same data."""
        run, about = self.runs[name], self.population
        return run.validation if (about.fingerprint, about.split) == (run.info["fingerprint"], "test") else None

    @cached_property
    def verdict(self) -> list[Line]:
        """The lines of the verdict box."""
        found = []
        for name in self.runs:
            entries = self.under(self.attacks[0] if self.attacks else "clean")[name].values()
            masking, about = self.masking(name), self.runs[name].evaluation or {}
            found.append(
                Findings(
                    name,
                    {condition_of(e): estimate(e) for e in entries},
                    masking=str(masking["summary"]).split()[0] if masking else "",
                    checked=images_checked(masking) if masking else 0,
                    one_answer=self.one_answers.get(name),
                    validation=self.validation(name),
                    recipe=str(about.get("recipe") or ""),
                    replicate=(about.get("fold"), about.get("training_seed")),
                )
            )
        constant = self.constant and self.constant["metrics"]["balanced_accuracy"]
        facts: dict[str, Any] = {"attack": (self.attacks or [""])[0], "constant": constant, "support": self.support}
        return verdict(found, self.pairs[1], images=self.population.n, split=self.population.split, **facts)

    @cached_property
    def pairs(self) -> tuple[list[Entry], list[Contrast], str]:
        """Paired comparisons with the first run: conditions of `compare_runs`, contrasts, or why there are none."""
        if len(self.runs) < 2:
            return [], [], ""
        try:
            document = compare_runs([run.path for run in self.runs.values()])
        except UserError as error:
            first, *others = self.runs
            return [], [Contrast([name], [first]) for name in others], str(error)
        called = dict(zip(run_names([run.path for run in self.runs.values()]).values(), self.runs, strict=True))
        recipes = {name: [called.get(each, each) for each in runs] for name, runs in document["recipes"].items()}
        reference = recipes.pop(document["reference"])
        about = self.population
        wanted = [(about.data, about.split, about.n * folds) for folds in (1, len(reference))]
        conditions = [each for each in document["conditions"] if (each["data"], each["split"], each["n"]) in wanted]
        # The runs may share a larger draw of these images, and are compared on that.
        middle = [e for e in conditions if e["label"] in self.attacks[:1] and np.isclose(e["eps"], self.reference or 0)]
        chosen = [*(e for e in conditions if e["label"] == "clean"), *middle]
        contrasts = [
            Contrast(runs, reference, {condition_of(e): e["differences"][name]["balanced_accuracy"] for e in chosen})
            for name, runs in recipes.items()
        ]
        for each in conditions:
            each["differences"] = {", ".join(recipes[name]): found for name, found in each["differences"].items()}
        return conditions, contrasts, ""

    def first(self, kind: str) -> dict[str, Entry]:
        """The first of each run's analyses of a kind, by run, of those that have any."""
        return {name: found[0] for name in self.runs if (found := self.analyses(name, kind))}


@dataclass(frozen=True, eq=False)
class Report:
    """What sections are made from."""

    runs: Sequence[RunView]
    comparisons: Sequence[Comparison]
    images: bool  # whether to show images of the data
    title: str = ""
    author: str = ""

    @property
    def verdict(self) -> list[Line]:
        """The lines of the verdict box, on the images that most runs were evaluated on."""
        first = self.comparisons[0] if self.comparisons else None
        others = [run.name for run in self.runs if first is None or run.name not in first.runs]
        where = "yet" if first is None else "on these images"
        lines = [Line(", ".join(others), f"not evaluated {where}", True)] if others else []
        return [*(first.verdict if first else []), *lines]

    def unique(self, *fields: str) -> list[str]:
        """What the runs say in fields of `run.json`, texts or lists of them, each only once."""
        found = (run.info.get(field) or [] for run in self.runs for field in fields)
        return list(dict.fromkeys(text for each in found for text in ([each] if isinstance(each, str) else each)))


def side_by_side(runs: Sequence[RunView]) -> list[Comparison]:
    """Sort all results by images, runs side by side; the images that most runs were evaluated on come first."""
    found = {run.name: groups(run.evaluation) for run in runs if run.evaluation}
    named = {run.name: run for run in runs}
    comparisons = []
    for population in dict.fromkeys(group.population for each in found.values() for group in each):
        here = {name: group for name, each in found.items() for group in each if group.population == population}
        constant = next((group.constant for group in here.values() if group.constant), None)
        results = {name: group.results for name, group in here.items()}
        comparisons.append(Comparison(population, {name: named[name] for name in here}, results, constant))
    return sorted(comparisons, key=lambda each: (-len(each.runs), -each.population.n))
