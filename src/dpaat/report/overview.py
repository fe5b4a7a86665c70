"""Overview table: the numbers that matter most, one row per run."""

from __future__ import annotations

from collections.abc import Sequence

from dpaat.evaluation.tables import score_cells
from dpaat.radii import format_radius
from dpaat.report.comparisons import Comparison, under_attack
from dpaat.report.sections.masking import verdict_cell
from dpaat.tables import Cell, Column, Row, Table, score_cell


def overview_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Balanced accuracy clean and attacked, its area over the radii and the masking checks.

    One table of the images that most runs were evaluated on, and further ones for runs that it leaves out.
    """
    tables: list[Table] = []
    seen: set[str] = set()
    for comparison in sorted(comparisons, key=lambda each: (-len(each.runs), -each.population.n)):
        if not seen.issuperset(comparison.runs):
            tables.append(_table(comparison))
            seen.update(comparison.runs)
    return tables


def _table(chosen: Comparison) -> Table:
    columns = [Column("clean")]
    if chosen.reference is not None:
        at = f"{chosen.attacks[0]} {format_radius(chosen.reference)}"
        columns += [Column(at), Column("area"), Column("masking checks", left=True)]
    rows = []
    if constant := chosen.constant:
        cells = [score_cell(constant["metrics"]["balanced_accuracy"])] * len(columns[:3])
        rows.append(Row(f"always {constant['predicts']}", [*cells, Cell("")][: len(columns)], quiet=True))
    for name in chosen.runs:
        cells = score_cells(chosen.clean.get(name), ["balanced_accuracy"])
        if chosen.reference is not None:
            cells += score_cells(chosen.at_reference(name), ["balanced_accuracy"])
            cells += [score_cell(chosen.area(name)), verdict_cell(chosen.first("masking").get(name))]
        rows.append(Row(name, cells))
    note = f"Balanced accuracy in percent with 95 % intervals; {chosen.title}."
    if chosen.reference is not None:
        note += f" Area: its mean over the radii {under_attack(chosen.attacks[0])}."
    return Table("balanced accuracy", columns, rows, note=note)
