"""The tables of a benchmark, for the terminal and for Markdown; every number comes from its document."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.text import Text

from dpaat.benchmark.document import Document, front_comparisons, table_title
from dpaat.benchmark.outcomes import AREA, METRICS
from dpaat.evaluation.statistics import few_runs
from dpaat.radii import format_radius
from dpaat.tables import Cell, Row, Table, percent, score_cell

COMPARED = {"balanced_accuracy": "clean balanced", "map": "clean mAP", AREA: "area"}
FULL = ("bound", "p")
REST = ("area", "s/epoch", "masking")
FOOTNOTE = (
    "Percent, 95 % intervals. Robust accuracy and balanced accuracy: worst case over the attacks named; area: under "
    "the robust balanced accuracy over the radius, in parts of the largest; seconds per epoch include validation."
)
ADJUSTED = "p: adjusted by Holm over all comparisons of one metric in the table."
TESTS = f"Bound: lower one-sided at 95 %; {ADJUSTED}"


def sections(document: Document, *, full: bool) -> list[Table]:
    """Scores, differences from the reference, fronts and the smaller draw, for every dataset and model.

    `full` is with all metrics, bounds and intervals; else what a terminal has room for.
    """
    makers = (_scores, _others, _differences, _fronts, _draw)
    return [found for table in document["tables"] for make in makers if (found := make(document, table, full)).rows]


def benchmark_table(document: Document) -> Lines:
    """All sections for the terminal."""
    lines = [f"warning: {line}" for line in [*_data_warnings(document), *_one_answers(document)]]
    lines += [f"note: {line}" for line in _few_runs(document)]
    tables = (table.to_rich() for table in sections(document, full=False))
    return Lines(*tables, *map(Text, lines), Text(FOOTNOTE))


def benchmark_markdown(document: Document, name: str) -> str:
    """All sections for `docs/`, with the command, the data and the devices that they come from."""
    cells = document["cells"]
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
        parts.append("![Distance of recipes from the front of every sweep](forest.svg)")
    for table in sections(document, full=True):
        parts += [f"## {table.title}", table.to_markdown()]
    for title, lines in doubts(document).items():
        parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    parts.append(f"One row alone: `{document['command']} --only 'RECIPE-*'`.")
    return "\n\n".join(parts) + "\n"


def _scores(document: Document, table: Document, full: bool) -> Table:
    plan = document["evaluation"]
    radii = [format_radius(eps) for eps in plan["eps"]]
    rows = []
    for row in table["rows"]:
        scores = row["scores"]
        triples = [
            " / ".join(percent(scores[name + at]["value"]) for name in (*METRICS, "auroc") if name + at in scores)
            for at in ("", *(f"@{r}" for r in radii))
        ]
        under = [percent(scores[f"balanced_accuracy@{at}"]["value"]) for at in radii]
        shown = [*triples, _area(row), *cost_cells(row)] if full else [triples[0].replace(" ", ""), *under]
        rows.append(Row(row["recipe"], [f"{len(row['cells'])}/{table['replicates']}", *shown]))
    title = f"{_title(table)}: {plan['attacks']}; mAP under {plan['ranked']}"
    several = any("auroc" in row["scores"] for row in table["rows"])
    if full:
        return Table(
            "accuracy / balanced / mAP" + several * " / AUROC", ["runs", "clean", *radii, *REST], rows, title=title
        )
    title += f"; clean: accuracy/balanced/mAP{several * '/AUROC'}, attacked: balanced"
    return Table("", ["runs", "clean", *radii], rows, title=title)


def _others(document: Document, table: Document, full: bool) -> Table:
    """What the table of scores has no room for on a terminal."""
    rows = [] if full else [Row(row["recipe"], [_area(row), *cost_cells(row)]) for row in table["rows"]]
    return Table("", REST, rows, title=f"{_title(table)}: area, cost, gradient masking")


def cost_cells(row: Document) -> list[Cell | str]:
    """Seconds per epoch, and the verdicts of the masking checks."""
    seconds, cost = row["seconds_per_epoch"], row["relative_cost"]
    spent = "-" if seconds is None else f"{seconds:.3g}" + ("" if cost is None else f" ({cost:.1f}x)")
    verdicts = Counter({"believable": "no sign"}.get(entry["verdict"], entry["verdict"]) for entry in row["masking"])
    masking = ", ".join(f"{n} {verdict}" if len(verdicts) > 1 else verdict for verdict, n in verdicts.items())
    return [spent, masking or "-"]


def _area(row: Document) -> Cell:
    return score_cell(**row["scores"][AREA])


def _differences(document: Document, table: Document, full: bool) -> Table:
    minus = f"minus {document['reference']}"
    rows = [
        Row(row["recipe"], [contrast_cell(row["differences"][name], FULL if full else ()) for name in COMPARED])
        for row in table["rows"]
        if row["differences"]
    ]
    return Table(minus, list(COMPARED.values()), rows, title=f"{_title(table)}: {minus}")


def _fronts(document: Document, table: Document, full: bool) -> Table:
    found = front_comparisons(table)
    names = list(found[0][2]["differences"]) if full and found else [AREA]
    rows = [
        Row(recipe, [family, *(contrast_cell(front["differences"][name], FULL if full else ()) for name in names)])
        for recipe, family, front in found
    ]
    title = f"{_title(table)}: above the front of a sweep, at the recipe's own clean score"
    columns = ["of", *(name.replace("map@", "mAP ").replace("@", " ") for name in names)]
    return Table("minus front", columns, rows, title=title)


def _draw(document: Document, table: Document, full: bool) -> Table:
    plan = document["draw"]
    if plan is None:
        return Table("", [], [])
    radii = [format_radius(eps) for eps in plan["eps"]]
    rows = []
    for row in table["rows"]:
        scores = row["draw"]["scores"]
        names = ("balanced_accuracy", *(f"balanced_accuracy@{at}" for at in radii), AREA)
        shown = [score_cell(scores[n]["value"], scores[n]["interval"] if full or n == AREA else None) for n in names]
        rows.append(Row(row["recipe"], [f"{row['draw']['n']:,}", *shown]))
    title = f"{_title(table)}: balanced accuracy on a draw, {plan['attacks']} as well"
    return Table("balanced accuracy" if full else "", ["images", "clean", *radii, AREA], rows, title=title)


def _title(table: Document) -> str:
    return f"{table_title(table)}, {table['n']:,} images"


def contrast_cell(contrast: Mapping[str, Any], shown: Sequence[str] = ("p",)) -> Cell:
    """A difference with its interval, its one-sided bound ("bound") and its p-value ("p")."""
    texts = {"bound": f" bound {100 * max(contrast['bound'], -1.0):+.1f}", "p": f" p {contrast['p_adjusted']:.2g}"}
    more = "".join(texts[name] for name in shown)
    return score_cell(contrast["difference"], contrast["interval"], sign=True, more=more)


def doubts(document: Document) -> dict[str, list[str]]:
    """What else there is to know beside the numbers, by title; titles without lines are left out."""
    found = {
        "Doubts about the data": _data_warnings(document),
        "Answer one class only": _one_answers(document),
        "Few runs": _few_runs(document),
        "Gradient masking": _evidence(document),
        "Failed": [f"{cell['name']}: {cell['error']}" for cell in document["cells"] if cell["status"] == "failed"],
    }
    return {title: lines for title, lines in found.items() if lines}


def _data_warnings(document: Document) -> list[str]:
    """What is suspicious in the data of the cells, each line once."""
    return list(dict.fromkeys(line for cell in document["cells"] for line in cell.get("data_warnings", ())))


def _one_answers(document: Document) -> list[str]:
    """The cells whose model is the constant predictor."""
    return [f"{cell['name']} {cell['one_answer']}" for cell in document["cells"] if cell.get("one_answer")]


def _few_runs(document: Document) -> list[str]:
    """Cautions about the intervals of recipes that have few runs of a model."""
    cells = {cell["name"]: cell for cell in document["cells"]}
    found: dict[str, dict[str, None]] = {}
    for row in (row for table in document["tables"] for row in table["rows"]):
        runs: dict[str, list[tuple[str | None, int]]] = {}
        for cell in map(cells.__getitem__, row["cells"]):
            runs.setdefault(cell["model"], []).append((cell["fold"], cell["seed"]))
        for line in filter(None, map(few_runs, runs.values())):
            found.setdefault(line, {})[row["recipe"]] = None
    return [f"{', '.join(recipes)}: {line}" for line, recipes in found.items()]


def _evidence(document: Document) -> list[str]:
    """Checks for gradient masking that did not pass; a run of two tables is named once."""
    found = (entry for table in document["tables"] for row in table["rows"] for entry in row["masking"])
    lines = (
        "; ".join([f"{entry['cell']}: {entry['summary']}", *(f"{n}: {why}" for n, why in entry["evidence"].items())])
        for entry in found
        if entry["verdict"] != "believable"
    )
    return list(dict.fromkeys(lines))
