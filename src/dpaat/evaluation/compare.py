"""Paired comparison of runs, image by image, with p-values adjusted by Holm's method."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.console import Group as Lines
from rich.text import Text

import dpaat
from dpaat.errors import UserError
from dpaat.evaluation.entries import Document, Entry, source_of
from dpaat.evaluation.replicates import Predictions
from dpaat.evaluation.results import EVALUATION_FILE, check_results, read_evaluation, require_present
from dpaat.evaluation.schema import COMPARED
from dpaat.evaluation.specs import is_worst_case
from dpaat.evaluation.statistics import adjust, few_runs, paired_difference, pooled_intervals
from dpaat.evaluation.stored import read_predictions
from dpaat.evaluation.tables import SCORES
from dpaat.storage import write_text, writing
from dpaat.tables import Cell, Column, Kind, Row, Table, score_cell
from dpaat.validation import misfit

SCHEMA_VERSION = 1
ELSEWHERE = (None, None)
"""Fold and seed of a model that was trained elsewhere."""
METRICS = {name: heading for name, heading in SCORES.items() if name != "auroc"}
SHOWN = ("data", "split", "attack", "label", "norm", "steps", "eps", "eps_text", "budgets")
PAIRED = ("batch_size", "seed", "precision")
"""Settings that must agree for random starts to be the same in two runs."""

Recipes = dict[str, dict[tuple[str | None, int | None], Path]]
"""Name to evaluated folders that differ in seed and fold only, by (fold, seed)."""


def compare_runs(runs: Sequence[Path]) -> Document:
    """Paired comparison of evaluated runs on the same images under the same attacks.

    Runs of one recipe that differ in seed or fold are pooled. Every recipe is compared with the first one given.
    Intervals and p-values respect that images come in lesions (`dpaat.evaluation.statistics`); p-values are adjusted
    by Holm's method over all comparisons of one metric.

    Returns `reference`; `recipes`, their runs; `notes` on what the runs were not evaluated alike by; `conditions`, each
    with the `scores` of every recipe and the `differences` from the reference, recipe minus reference. Raises UserError
    for fewer than two recipes, a run that was not evaluated, or nothing that all were evaluated on.
    """
    documents = {path: _evaluated(path) for path in dict.fromkeys(runs)}
    names = run_names([*documents])
    recipes = _recipes(documents)
    reference, *others = recipes
    if not others:
        raise UserError("compare: give runs of at least two recipes; these differ in seed and fold only")
    known = {replicate for runs in recipes.values() for replicate in runs} - {ELSEWHERE}
    if len(known) == 1 and all(len(runs) == 1 for runs in recipes.values()):
        # A model from elsewhere has no fold and seed; that both saw the same images is looked at below.
        recipes = {name: dict.fromkeys(known, *runs.values()) for name, runs in recipes.items()}
    replicates = list(recipes[reference])
    for name in others:
        if recipes[name].keys() != recipes[reference].keys():
            pair = (recipes[name], recipes[reference])
            ours, theirs = (", ".join(f"fold {fold or '-'} seed {seed}" for fold, seed in each) for each in pair)
            raise UserError(
                f"compare: {name} and {reference} were not run with the same folds and seeds ({ours} against {theirs})"
            )
    conditions: list[Document] = []
    shared, notes = _common(documents)
    notes += [line] if (line := few_runs(replicates)) else []
    for key, entry in shared.items():
        outcomes = {
            name: [_predictions(runs[each], documents[runs[each]], key) for each in replicates]
            for name, runs in recipes.items()
        }
        first = outcomes[reference]
        for name in others:
            if not all(a.same_images(b) for a, b in zip(first, outcomes[name], strict=True)):
                raise UserError(
                    f"compare: {name} and {reference} were not evaluated on the same images of "
                    f"{entry['data']}, {entry['split']}; evaluate them with the same --max-samples and --seed"
                )
        about = {name: entry.get(name) for name in SHOWN} | {
            "n": sum({tuple(each.ids): len(each.ids) for each in first}.values())
        }
        about["runs"] = len(first)
        scores = {}
        for name, each in outcomes.items():
            try:
                scores[name] = pooled_intervals(each)
            except ValueError as error:
                raise UserError(
                    f"compare: the runs of {name} cannot be pooled: {error}; seeds that are to be pooled need one "
                    "split, see --splits and --fold of `dpaat train`"
                ) from None
        differences = {name: paired_difference(outcomes[name], first) for name in others}
        conditions.append({**about, "scores": scores, "differences": differences})
    adjust(found for each in conditions for found in each["differences"].values())
    return {
        "schema_version": SCHEMA_VERSION,
        "dpaat_version": dpaat.__version__,
        "reference": reference,
        "recipes": {name: [names[path] for path in runs.values()] for name, runs in recipes.items()},
        "fingerprints": sorted({document["data_fingerprint"] for document in documents.values()}),
        "data_warnings": {
            str(path): found for path, document in documents.items() if (found := document.get("data_warnings"))
        },
        "notes": notes,
        "conditions": conditions,
    }


def run_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The names of run folders in a comparison; of those of the same name, the whole paths."""
    counts = Counter(path.resolve().name for path in paths)
    return {path: name if counts[name := path.resolve().name] == 1 else str(path) for path in paths}


def write_comparison(document: Document, out: Path) -> None:
    """Write a comparison as JSON; raises UserError if the file cannot be written."""
    with writing(out):
        write_text(out, json.dumps(document, indent=1, allow_nan=False) + "\n")


def differences_table(document: Document, *, full: bool = False) -> Lines:
    """Every recipe against the reference: scores, difference with its interval and adjusted p-value, a row a radius.

    Balanced accuracy on clean images and in the worst case, for 80 columns; `full` is all metrics and attacks.
    """
    reference, tables = document["reference"], []
    others = [name for name in document["recipes"] if name != reference]
    attacks = dict.fromkeys((e["label"], is_worst_case(e["attack"])) for e in document["conditions"])
    attacks.pop(("clean", False), None)
    worst = [label for label, is_worst in attacks if is_worst]
    shown = worst if worst and not full else [label for label, _ in attacks]
    metrics = METRICS if full else {"balanced_accuracy": "balanced accuracy"}
    images_of = itemgetter("data", "split", "n", "runs")
    about = dict.fromkeys(map(images_of, document["conditions"]))
    for images, name, (metric, heading), attack in product(about, others, metrics.items(), shown or ["clean"]):
        rows = []
        for each in document["conditions"]:
            here = images_of(each) == images and each["label"] in ("clean", attack)
            if here and (found := each["differences"][name].get(metric)):
                scores = [score_cell(**each["scores"][recipe][metric]) for recipe in (reference, name)]
                place = "clean" if each["label"] == "clean" else each["eps_text"]
                cell = difference_cell(found)
                interval, _, p_value = cell.small.partition(" p ")
                rows.append(Row(place, [*scores, Cell(cell.text, interval, cell.kind), Cell(p_value)]))
        names = [each if len(each) <= 16 else f"{each[:15]}…" for each in (reference, name)]
        columns = [*(Column(each, whole=True) for each in names), Column("difference")]
        under = "" if attack == "clean" else f", {attack}"
        many = f" ({images[3]} runs each)" if images[3] > 1 else ""
        title = f"{name} against {reference}: {images[0]}, {images[1]}, {images[2]:,} images{many}{under}: {heading}"
        tables += [Table("", [*columns, Column("p")], rows, title=title).to_rich()] if rows else []
    hidden = len(attacks) - len(shown)
    notes = [f"note: {line}" for line in document.get("notes", [])]
    notes += ["percent, 95 % intervals; p adjusted by Holm over all comparisons of a metric"]
    notes += [] if full else [f"--all shows all metrics{f' and other attacks ({hidden})' if hidden else ''}"]
    return Lines(*tables, *map(Text, notes))


def difference_cell(found: Mapping[str, Any], p_value: str = "p ") -> Cell:
    """A difference with its interval and adjusted p-value; in bold where the interval does not hold 0."""
    low, high = found["interval"]
    kind: Kind = "key" if low * high > 0 else ""
    more = f" {p_value}{found['p_adjusted']:.2g}"
    return score_cell(found["difference"], found["interval"], sign=True, kind=kind, more=more)


def _evaluated(path: Path) -> Document:
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder")
    document = read_evaluation(path)
    if document is None:
        raise UserError(f"{path}: not evaluated yet; run `dpaat evaluate {path}` first")
    if where := misfit(document, COMPARED):
        raise UserError(f"{path / EVALUATION_FILE}: damaged, it has no usable {where!r}; evaluate {path} again")
    require_present(path, document)
    check_results(path)
    return document


def _recipes(documents: Mapping[Path, Document]) -> Recipes:
    """Sort runs into recipes, named by the method, or by the first run's folder where that would not be unique."""
    found: dict[tuple[Any, ...], dict[tuple[str | None, int | None], Path]] = {}
    for path, document in documents.items():
        recipe = (document["method"], document["model"], document["recipe"] or path.resolve())
        runs, replicate = found.setdefault(recipe, {}), (document["fold"], document["training_seed"])
        if replicate in runs:
            raise UserError(f"compare: {path} and {runs[replicate]} have the same recipe, fold and seed; drop one")
        runs[replicate] = path
    methods = [method for method, _, _ in found]
    folders = [next(iter(runs.values())) for runs in found.values()]
    names = [
        method if method and methods.count(method) == 1 else folder.resolve().name
        for method, folder in zip(methods, folders, strict=True)
    ]
    return dict(zip(names if len(set(names)) == len(names) else map(str, folders), found.values(), strict=True))


def _attack(entry: Entry) -> tuple[Any, ...]:
    images = (entry["data"], entry["fingerprint"], entry["split"])
    return (*images, entry["attack"], entry["norm"], entry["steps"], round(entry["eps"], 9))


def _key(entry: Entry) -> tuple[Any, ...]:
    budgets = entry.get("budgets")  # which entries of earlier versions lack; these are compared with each other only
    return (*_attack(entry), None if budgets is None else tuple(sorted(budgets.items())), source_of(entry))


def _common(documents: Mapping[Path, Document]) -> tuple[dict[tuple[Any, ...], Entry], list[str]]:
    """Conditions under which all runs were evaluated, in the order of the first, and what differs between them.

    The largest set of images counts.
    """
    every = [{_key(entry): entry for entry in document["results"]} for document in documents.values()]
    shared = {key: entry for key, entry in every[0].items() if all(key in other for other in every)}
    notes, alike = [], {_attack(entry) for entry in shared.values()}
    attacks = [{_attack(entry): entry for entry in found.values()} for found in every]
    if left := [e for key, e in attacks[0].items() if key not in alike and all(key in other for other in attacks)]:
        kinds = dict.fromkeys("worst case" if is_worst_case(e["attack"]) else e["attack"] for e in left)
        notes.append(
            f"{', '.join(kinds)}: left out, of other budgets or another source in some runs; evaluate all alike"
        )
    if not shared:
        contents = [{(e["data"], e["split"]): e["fingerprint"] for e in found.values()} for found in every]
        for data, split in (images for images in contents[0] if all(images in other for other in contents)):
            prints = sorted({found[data, split] for found in contents})
            if len(prints) > 1:
                notes.insert(0, f"{data}, {split}: other images, labels or groups, fingerprints {', '.join(prints)}")
        why = f" ({notes[0]})" if notes else ""
        raise UserError(f"compare: the runs have no evaluation in common{why}; evaluate them with the same options")
    attacked = [[found[key] for found in every] for key, entry in shared.items() if entry["attack"] != "clean"]
    differ = [name for name in PAIRED if any(len({e[name] for e in each if name in e}) > 1 for each in attacked)]
    if differ:
        notes.append(f"the runs were attacked with another {', '.join(differ)}: their random starts are not paired")
    return shared, notes


def _predictions(path: Path, document: Document, key: tuple[Any, ...]) -> Predictions:
    entries = (entry for entry in document["results"] if _key(entry) == key)
    return read_predictions(path, document, max(entries, key=lambda entry: entry["n"]))
