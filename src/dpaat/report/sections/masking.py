"""Report section: gradient-masking diagnostics; overview table, with their verdicts beside the scores."""

from collections.abc import Sequence

from dpaat.evaluation.entries import Entry
from dpaat.evaluation.masking_verdicts import images_checked
from dpaat.evaluation.tables import MASKING, score_cells, verdict_table
from dpaat.radii import format_radius
from dpaat.report.blocks import Block, Fold, Heading, Text, register_section
from dpaat.report.comparison import Comparison, Report
from dpaat.report.verdict import under_attack
from dpaat.tables import Cell, Column, Row, Table, score_cell


@register_section("masking", "Is the gradient masked?", order=40)
def masking(report: Report) -> list[Block]:
    """The verdicts of all checks, runs side by side, and the evidence of each."""
    blocks: list[Block] = []
    shown: list[Entry] = []
    for comparison in report.comparisons:
        # Checks on a draw count for all images of their split, but are shown once.
        found = {name: entry for name, entry in comparison.masked.items() if entry not in shown}
        shown += found.values()
        if found:
            blocks += [Heading(f"Masking checks: {comparison.title}{comparison.in_norm}"), _summary(found)]
            evidence = [
                block
                for name, entry in found.items()
                for block in (Heading(name), verdict_table("check", {each["name"]: each for each in entry["checks"]}))
            ]
            blocks.append(Fold("Each check, and its evidence", [_verdicts(found), *evidence]))
    checked = {name for each in report.comparisons for name in each.masked}
    attacked = dict.fromkeys(name for each in report.comparisons if each.attacks for name in each.runs)
    if missing := [name for name in attacked if name not in checked]:
        text = (
            f"Not checked for gradient masking: {', '.join(missing)}. Attacks that follow a hidden gradient fail "
            "without the model being robust; `dpaat evaluate RUN --suite masking` looks for it."
        )
        blocks.append(Text(text, "warn"))
    return blocks or [Text("No run has been attacked yet.", "note")]


def _verdicts(found: dict[str, Entry]) -> Table:
    by_run = [{check["name"]: check["verdict"] for check in entry["checks"]} for entry in found.values()]
    rows = [
        Row(check, [Cell(each[check], kind=each[check]) if check in each else Cell("-") for each in by_run])
        for check in dict.fromkeys(check for each in by_run for check in each)
    ]
    return Table("check", [Column(name, left=True) for name in found], rows)


def _summary(found: dict[str, Entry]) -> Table:
    """The verdict of all checks together, and which passed."""
    rows = [
        Row(name, [_verdict(entry), f"{images_checked(entry):,}", str(entry["summary"]).partition(" ")[2].strip("()")])
        for name, entry in found.items()
    ]
    words = dict.fromkeys(word for entry in found.values() if (word := _word(entry)) in MASKING)
    note = "; ".join(f"{MASKING[word][1]}: {MASKING[word][2]}" for word in words) + "."
    columns = [Column("gradient masking", left=True), Column("images"), Column("checks", left=True, long=True)]
    return Table("run", columns, rows, note=note)


def _word(entry: Entry) -> str:
    """The word that sums the checks up, such as "believable"."""
    return str(entry["summary"]).split()[0]


def _verdict(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell("not checked", kind="skipped")
    kind, text, _ = MASKING.get(word := _word(entry), ("", word, ""))
    return Cell(text, kind=kind)


def overview_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Balanced accuracy clean and attacked, its area over the radii and the masking checks, one row per run.

    One table of the images that most runs were evaluated on, and further ones for runs that it leaves out.
    """
    tables: list[Table] = []
    seen: set[str] = set()
    for comparison in comparisons:
        if not seen.issuperset(comparison.runs):
            tables.append(_overview(comparison))
            seen.update(comparison.runs)
    return tables


def _overview(chosen: Comparison) -> Table:
    columns, rows = [Column("clean")], []
    note = f"Balanced accuracy in percent with 95 % intervals; {chosen.title}{chosen.in_norm}."
    if chosen.reference is not None:
        at = f"{chosen.attacks[0]} {format_radius(chosen.reference)}"
        columns += [Column(at), Column("area"), Column("gradient masking", left=True)]
        note += f" Area: its mean over the radii {under_attack(chosen.attacks[0])}."
    if constant := chosen.constant:
        cells = [*[score_cell(constant["metrics"]["balanced_accuracy"])] * 3, Cell("")]
        rows.append(Row(f"always {constant['predicts']}", cells[: len(columns)], quiet=True))
    for name in chosen.runs:
        cells = score_cells(chosen.clean.get(name), ["balanced_accuracy"])
        if chosen.reference is not None:
            cells += score_cells(chosen.at_reference(name), ["balanced_accuracy"])
            cells += [score_cell(chosen.area(name)), _verdict(chosen.masking(name))]
        rows.append(Row(name, cells))
    return Table("balanced accuracy", columns, rows, note=note)
