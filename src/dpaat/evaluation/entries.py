"""Entries of `evaluation.json`: what they say, which images they are about, how they are told apart and sorted."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dpaat.data.seen import LeftOut
from dpaat.evaluation.metrics import Metrics
from dpaat.evaluation.specs import is_worst_case, own_budgets, takes_source
from dpaat.evaluation.suite import Result
from dpaat.radii import format_radius

Entry = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True)
class Population:
    """The images that a result is about."""

    data: str  # name of the dataset, such as "ham10000"
    fingerprint: str  # the dataset's
    split: str  # "train", "val", "test" or "all"
    n: int  # number of images, fewer than the split has after a draw
    draw: int = 0  # seed of the draw, 0 also where there was none


@dataclass(frozen=True)
class Group:
    """All results on the same images, with the constant predictor's."""

    population: Population
    results: list[Entry]
    constant: Entry | None

    @property
    def title(self) -> str:
        """Such as "ham10000, test, 1,987 images"."""
        drawn = f", draw {self.population.draw}" if self.population.draw else ""
        return f"{self.population.data}, {self.population.split}, {self.population.n:,} images{drawn}"


def result_entry(result: Result, population: Population, intervals: Entry | None = None, **settings: Any) -> Entry:
    """Describe a result for `evaluation.json`; `settings` are what else it depends on, such as checkpoint and seed."""
    spec, source = result.spec, settings.get("source")
    return {
        **vars(population),
        "attack": spec.name,
        "label": spec.label + (f" from {source[:8]}" if source and takes_source(spec.name) else ""),
        "norm": None if spec.name == "clean" else spec.norm,
        "steps": spec.steps,
        "start": spec.start,
        "eps": result.eps,
        "eps_text": format_radius(result.eps),
        **settings,
        **({"budgets": dict(spec.budgets)} if spec.budgets else {}),
        "metrics": result.metrics,
        "intervals": intervals,
    }


def constant_entry(metrics: Metrics, population: Population, predicts: str) -> Entry:
    """Describe the constant predictor that always answers `predicts`."""
    return {**vars(population), "predicts": predicts, "metrics": metrics}


def groups(document: Document) -> list[Group]:
    """Sort a document's results by the images they are about."""
    constants = {population_of(entry): entry for entry in document["constant"]}
    found: dict[Population, list[Entry]] = {}
    for entry in document["results"]:
        found.setdefault(population_of(entry), []).append(entry)
    return [Group(population, entries, constants.get(population)) for population, entries in found.items()]


def note_of(entry: Entry) -> str:
    """What to say of images that are left out of a result, or were learned; empty where there is nothing to say."""
    found = entry.get("left_out")
    left_out = "" if found is None else LeftOut(found["learned"], found["related"], found["by"]).note
    return "; ".join(filter(None, [left_out, learned_note(entry.get("learned", 0))]))


def learned_note(learned: int) -> str:
    """What to say of images that a model is measured on and was trained or validated on; empty where there are none."""
    return f"trained or validated on {learned:,} of these images: scores on new ones are lower" if learned else ""


def population_of(entry: Entry) -> Population:
    """The images that an entry is about."""
    return Population(entry["data"], entry["fingerprint"], entry["split"], entry["n"], entry.get("draw", 0))


def part_name(entry: Entry) -> str:
    """File name of a result's predictions; the same kind of result always has the same one."""
    attack = (entry["attack"], f"{entry['steps'] or 1}", entry["norm"], f"{entry['eps']:.6g}")
    return part_stem(entry, *(attack if entry["attack"] != "clean" else ("clean",)), *_details(entry)) + ".parquet"


def part_stem(entry: Entry, *details: str) -> str:
    """File name, without its suffix, of what belongs to an entry's images."""
    drawn = [f"draw{entry['draw']}"] if entry.get("draw") else []
    parts = (entry["data"], entry["fingerprint"], entry["split"], f"n{entry['n']}", *drawn, *details)
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)


def key_of(entry: Entry) -> tuple[object, ...]:
    """Key of a result: of two with the same key, the later replaces the earlier."""
    about = (entry["attack"], entry["norm"], entry["steps"], round(entry["eps"], 9), *_details(entry))
    return (population_of(entry), *about)


def source_of(entry: Entry) -> str | None:
    """Checkpoint of the model that the images were made on, where that is another one than was attacked."""
    return entry.get("source") if takes_source(entry["attack"]) else None


def _details(entry: Entry) -> list[str]:
    """What tells results of one attack apart: budgets of a suite's attacks that are not the default, and the source."""
    source = source_of(entry) if "attack" in entry else None
    return [*own_budgets(entry.get("budgets") or {}), *([source] if source else [])]


def own_words(entries: Iterable[Entry]) -> str:
    """What to add to a title: budgets that are not the attacks' own, such as " (PGD-1)"; "" where there are none."""
    own = dict.fromkeys(text for entry in entries for text in own_budgets(entry.get("budgets") or {}))
    return f" ({', '.join(own)})" if own else ""


def subject_of(entry: Entry) -> tuple[Any, ...]:
    """Images, norm and budgets, which the entries of an analysis are told apart and sorted by."""
    return (*vars(population_of(entry)).values(), entry.get("norm") or "", *_details(entry))


def order_of(entry: Entry) -> tuple[Any, ...]:
    """The order of results: clean first, the worst case last."""
    return (
        *vars(population_of(entry)).values(),
        entry["attack"] != "clean",
        is_worst_case(entry["attack"]),
        entry["attack"],
        entry["norm"] or "",
        entry["steps"] or 0,
        _details(entry),  # as one, since the radius follows
        entry["eps"],
    )
