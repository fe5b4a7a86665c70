"""Results as tables for the terminal; every number comes from `evaluation.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from dpaat.evaluation.entries import Document, Entry, Group, groups
from dpaat.evaluation.specs import is_worst_case

MAX_CLASSES = 20
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "map": "mAP", "auroc": "AUROC"}
WITH_INTERVAL = ("balanced_accuracy", "map")


def percent(fraction: float | None) -> str:
    """Write a fraction as percent with one decimal; "-" for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def condition(entry: Entry) -> str:
    """What was done to the images: "clean", or attack and radius such as "PGD-20 8/255"."""
    return "clean" if entry["attack"] == "clean" else f"{entry['label']} {entry['eps_text']}"


def evaluation_table(document: Document) -> Lines:
    """Scores, then recall per class, for each set of images that the run was evaluated on."""
    tables: list[Lines] = []
    for group in groups(document):
        tables += [_scores(group), _recall(group)]
    return Lines(*tables)


def comparison_table(runs: Mapping[str, Document]) -> Lines:
    """Runs side by side: accuracy, balanced accuracy and mAP for every condition that any of them has.

    Args:
        runs: name to document, in the order wanted.
    """
    by_population: dict[str, dict[str, Group]] = {}
    for name, document in runs.items():
        for group in groups(document):
            by_population.setdefault(repr(group.population), {})[name] = group
    return Lines(*(_comparison(found) for found in by_population.values()))


def titled(title: str, table: Table) -> Lines:
    """A table under a line of its own."""
    # A table's own title would be broken at the width of the table, and read as markup.
    return Lines(Text(title, style="bold"), table, Text())


def plain_table() -> Table:
    """A table in the one style of all."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def _scores(group: Group) -> Lines:
    table = plain_table()
    table.add_column("")
    for heading in SCORES.values():
        table.add_column(heading, justify="right")
    if group.constant:
        scores = [percent(group.constant["metrics"][key]) for key in SCORES]
        table.add_row(Text(f"constant: {group.constant['predicts']}"), *scores, style="dim")
    for entry in group.results:
        table.add_row(condition(entry), *(_score(entry, key) for key in SCORES))
    answers = [Text(f"warning: the model {e['one_answer']}\n") for e in group.results if e.get("one_answer")]
    return Lines(titled(f"{group.title} (percent, 95 % intervals)", table), *answers)


def _score(entry: Entry, key: str) -> str:
    interval = (entry["intervals"] or {}).get(key) if key in WITH_INTERVAL else None
    return with_interval(entry["metrics"][key], interval)


def with_interval(value: float | None, interval: Sequence[float] | None, *, sign: bool = False) -> str:
    """Write a fraction and its interval as percent, such as "56.4 [53.0, 59.9]"; with a sign for differences."""
    if value is None or interval is None:
        return percent(value)
    text = f"{100 * value:+.1f}" if sign else percent(value)
    return f"{text} [{percent(interval[0])}, {percent(interval[1])}]"


def _recall(group: Group) -> Lines:
    support: dict[str, int] = group.results[0]["metrics"]["support"]
    first: dict[str, float | None] = group.results[0]["metrics"]["per_class_recall"]
    present = [name for name in support if support[name]]
    absent = len(support) - len(present)
    shown = present
    title = "recall per class (percent)"
    if len(present) > MAX_CLASSES:
        shown = sorted(present, key=lambda name: first[name] or 0.0)[:MAX_CLASSES]
        title = f"recall per class (percent), the {MAX_CLASSES} lowest of {len(present)}"
    worst = [entry for entry in group.results if entry["attack"] == "clean" or is_worst_case(entry["attack"])]
    entries = worst if len(worst) > 1 else group.results
    table = plain_table()
    table.add_column("class")
    table.add_column("images", justify="right")
    for entry in entries:
        table.add_column(condition(entry), justify="right")
    for name in shown:
        recalls = [percent(entry["metrics"]["per_class_recall"][name]) for entry in entries]
        table.add_row(Text(name), str(support[name]), *recalls)
    return titled(title + (f"; {absent} absent" if absent else ""), table)


def _comparison(found: Mapping[str, Group]) -> Lines:
    conditions = list(dict.fromkeys(condition(entry) for group in found.values() for entry in group.results))
    any_group = next(iter(found.values()))
    title = f"{any_group.title}: accuracy, balanced accuracy, mAP (percent)"
    table = plain_table()
    table.add_column("")
    for heading in conditions:
        table.add_column(heading, justify="right")
    if constant := any_group.constant:
        table.add_row("constant", *[_triple(constant)] * len(conditions), style="dim")
        title += f"; constant = always {constant['predicts']}"
    for name, group in found.items():
        cells = {condition(entry): _triple(entry) for entry in group.results}
        table.add_row(Text(name), *(cells.get(heading, "-") for heading in conditions))
    return titled(title, table)


def _triple(entry: Entry) -> str:
    metrics = entry["metrics"]
    return " ".join(percent(metrics[key]) for key in ("accuracy", "balanced_accuracy", "map"))
