"""Data of a report: run folders, and their results side by side, sorted by images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dpaat.config import TrainConfig
from dpaat.errors import UserError, at, first_line
from dpaat.evaluation.entries import Document, Entry, Population, groups, population_of
from dpaat.evaluation.metrics import curve_area
from dpaat.evaluation.results import check_results, outdated, predictions_part, read_evaluation
from dpaat.evaluation.specs import is_worst_case
from dpaat.evaluation.stored import read_frame
from dpaat.runs import ELSEWHERE, INFO, SUBJECT, Run, read_folder, read_info
from dpaat.storage import read_json

EXPLANATIONS = "interpretability.json"


@dataclass(frozen=True)
class RunView:
    """What a run folder holds, as far as the page needs it."""

    name: str  # how the page calls it, different for each run
    path: Path
    info: dict[str, Any]  # `run.json`
    config: TrainConfig
    evaluation: Document | None  # `evaluation.json`, None before the first evaluation
    epochs: pd.DataFrame | None  # `metrics.csv`, None if absent or empty
    seconds: pd.DataFrame | None  # `timing.csv`, None if absent or empty
    radii: pd.DataFrame | None  # last epoch of the perturbation log: id, class, eps, loss; None for methods without
    explanations: Document | None  # `interpretability.json`, None before the first explanation
    outdated: Sequence[str] = ()  # what to say of results left out, as they are of weights that the run has no more

    @property
    def elsewhere(self) -> bool:
        """Whether the model was trained elsewhere, so that nothing is known of that."""
        return self.config.method == ELSEWHERE

    def predictions(self, entry: Entry) -> pd.DataFrame | None:
        """Read the predictions behind a result, None if they are not there; raises UserError for an unreadable file."""
        return read_frame(self.path, entry) if predictions_part(self.path, entry).is_file() else None

    def radii_over_epochs(self, ids: Sequence[str]) -> pd.DataFrame:
        """Radii of some training images, a row per epoch and a column per id; UserError for an unreadable file."""
        rows = {}
        for part in _radii_parts(self.path):
            frame = _read_part(part, self.info["classes"]).set_index("id")["eps"]
            rows[int(part.stem.removeprefix("epoch-"))] = frame.reindex(list(ids))
        return pd.DataFrame(rows).T


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
        key, wanted = ("attack", attack) if attack else ("label", self.attacks[0] if self.attacks else None)
        return next((e for e in self.results[name] if e[key] == wanted and e["eps"] == self.reference), None)

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
        """What was concluded from a run's results on these images, such as "masking"."""
        document = self.runs[name].evaluation or {}
        found = document.get("analyses", {}).get(kind, [])
        return [entry for entry in found if population_of(entry) == self.population]

    def first(self, kind: str) -> dict[str, Entry]:
        """The first of each run's analyses of a kind, by run, of those that have any."""
        return {name: found[0] for name in self.runs if (found := self.analyses(name, kind))}


@dataclass(frozen=True, eq=False)
class Report:
    """What sections are made from."""

    runs: Sequence[RunView]
    comparisons: Sequence[Comparison]
    images: bool  # whether to show images of the data

    def unique(self, field: str) -> list[str]:
        """What the runs say in a field of `run.json`, each only once."""
        return list(dict.fromkeys(text for run in self.runs if (text := run.info.get(field))))

    def lines(self, field: str) -> list[str]:
        """Lines of a list in the `run.json` of all runs, each only once."""
        return list(dict.fromkeys(line for run in self.runs for line in run.info.get(field) or []))


def under_attack(attack: str) -> str:
    """Such as "under PGD-20", or "in the worst case"."""
    return f"in the {attack}" if attack.startswith("worst case") else f"under {attack}"


def compare(runs: Sequence[RunView]) -> list[Comparison]:
    """Sort all results by images, runs side by side."""
    found = {run.name: groups(run.evaluation) for run in runs if run.evaluation}
    named = {run.name: run for run in runs}
    comparisons = []
    for population in dict.fromkeys(group.population for each in found.values() for group in each):
        here = {name: group for name, each in found.items() for group in each if group.population == population}
        constant = next((group.constant for group in here.values() if group.constant), None)
        results = {name: group.results for name, group in here.items()}
        comparisons.append(Comparison(population, {name: named[name] for name in here}, results, constant))
    return comparisons


def read_run(path: Path, name: str) -> RunView:
    """Read a run folder, which need not have a checkpoint; raises UserError for what is unreadable or does not fit."""
    run = _read_elsewhere(path) if not (path / INFO).is_file() and (path / SUBJECT).is_file() else read_folder(path)
    explanations = read_json(path / EXPLANATIONS) if (path / EXPLANATIONS).is_file() else None
    found = {"evaluate": read_evaluation(path), "explain": explanations}
    old = {remedy: text for remedy, each in found.items() if each and (text := outdated(path, each, remedy))}
    return RunView(
        name=name,
        path=path,
        info=run.info,
        config=run.config,
        evaluation=None if "evaluate" in old else found["evaluate"],
        epochs=_read_epochs(path / "metrics.csv"),
        seconds=_read_epochs(path / "timing.csv"),
        radii=_read_part(parts[-1], run.info["classes"]) if (parts := _radii_parts(path)) else None,
        explanations=None if "explain" in old else explanations,
        outdated=list(old.values()),
    )


def _read_elsewhere(path: Path) -> Run:
    info = read_info(path / SUBJECT)
    with at(str(path / SUBJECT)):
        config = TrainConfig(**info.get("config") or {})
    check_results(path)
    return Run(path, config, info)


def _read_epochs(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as CSV ({first_line(error)})") from None
    if "epoch" not in frame:
        raise UserError(f"{path}: has no column 'epoch'")
    text = frame.select_dtypes(exclude=["number", "bool"]).columns
    if len(text) and len(frame):
        raise UserError(f"{path}: column {text[0]!r} holds something else than numbers")
    return frame.replace([np.inf, -np.inf], np.nan) if len(frame) else None


def _radii_parts(path: Path) -> list[Path]:
    return sorted((path / "perturbation.parquet").glob("epoch-*.parquet"))


def _read_part(part: Path, classes: Sequence[str]) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(part, columns=["id", "class", "eps", "loss"]).to_pandas()
    except (ValueError, OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{part}: not readable ({first_line(error)})") from None
    sound = "eps" in frame and pd.api.types.is_float_dtype(frame["eps"])
    if not sound or not np.isfinite(frame["eps"]).all() or not set(frame["class"]) <= set(classes):
        raise UserError(f"{part}: damaged, its radii or classes are not those of the run")
    return frame


def window_text(window: str | None) -> str:
    """What to say after the name of data that were read through a window of values; nothing for the whole range."""
    if window == "own":
        return "; values through the window of each file (VOI LUT)"
    return "" if window in (None, "", "full") else f"; values {window} are black and white"
