"""Results of several runs, sorted by the images that they are about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dpaat.evaluation.entries import Entry, Population, groups, population_of
from dpaat.evaluation.metrics import curve_area
from dpaat.evaluation.specs import is_worst_case
from dpaat.report.view import RunView


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
        """Labels of the attacks: the worst case, or else that with most results, the stronger of two."""
        attacked = [e for results in self.results.values() for e in results if e["attack"] != "clean"]
        steps = {e["label"]: e["steps"] or 1 for e in attacked}
        count = Counter(e["label"] for e in attacked)
        worst = {e["label"] for e in attacked if is_worst_case(e["attack"])}
        return sorted(steps, key=lambda label: (label not in worst, -count[label], -steps[label]))

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
        """The radius that stands for all: the middle one, or the lower of two, under the first attack."""
        if not self.attacks:
            return None
        radii = sorted({eps for found in self.under(self.attacks[0]).values() for eps in found if eps})
        return radii[len(radii) // 2]

    def at_reference(self, name: str, attack: str | None = None) -> Entry | None:
        """A run's result at the reference radius, under the first attack or another by its key."""
        for entry in self.results[name]:
            wanted = (
                entry["attack"] == attack if attack else entry["label"] == self.attacks[0] if self.attacks else False
            )
            if wanted and entry["eps"] == self.reference:
                return entry
        return None

    def area(self, name: str) -> float | None:
        """Area under balanced accuracy over the radii of the first attack, divided by the largest of them.

        None unless the run was attacked at all radii at which any run was.
        """
        if not self.attacks:
            return None
        everything = self.under(self.attacks[0])
        radii = sorted({eps for found in everything.values() for eps in found})
        found = everything[name]
        if radii[0] or any(eps not in found for eps in radii):
            return None
        scores = [found[eps]["metrics"]["balanced_accuracy"] for eps in radii]
        return curve_area(radii, scores)

    def analyses(self, name: str, kind: str) -> list[Entry]:
        """What was concluded from a run's results on these images, such as "masking"."""
        document = self.runs[name].evaluation
        assert document is not None
        found = document.get("analyses", {}).get(kind, [])
        return [entry for entry in found if population_of(entry) == self.population]

    def first(self, kind: str) -> dict[str, Entry]:
        """The first of each run's analyses of a kind, by run, of those that have any."""
        return {name: found[0] for name in self.runs if (found := self.analyses(name, kind))}


def under_attack(attack: str) -> str:
    """Such as "under PGD-20", or "in the worst case"."""
    return f"in the {attack}" if attack.startswith("worst case") else f"under {attack}"


def compare(runs: Sequence[RunView]) -> list[Comparison]:
    """Sort all results by images, runs side by side."""
    found: dict[Population, dict[str, Sequence[Entry]]] = {}
    constants: dict[Population, Entry] = {}
    for run in runs:
        for group in groups(run.evaluation) if run.evaluation else []:
            found.setdefault(group.population, {})[run.name] = group.results
            if group.constant:
                constants.setdefault(group.population, group.constant)
    named = {run.name: run for run in runs}
    return [
        Comparison(population, {name: named[name] for name in results}, results, constants.get(population))
        for population, results in found.items()
    ]
