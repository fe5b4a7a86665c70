"""Report section: gradient-masking diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from dpaat.evaluation.entries import Entry
from dpaat.evaluation.masking_verdicts import Verdict
from dpaat.evaluation.tables import verdict_table
from dpaat.report.blocks import Block, Heading, Section, Text
from dpaat.report.comparisons import Comparison
from dpaat.tables import Cell, Column, Kind, Row, Table

MEANING = {
    "believable": "no check found a sign that gradients are hidden",
    "suspicious": "a check warns; read its evidence before you believe the numbers above",
    "masked": "a check failed: gradients are hidden, and the robustness above is not to be believed",
    "degenerate": "the answer hardly depends on the image",
}
KINDS: dict[str, Kind] = {"believable": "pass", "suspicious": "warn", "masked": "fail", "degenerate": "fail"}


def masking_section(comparisons: Sequence[Comparison]) -> Section:
    """The verdicts of all checks, runs side by side, and the evidence of each."""
    blocks: list[Block] = []
    for comparison in comparisons:
        if found := comparison.first("masking"):
            blocks += [Heading(f"Masking checks: {comparison.title}"), _verdicts(found)]
            blocks += [_evidence(name, entry, alone=len(found) == 1) for name, entry in found.items()]
    checked = {name for each in comparisons for name in each.first("masking")}
    attacked = dict.fromkeys(name for each in comparisons if each.attacks for name in each.runs)
    if missing := [name for name in attacked if name not in checked]:
        text = (
            f"Not checked for gradient masking: {', '.join(missing)}. Attacks that follow a hidden gradient fail "
            "without the model being robust; `dpaat evaluate RUN --suite masking` looks for it."
        )
        blocks.append(Text(text, "warn"))
    if not blocks:
        blocks.append(Text("There is no robustness to be believed yet.", "note"))
    return Section("belief", "Can that be believed", blocks)


def verdict_of(entry: Entry) -> str:
    """The word that sums the checks up, such as "believable"."""
    return str(entry["summary"]).split()[0]


def verdict_cell(entry: Entry | None) -> Cell:
    """The word that sums the checks up, coloured."""
    if entry is None:
        return Cell("not checked", kind="skipped")
    word = verdict_of(entry)
    return Cell(word, kind=KINDS.get(word, ""))


def _verdicts(found: dict[str, Entry]) -> Table:
    checks = list(dict.fromkeys(check["name"] for entry in found.values() for check in entry["checks"]))
    by_run = {name: {check["name"]: check["verdict"] for check in e["checks"]} for name, e in found.items()}
    rows = [Row(check, [_cell(verdicts.get(check, "-")) for verdicts in by_run.values()]) for check in checks]
    rows.append(Row("all together", [verdict_cell(entry) for entry in found.values()]))
    words = {word: MEANING[word] for entry in found.values() if (word := verdict_of(entry)) in MEANING}
    note = "; ".join(f"{word}: {meaning}" for word, meaning in words.items()) + "."
    return Table("check", [Column(name, left=True) for name in found], rows, note=note)


def _evidence(name: str, entry: Entry, *, alone: bool) -> Table:
    checks = {check["name"]: check for check in entry["checks"]}
    return replace(verdict_table("check", checks), folded=f"Evidence: {name}", open=alone)


def _cell(verdict: str) -> Cell:
    return Cell(verdict, kind=verdict if verdict in get_args(Verdict) else "")  # type: ignore[arg-type]
