"""Report section: gradient-masking diagnostics; overview table, with their verdicts beside the scores."""

from collections.abc import Sequence
from dataclasses import replace

from dpaat.evaluation.entries import Entry
from dpaat.evaluation.tables import score_cells, verdict_table
from dpaat.radii import format_radius
from dpaat.report.blocks import Block, Heading, Text, register_section
from dpaat.report.view import Comparison, Report, under_attack
from dpaat.tables import Cell, Column, Kind, Row, Table, score_cell

VERDICTS: dict[str, tuple[Kind, str]] = {
    "believable": ("pass", "no check found a sign that gradients are hidden"),
    "suspicious": ("warn", "a check warns; read its evidence before you believe the numbers above"),
    "masked": ("fail", "a check failed: gradients are hidden, and the robustness above is not to be believed"),
    "degenerate": ("fail", "the answer hardly depends on the image"),
}


@register_section("belief", "Can that be believed", order=40)
def masking(report: Report) -> list[Block]:
    """The verdicts of all checks, runs side by side, and the evidence of each."""
    blocks: list[Block] = []
    for comparison in report.comparisons:
        if found := comparison.first("masking"):
            blocks += [Heading(f"Masking checks: {comparison.title}"), _verdicts(found)]
            for name, entry in found.items():
                table = verdict_table("check", {check["name"]: check for check in entry["checks"]})
                blocks.append(replace(table, folded=f"Evidence: {name}", open=len(found) == 1))
    checked = {name for each in report.comparisons for name in each.first("masking")}
    attacked = dict.fromkeys(name for each in report.comparisons if each.attacks for name in each.runs)
    if missing := [name for name in attacked if name not in checked]:
        text = (
            f"Not checked for gradient masking: {', '.join(missing)}. Attacks that follow a hidden gradient fail "
            "without the model being robust; `dpaat evaluate RUN --suite masking` looks for it."
        )
        blocks.append(Text(text, "warn"))
    return blocks or [Text("There is no robustness to be believed yet.", "note")]


def _verdicts(found: dict[str, Entry]) -> Table:
    by_run = [{check["name"]: check["verdict"] for check in entry["checks"]} for entry in found.values()]
    rows = [
        Row(check, [Cell(each[check], kind=each[check]) if check in each else Cell("-") for each in by_run])
        for check in dict.fromkeys(check for each in by_run for check in each)
    ]
    rows.append(Row("all together", [_verdict(entry) for entry in found.values()]))
    words = dict.fromkeys(word for entry in found.values() if (word := _word(entry)) in VERDICTS)
    note = "; ".join(f"{word}: {VERDICTS[word][1]}" for word in words) + "."
    return Table("check", [Column(name, left=True) for name in found], rows, note=note)


def _word(entry: Entry) -> str:
    """The word that sums the checks up, such as "believable"."""
    return str(entry["summary"]).split()[0]


def _verdict(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell("not checked", kind="skipped")
    return Cell(word := _word(entry), kind=VERDICTS.get(word, ("", ""))[0])


def overview_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Balanced accuracy clean and attacked, its area over the radii and the masking checks, one row per run.

    One table of the images that most runs were evaluated on, and further ones for runs that it leaves out.
    """
    tables: list[Table] = []
    seen: set[str] = set()
    for comparison in sorted(comparisons, key=lambda each: (-len(each.runs), -each.population.n)):
        if not seen.issuperset(comparison.runs):
            tables.append(_overview(comparison))
            seen.update(comparison.runs)
    return tables


def _overview(chosen: Comparison) -> Table:
    columns, rows = [Column("clean")], []
    note = f"Balanced accuracy in percent with 95 % intervals; {chosen.title}."
    if chosen.reference is not None:
        at = f"{chosen.attacks[0]} {format_radius(chosen.reference)}"
        columns += [Column(at), Column("area"), Column("masking checks", left=True)]
        note += f" Area: its mean over the radii {under_attack(chosen.attacks[0])}."
    if constant := chosen.constant:
        cells = [*[score_cell(constant["metrics"]["balanced_accuracy"])] * 3, Cell("")]
        rows.append(Row(f"always {constant['predicts']}", cells[: len(columns)], quiet=True))
    for name in chosen.runs:
        cells = score_cells(chosen.clean.get(name), ["balanced_accuracy"])
        if chosen.reference is not None:
            cells += score_cells(chosen.at_reference(name), ["balanced_accuracy"])
            cells += [score_cell(chosen.area(name)), _verdict(chosen.first("masking").get(name))]
        rows.append(Row(name, cells))
    return Table("balanced accuracy", columns, rows, note=note)
