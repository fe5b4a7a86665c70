"""Leaderboard: `report.html`, one self-contained page of a benchmark, one row a recipe."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import dpaat
from dpaat.benchmark.document import Document, table_title
from dpaat.benchmark.jobs import JobRun
from dpaat.benchmark.outcomes import AREA
from dpaat.benchmark.tables import ADJUSTED, COMPARED, FOOTNOTE, contrast_cell, cost_cells, doubts
from dpaat.errors import UserError
from dpaat.evaluation.results import EVALUATION_FILE
from dpaat.radii import format_radius
from dpaat.report.figures import Estimate, pareto_plot
from dpaat.report.page import templates, write_report
from dpaat.storage import write_text
from dpaat.tables import Cell, Column, Row, Table, score_cell

PAGE = "report.html"
SORTING = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows].at(-1).cells;
  const key = (row, k) => {
    const text = row.cells[k].textContent.trim(), number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  [...heads].forEach((head, k) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => typeof a === typeof b ? (a > b) - (a < b) : typeof a === "number" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].sort((a, b) => order(key(a, k), key(b, k)));
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    };
  });
}
"""
"""Makes every head of a table a button that sorts by its column: largest first, then smallest first."""


def write_leaderboard(document: Document, runs: Sequence[JobRun], name: str, out: Path) -> list[str]:
    """Write the page, and the report of every run that is finished here and has none since its last evaluation.

    Reports of runs are `cells/NAME/report.html`, without images of the data; the page links them. Returns which reports
    could not be written, and why.
    """
    problems: list[str] = []
    reports = {run.cell.name: address for run in runs if (address := _report(run, out, problems))}
    seal = base64.b64encode(hashlib.sha256(SORTING.encode()).digest()).decode()
    parts = [
        (table_title(table), f"{table['n']:,} images", _table(document, table, reports), _plot(document, table))
        for table in document["tables"]
    ]
    cells = document["cells"]
    text = (
        templates()
        .get_template("leaderboard.html.j2")
        .render(
            name=name,
            document=document,
            done=sum(cell["status"] == "finished" for cell in cells),
            parts=parts,
            doubts=doubts(document),
            unchecked=document["masking"] is None and "masking" not in document["evaluation"]["suites"],
            notes=[FOOTNOTE, ADJUSTED],
            script=SORTING,
            seal=seal,
            version=dpaat.__version__,
        )
    )
    write_text(out / PAGE, text)
    return problems


def _report(run: JobRun, out: Path, problems: list[str]) -> str | None:
    """Address of a run's own page, which is written where it is missing or older than the evaluation."""
    evaluation, page = run.folder / EVALUATION_FILE, run.folder / PAGE
    if not evaluation.is_file():
        return None
    if not page.is_file() or page.stat().st_mtime < evaluation.stat().st_mtime:
        try:
            write_report([run.folder], page, images=False)
        except UserError as error:
            problems.append(f"{run.cell.name}: no report ({error})")
            return None
    return page.relative_to(out).as_posix()


def _table(document: Document, table: Document, reports: Mapping[str, str]) -> Table:
    """One row a recipe, the largest robust area first."""
    radii = [format_radius(eps) for eps in document["evaluation"]["eps"]]
    robust = [f"balanced_accuracy@{radius}" for radius in radii]
    minus = f"minus {document['reference']}"
    columns = [
        Column("runs"),
        *(Column(text, "clean") for text in ("accuracy", "balanced", "mAP")),
        *(Column(radius, "robust balanced accuracy") for radius in radii),
        Column("area", "robust balanced accuracy"),
        *(Column(text, minus) for text in COMPARED.values()),
        Column("s/epoch"),
        Column("masking", left=True),
        Column("reports", left=True),
    ]
    rows = []
    for row in sorted(table["rows"], key=lambda row: -row["scores"][AREA]["value"]):
        scores, differences = row["scores"], row["differences"]
        shown = ["accuracy", "balanced_accuracy", "map", *robust, AREA]
        cells = [score_cell(**scores[each], kind="key" if each == AREA else "") for each in shown]
        cells += [contrast_cell(differences[each]) if differences else Cell("-") for each in COMPARED]
        links = [(_short(name, document), reports[name]) for name in row["cells"] if name in reports]
        runs = f"{len(row['cells'])}/{table['replicates']}"
        rows.append(Row(row["recipe"], [runs, *cells, *cost_cells(row), Cell("" if links else "-", links=links)]))
    return Table("recipe", columns, rows)


def _short(name: str, document: Document) -> str:
    """What tells a run from others of its recipe."""
    cell = next(each for each in document["cells"] if each["name"] == name)
    return " ".join(filter(None, [f"fold {cell['fold']}" if cell["fold"] else "", f"seed {cell['seed']}"]))


def _plot(document: Document, table: Document) -> object:
    points = {
        row["recipe"]: (Estimate(**row["scores"]["balanced_accuracy"]), Estimate(**row["scores"][AREA]))
        for row in table["rows"]
    }
    caption = f"{table_title(table)}: clean against robust, with the front of those that no other beats in both."
    labels = {"x_label": "clean balanced accuracy", "y_label": "area under the robust\nbalanced accuracy"}
    return pareto_plot(points, caption=caption, **labels)
