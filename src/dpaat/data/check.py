"""`dpaat data check`: what a dataset contains and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpaat.data import fingerprint, load_table
from dpaat.data.cache import decode_row, in_threads, look_at, quantiles_of
from dpaat.data.files import home_path
from dpaat.data.findings import brightness_lines, contrary_lines, identical, leak_lines, levels, stack_lines
from dpaat.data.images import EIGHT, decode_mask, is_empty_mask, require_same_aspect
from dpaat.data.registry import DATASETS
from dpaat.data.splits import assign_splits, export_splits, import_splits, leaks, parse_fold, refusals, split_notes
from dpaat.data.table import SPLITS, ImageTable
from dpaat.data.values import AUTO, FULL, parse_window, resolve_window, window_range
from dpaat.errors import UserError, one_line


def check(
    spec: str,
    *,
    image_size: int = 64,
    window: str = AUTO,
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
        window: how the values of the pixels are read, see `dpaat.data.prepare`.
        seed: seed of the split.
        fold: "k/K", see `dpaat.data.prepare`.
        splits: a file of splits to check instead of a new split.
        export: write the split to this CSV, to be read by `--splits`.
        console: where to print.

    Returns:
        The number of problems: what is refused in training, unreadable files, leaks across splits, identical images of
        different classes, images without content, masks that do not fit, and what the dataset itself warns of.

    Raises:
        UserError: there is no such dataset, or an option is wrong.
    """
    console = console or Console()
    parse_window(window)
    if fold is not None:
        parse_fold(fold)
    try:
        table = load_table(spec)
    except UserError as error:
        if not _exists(spec):
            raise
        return _total(console, [str(error)])
    problems, notes = list(table.warnings), list(table.notes)

    def look(row: int) -> tuple[str, str, int, str]:
        try:
            return *look_at(table, row), ""
        except UserError as error:
            return f"unread-{row}", EIGHT, 1, str(error)

    looks = list(in_threads(look, len(table), "reading images", progress=True))
    digests, kinds = [found[0] for found in looks], [found[1] for found in looks]
    bad = {row: found[3] for row, found in enumerate(looks) if found[3]}
    resolved = FULL
    try:
        resolved = resolve_window(window, kinds, quantiles_of(table, True), spec=spec)
    except UserError as error:
        problems.append(str(error))
    else:
        rows = [row for row in range(len(table)) if row not in bad]
        plain = resolved == FULL and {*kinds} == {EIGHT}
        bad |= _unfit(table, rows, image_size, window_range(resolved), problems, plain=plain)
    problems += stack_lines(name for name, found in zip(table.ids.tolist(), looks, strict=True) if found[2] > 1)
    masks = _masks(table, [row for row in range(len(table)) if row not in bad], image_size)
    found: list[tuple[str, str, str]] = []
    split = None
    try:
        split = (
            import_splits(splits, table.ids)
            if splits is not None
            else assign_splits(table, seed=seed, fold=fold, digests=digests)
        )
    except UserError as error:
        if splits is not None:
            raise
        problems.append(str(error))
    else:
        if splits is None:
            notes += split_notes(table, split, fold=fold)
        found = leaks(table, split, digests)
        problems += refusals(table, split)
    twins, contrary = identical(table, digests)

    kind = "grey" if table.channels == 1 else "RGB"
    console.print(
        f"{spec}: {len(table)} {kind} images, {table.frame['group'].nunique()} groups, "
        f"{len(table.classes)} classes, fingerprint {fingerprint(table, digests, resolved)}"
        + ("" if resolved == FULL else f", values from {' to '.join(resolved.split(','))}")
        + (" (synthetic images)" if table.synthetic else ""),
        markup=False,
    )
    if table.licence:
        console.print(f"licence of the data: {table.licence}", markup=False)
    for line in notes:
        console.print(f"note: {line}", markup=False, highlight=False)
    if split is not None:
        console.print(_counts(table, split))
    unreadable = [message.split("; replace the file")[0] for _, message in sorted(bad.items())]
    _show(console, "near-duplicate pairs", [" = ".join(pair) for pair in table.near_duplicates])
    _show(console, "sets of identical images", [" = ".join(names) for names in twins])
    _show(console, "identical images of different classes", [" = ".join(names) for names in contrary])
    _show(console, "leaks across splits", [f"{a} and {b}: {reason}" for a, b, reason in found])
    _show(console, "unreadable images", unreadable, limit=len(unreadable))
    if table.read_mask is not None:
        _show(console, "masks that do not fit", masks)
    if export is not None and split is not None:
        export_splits(export, table.ids, split)
        console.print(f"splits written to {export}", markup=False)
    sides = {} if split is None else dict(zip(table.ids.tolist(), split.tolist(), strict=True))
    total = len(problems) + len(unreadable) + len(masks) + len(found) + len(contrary)
    lists = {"unreadable images": unreadable, "masks that do not fit": masks}
    problems += [f"{title}: {len(lines)}: {lines[0]}" for title, lines in lists.items() if lines]
    problems += [*leak_lines(found, sides), *contrary_lines(contrary)]
    return _total(console, problems, total)


def _total(console: Console, problems: list[str], total: int = 1) -> int:
    for line in problems:
        console.print(f"problem: {one_line(line)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{total} problem(s)" if total else "no problems")
    return total


def _exists(spec: str) -> bool:
    """Whether a spec names a file or folder that is there, whatever is in it."""
    scheme, _, argument = spec.partition(":")
    path = argument.partition(":")[2] if scheme == "medmnist" else argument.partition(",group=")[0]
    place = home_path(path)
    try:
        return scheme in DATASETS and bool(path) and (place.is_file() or place.is_dir())
    except OSError:  # a name longer than the file system allows
        return False


def _unfit(
    table: ImageTable,
    rows: list[int],
    image_size: int,
    window: tuple[float, float] | None,
    problems: list[str],
    *,
    plain: bool,
) -> dict[int, str]:
    """Decode images; return what is wrong with those that cannot be, and note as problems those that show nothing."""

    def look(position: int) -> tuple[int, int] | str:
        try:
            return levels(decode_row(table, rows[position], image_size=image_size, fit="crop", window=window))
        except UserError as error:
            return str(error)

    looks = list(in_threads(look, len(rows), "decoding images", progress=True))
    sound = {row: found for row, found in zip(rows, looks, strict=True) if not isinstance(found, str)}
    if sound:
        brightest, ranges = np.array(list(sound.values())).T
        problems += brightness_lines(table.ids[list(sound)], brightest, ranges, plain=plain)
    return {row: found for row, found in zip(rows, looks, strict=True) if isinstance(found, str)}


def _masks(table: ImageTable, rows: list[int], image_size: int) -> list[str]:
    """Masks that cannot be read, are empty, or do not fit their image; and masks that all cover it entirely."""
    read_mask = table.read_mask
    if read_mask is None:
        return []

    def look(position: int) -> str:
        row = rows[position]
        try:
            mask = read_mask(row)
            require_same_aspect(mask, table.read(row))
            if is_empty_mask(mask):
                return "it is empty (all zero)"
            inside = decode_mask(mask, size=image_size, fit="crop")
            full.append(bool(inside.all()))
            return "" if inside.any() else f"nothing of it is left in the central square at {image_size} pixels"
        except KeyError:
            return ""
        except Exception as error:  # Pillow's plugins raise whatever a malformed file makes them stumble over
            return " ".join(str(error).split()) or type(error).__name__

    full: list[bool] = []
    looks = list(in_threads(look, len(rows), "looking at masks", progress=True))
    if full and all(full):
        return ["each covers its whole image; a mask is 0 outside of the lesion"]
    return [f"mask of {table.describe(rows[n])}: {reason}" for n, reason in enumerate(looks) if reason]


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
