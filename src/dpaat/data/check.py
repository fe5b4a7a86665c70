"""`dpaat data check`: what a dataset contains and what is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpaat.data import fingerprint, load_table
from dpaat.data.cache import decode_row, digest_row, in_threads
from dpaat.data.splits import assign_splits, export_splits, import_splits, leaks
from dpaat.data.table import SPLITS, ImageTable
from dpaat.errors import UserError


def check(
    spec: str,
    *,
    image_size: int = 64,
    seed: int = 0,
    fold: str | None = None,
    splits: Path | None = None,
    export: Path | None = None,
    console: Console | None = None,
) -> int:
    """Read every image of a dataset and print classes, groups, splits and problems.

    Args:
        spec: the dataset, see `dpaat.data.load_table`.
        image_size: side in pixels at which images are decoded.
        seed: seed of the split.
        fold: "k/K", see `dpaat.data.prepare`.
        splits: a file of splits to check instead of a new split.
        export: write the split to this CSV, to be read by `--splits`.
        console: where to print.

    Returns:
        The number of problems: unreadable files, leaks across splits, and identical images of different classes.

    Raises:
        UserError: the dataset cannot be loaded or split at all.
    """
    console = console or Console()
    table = load_table(spec)

    def look(row: int) -> tuple[str, str]:
        try:
            digest = digest_row(table, row)
        except UserError as error:
            return f"unread-{row}", str(error)
        try:
            decode_row(table, row, image_size=image_size, fit="crop")
        except UserError as error:
            return digest, str(error)
        return digest, ""

    looks = list(in_threads(look, len(table), "reading images", progress=True))
    digests = [digest for digest, _ in looks]
    unreadable = [message.split("; replace the file")[0] for _, message in looks if message]
    split = (
        import_splits(splits, table.ids)
        if splits is not None
        else assign_splits(table, seed=seed, fold=fold, digests=digests)
    )
    found = leaks(table, split, digests)
    twins = _identical(table, digests)
    labels = dict(zip(table.ids.tolist(), table.labels.tolist(), strict=True))
    contrary = [names for names in twins if len({labels[name] for name in names}) > 1]

    kind = "grey" if table.channels == 1 else "RGB"
    console.print(
        f"{spec}: {len(table)} {kind} images, {table.frame['group'].nunique()} groups, "
        f"{len(table.classes)} classes, fingerprint {fingerprint(table, digests)}"
        + (" (synthetic images)" if table.synthetic else ""),
        markup=False,
    )
    if table.licence:
        console.print(f"licence of the data: {table.licence}", markup=False)
    console.print(_counts(table, split))
    _show(console, "near-duplicate pairs", [" = ".join(pair) for pair in table.near_duplicates])
    _show(console, "sets of identical images", [" = ".join(names) for names in twins])
    _show(console, "identical images of different classes", [" = ".join(names) for names in contrary])
    _show(console, "leaks across splits", [f"{a} and {b}: {reason}" for a, b, reason in found])
    _show(console, "unreadable images", unreadable, limit=len(unreadable))
    if export is not None:
        export_splits(export, table.ids, split)
        console.print(f"splits written to {export}", markup=False)
    problems = len(unreadable) + len(found) + len(contrary)
    console.print(f"{problems} problem(s)" if problems else "no problems")
    return problems


def _identical(table: ImageTable, digests: list[str]) -> list[list[str]]:
    together: dict[str, list[str]] = defaultdict(list)
    for digest, name in zip(digests, table.ids.tolist(), strict=True):
        together[digest].append(name)
    return [names for names in together.values() if len(names) > 1]


def _counts(table: ImageTable, split: np.ndarray) -> Table:
    grid = Table("class", *SPLITS, "images", "groups")
    for column in grid.columns[1:]:
        column.justify = "right"
    groups = table.frame["group"].to_numpy()
    everything = np.ones(len(table), dtype=bool)
    rows = [(name, table.labels == label) for label, name in enumerate(table.classes)]
    for name, mine in [*rows, ("all", everything)]:
        counts = [int((mine & (split == part)).sum()) for part in SPLITS]
        shares = [f"{count} ({count / max(1, mine.sum()):.0%})" for count in counts]
        grid.add_row(Text(name), *shares, str(mine.sum()), str(len(np.unique(groups[mine]))))
    return grid


def _show(console: Console, title: str, lines: list[str], limit: int = 20) -> None:
    console.print(f"{title}: {len(lines)}")
    for line in lines[:limit]:
        console.print(f"  {line}", markup=False, highlight=False)
    if len(lines) > limit:
        console.print(f"  ... and {len(lines) - limit} more")
