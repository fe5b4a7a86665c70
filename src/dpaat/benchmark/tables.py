"""The tables of a benchmark, for the terminal and for Markdown; every number comes from its document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group as Lines
from rich.text import Text

from dpaat.benchmark.document import Document, front_comparisons, table_title
from dpaat.benchmark.outcomes import AREA, METRICS
from dpaat.evaluation.table import percent, plain_table, titled, with_interval
from dpaat.radii import format_radius

COMPARED = {"balanced_accuracy": "clean balanced", "map": "clean mAP", AREA: "area"}
REST = ("area", "s/epoch", "masking")
FOOTNOTE = (
    "Percent, 95 % intervals. Robust accuracy and balanced accuracy: worst case over the attacks named; area: under "
    "the robust balanced accuracy over the radius, in parts of the largest; seconds per epoch include validation."
)
TESTS = "Bound: lower one-sided at 95 %; p: adjusted by Holm over all comparisons of one metric in the table."


@dataclass(frozen=True)
class Section:
    """A table with its title.

    Attributes:
        title: one line.
        headings: of the columns; the first is the row's name.
        rows: cells as text.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Lines:
        """For the terminal."""
        table = plain_table()
        for k, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if k else "left")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return titled(self.title, table)

    def markdown(self) -> str:
        """For `docs/`."""
        rule = ["---", *("---:" for _ in self.headings[1:])]
        return "\n".join("| " + " | ".join(row) + " |" for row in (self.headings, rule, *self.rows))


def sections(document: Document, *, full: bool) -> list[Section]:
    """Scores, differences from the reference, fronts and the smaller draw, for every dataset and model.

    Args:
        document: see `make_document`.
        full: with all metrics, bounds and intervals; else what a terminal has room for.
    """
    makers = (_scores, _others, _differences, _fronts, _draw)
    found = [make(document, table, full) for table in document["tables"] for make in makers]
    return [section for section in found if section.rows]


def benchmark_table(document: Document) -> Lines:
    """All sections for the terminal."""
    answers = (Text(f"warning: {line}") for line in [*_data_warnings(document), *_one_answers(document)])
    return Lines(*(section.lines() for section in sections(document, full=False)), *answers, Text(FOOTNOTE))


def benchmark_markdown(document: Document, name: str) -> str:
    """All sections for `docs/`, with the command, the data and the devices that they come from.

    Args:
        document: see `make_document`.
        name: of the grid.
    """
    cells = document["cells"]
    failed = [cell for cell in cells if cell["status"] == "failed"]
    done = sum(cell["status"] == "finished" for cell in cells)
    fingerprints = ", ".join(f"{data} `{digest}`" for data, digest in document["fingerprints"].items())
    parts = [
        f"# Benchmark `{name}`",
        f"    {document['command']}",
        f"{done} of {len(cells)} cells finished; dpaat {document['dpaat_version']}, torch {document['torch_version']}, "
        f"{document['device']}. Data: {fingerprints}.",
        f"{FOOTNOTE} {TESTS}",
        "![Clean against robust balanced accuracy, and clean mAP against mAP under attack](pareto.svg)",
    ]
    if any(front_comparisons(table) for table in document["tables"]):
        parts.append("![How far recipes stand above the front of every sweep](forest.svg)")
    for section in sections(document, full=True):
        parts += [f"## {section.title}", section.markdown()]
    if found := _data_warnings(document):
        parts += ["## Doubts about the data", "\n".join(f"- {line}" for line in found)]
    if answers := _one_answers(document):
        parts += ["## Answer one class only", "\n".join(f"- {line}" for line in answers)]
    if evidence := _evidence(document):
        parts += ["## Not to be believed without further evidence", "\n".join(evidence)]
    if failed:
        parts += ["## Failed", "\n".join(f"- {cell['name']}: {cell['error']}" for cell in failed)]
    parts.append(f"One row alone: `{document['command']} --only 'RECIPE-*'`.")
    return "\n\n".join(parts) + "\n"


def _scores(document: Document, table: Document, full: bool) -> Section:
    plan = document["evaluation"]
    radii = [format_radius(eps) for eps in plan["eps"]]
    rows = []
    for row in table["rows"]:
        scores, runs = row["scores"], f"{len(row['cells'])}/{table['replicates']}"
        if full:
            shown = [_triple(scores, at) for at in ("", *(f"@{at}" for at in radii))]
            rows.append([row["recipe"], runs, *shown, *_rest(row)])
        else:
            under = [percent(scores[f"balanced_accuracy@{at}"]["value"]) for at in radii]
            rows.append([row["recipe"], runs, _triple(scores, "").replace(" ", ""), *under])
    title = f"{_title(table)}: {plan['attacks']}; mAP under {plan['ranked']}"
    if full:
        return Section(title, ["accuracy / balanced / mAP", "runs", "clean", *radii, *REST], rows)
    return Section(f"{title}; clean: accuracy/balanced/mAP, attacked: balanced", ["", "runs", "clean", *radii], rows)


def _others(document: Document, table: Document, full: bool) -> Section:
    """What the table of scores has no room for on a terminal."""
    rows = [] if full else [[row["recipe"], *_rest(row)] for row in table["rows"]]
    return Section(f"{_title(table)}: area, cost, and whether to believe it", ["", *REST], rows)


def _rest(row: Document) -> list[str]:
    return [_score(row["scores"][AREA]), _seconds(row), _masking(row["masking"])]


def _differences(document: Document, table: Document, full: bool) -> Section:
    reference = document["reference"]
    rows = [
        [row["recipe"], *(_contrast(row["differences"][name], full) for name in COMPARED)]
        for row in table["rows"]
        if row["differences"]
    ]
    return Section(f"{_title(table)}: minus {reference}", [f"minus {reference}", *COMPARED.values()], rows)


def _fronts(document: Document, table: Document, full: bool) -> Section:
    names = [AREA, *(f"map@{format_radius(eps)}" for eps in document["evaluation"]["eps"])] if full else [AREA]
    rows = [
        [recipe, family, *(_contrast(front["differences"][name], full) for name in names)]
        for recipe, family, front in front_comparisons(table)
    ]
    title = f"{_title(table)}: above the front of a sweep, at the recipe's own clean score"
    return Section(title, ["minus front", "of", *(name.replace("map@", "mAP ") for name in names)], rows)


def _draw(document: Document, table: Document, full: bool) -> Section:
    plan = document["draw"]
    if plan is None:
        return Section("", [], [])
    radii = [format_radius(eps) for eps in plan["eps"]]
    rows = []
    for row in table["rows"]:
        scores = row["draw"]["scores"]
        names = ("balanced_accuracy", *(f"balanced_accuracy@{at}" for at in radii), AREA)
        shown = [_score(scores[name]) if full or name == AREA else percent(scores[name]["value"]) for name in names]
        rows.append([row["recipe"], f"{row['draw']['n']:,}", *shown])
    title = f"{_title(table)}: balanced accuracy on a draw, {plan['attacks']} as well"
    return Section(title, ["balanced accuracy" if full else "", "images", "clean", *radii, AREA], rows)


def _title(table: Document) -> str:
    return f"{table_title(table)}, {table['n']:,} images"


def _triple(scores: Mapping[str, Any], at: str) -> str:
    return " / ".join(percent(scores[name + at]["value"]) for name in METRICS)


def _score(score: Mapping[str, Any]) -> str:
    return with_interval(score["value"], score["interval"])


def _contrast(contrast: Mapping[str, Any], full: bool) -> str:
    text = with_interval(contrast["difference"], contrast["interval"], sign=True)
    return f"{text} bound {100 * contrast['bound']:+.1f} p {contrast['p_adjusted']:.2g}" if full else text


def _seconds(row: Document) -> str:
    if row["seconds_per_epoch"] is None:
        return "-"
    ratio = "" if row["relative_cost"] is None else f" ({row['relative_cost']:.1f}x)"
    return f"{row['seconds_per_epoch']:.3g}{ratio}"


def _masking(entries: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts on all runs of a recipe, counted where they differ."""
    counts = Counter(entry["verdict"] for entry in entries)
    if len(counts) < 2:
        return next(iter(counts), "-")
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def _data_warnings(document: Document) -> list[str]:
    """What is suspicious in the data of the cells, each line once."""
    return list(dict.fromkeys(line for cell in document["cells"] for line in cell.get("data_warnings", ())))


def _one_answers(document: Document) -> list[str]:
    """The cells whose model is the constant predictor."""
    return [f"{cell['name']} {cell['one_answer']}" for cell in document["cells"] if cell.get("one_answer")]


def _evidence(document: Document) -> list[str]:
    """Why runs are not to be believed; a run that stands in two tables is named once."""
    found = (
        f"- {entry['cell']}: {entry['summary']}"
        + "".join(f"; {name}: {why}" for name, why in entry["evidence"].items())
        for table in document["tables"]
        for row in table["rows"]
        for entry in row["masking"]
        if entry["verdict"] != "believable"
    )
    return list(dict.fromkeys(found))
