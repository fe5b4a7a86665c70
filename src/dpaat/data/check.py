"""`dpaat data check`: what a dataset contains and what is wrong with it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from dpaat.data import fingerprint, load_table
from dpaat.data.cache import UnreadableError, decoder, digest_pixels, in_threads, look_at, of_image, of_mask, quantiles
from dpaat.data.csv_file import OPTIONS
from dpaat.data.files import exists, home_path, parse_spec
from dpaat.data.findings import brightness_lines, contrary_lines, identical, leak_lines, levels, stack_lines
from dpaat.data.images import OWN, decode_mask, is_empty_mask
from dpaat.data.label_sets import members
from dpaat.data.registry import DATASETS
from dpaat.data.scan import EIGHT
from dpaat.data.splits import assign_splits, export_splits, import_splits, leaks, parse_fold, refusals, split_notes
from dpaat.data.table import SPLITS, Encoded, ImageTable
from dpaat.data.values import AUTO, FULL, parse_window, resolve_window, window_range
from dpaat.errors import UserError, one_line
from dpaat.storage import refuse_overwriting
from dpaat.tables import Row, Table

T = TypeVar("T")
SHOWN = 20  # lines of a list that are printed


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
) -> dict[str, Any]:
    """Read every image of a dataset, print classes, groups, splits and problems, and return all that is found.

    Problems are what is refused in training, unreadable files, leaks across splits, identical images of different
    classes, images without content, masks that do not fit, and what the dataset itself warns of. Arguments are those of
    `dpaat.data.prepare`; the split is written to the CSV file `export`, to be read by `--splits`. Raises UserError if
    there is no such dataset, an option is wrong, or `export` is a file of something else. `problems` are lines, `count`
    counts every file and pair in them.
    """
    console = console or Console()
    if export is not None:
        refuse_overwriting(export, "id,split", "--export")
    parse_window(window)
    if fold is not None:
        parse_fold(fold)
    try:
        table = load_table(spec)
    except UserError as error:
        if not _exists(spec):
            raise
        return {"data": spec} | _total(console, [str(error)])
    problems, notes = list(table.warnings), list(table.notes)
    looks, bad = _tried(partial(of_image, table, look_at), range(len(table)), "reading images")
    digests, kinds, frames = zip(*(looks.get(n, (f"unread-{n}", EIGHT, 1)) for n in range(len(table))), strict=True)
    contents, resolved = [*digests], FULL
    try:
        resolved = resolve_window(window, kinds, partial(quantiles, table, True), spec=spec)
    except UserError as error:
        problems.append(str(error))
    else:
        decoded = decoder(table, image_size, "crop", window_range(resolved))

        def look(row: int) -> tuple[tuple[int, int], str]:
            image = decoded(row)
            return levels(image), digest_pixels(image)

        seen, undecodable = _tried(look, list(looks), "decoding images")
        bad |= undecodable
        for row, (_, pixels) in seen.items():  # the same for copies in files of another form
            contents[row] = pixels
        if seen:
            plain = resolved == FULL and {*kinds} == {EIGHT}
            problems += brightness_lines(table.ids[list(seen)], [level for level, _ in seen.values()], plain=plain)
    problems += stack_lines(table.ids[np.array(frames) > 1].tolist())
    masks = _masks(table, [row for row in range(len(table)) if row not in bad], image_size)
    found: list[tuple[str, str, str]] = []
    sides: dict[str, str] = {}
    split = import_splits(splits, table.ids) if splits is not None else None
    try:
        if split is None:
            split = assign_splits(table, seed=seed, fold=fold, digests=digests)
            notes += split_notes(table, split, fold=fold)
        sides = dict(zip(table.ids.tolist(), split.tolist(), strict=True))
        found = leaks(table, split, contents)
        problems += refusals(table, split)
    except UserError as error:
        problems.append(str(error))
    twins, contrary = identical(table, contents)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    digest = fingerprint(table, digests, resolved)
    said = "" if resolved == FULL else f", values from {' to '.join(resolved.split(','))}"
    said = ", values through the window of each file (VOI LUT)" if resolved == OWN else said
    say(
        f"{spec}: {len(table)} {'grey' if table.channels == 1 else 'RGB'} images, "
        f"{table.frame['group'].nunique()} groups, {len(table.classes)} {'labels' if table.multilabel else 'classes'}, "
        f"fingerprint {digest}{said}{' (synthetic images)' * table.synthetic}"
    )
    licence = [f"licence of the data: {table.licence}"] if table.licence else []
    for line in [*licence, *(f"note: {note}" for note in notes)]:
        say(line)
    if split is not None:
        console.print(_counts(table, split).to_rich())
    unreadable = [f"cannot read {table.describe(row)}: {reason}" for row, reason in sorted(bad.items())]
    lists = {
        "near-duplicate pairs": [" = ".join(pair) for pair in table.near_duplicates],
        "sets of identical images": [" = ".join(names) for names in twins],
        "identical images of different classes": [" = ".join(names) for names in contrary],
        "leaks across splits": [f"{a} and {b}: {reason}" for a, b, reason in found],
        "unreadable images": unreadable,
    } | ({"masks that do not fit": masks} if table.read_mask is not None else {})
    for title, lines in lists.items():
        most = len(lines) if lines is unreadable else SHOWN
        console.print(f"{title}: {len(lines)}")
        for line in lines[:most]:
            say(f"  {line}")
        if len(lines) > most:
            console.print(f"  ... and {len(lines) - most} more")
    if export is not None and split is not None:
        export_splits(export, table.ids, split)
        say(f"splits written to {export}")
    total = len(problems) + len(unreadable) + len(masks) + len(found) + len(contrary)
    for title, lines in (("unreadable images", unreadable), ("masks that do not fit", masks)):
        problems += [f"{title}: {len(lines)}: {lines[0]}"] if lines else []
    counts = {"images": len(table), "classes": list(table.classes), "notes": notes}
    end = _total(console, [*problems, *leak_lines(found, sides), *contrary_lines(contrary)], total)
    return {"data": spec, "fingerprint": digest, **counts, **lists, **end}


def _total(console: Console, problems: list[str], total: int = 1) -> dict[str, Any]:
    for line in problems:
        console.print(f"problem: {one_line(line)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{total} problem(s)" if total else "no problems")
    return {"problems": problems, "count": total}


def _exists(spec: str) -> bool:
    """Whether a spec names a file or folder that is there, whatever is in it."""
    scheme, _, argument = spec.partition(":")
    path = argument.partition(":")[2] if scheme == "medmnist" else parse_spec(argument, OPTIONS)[0]
    place = home_path(path)
    return scheme in DATASETS and bool(path) and exists(place) and (place.is_file() or place.is_dir())


def _tried(function: Callable[[int], T], rows: Sequence[int], doing: str) -> tuple[dict[int, T], dict[int, str]]:
    """Results of a function by row, and the reasons of the rows that cannot be read."""
    bad: dict[int, str] = {}

    def one(position: int) -> T | None:
        try:
            return function(rows[position])
        except UnreadableError as error:
            bad[rows[position]] = error.reason
            return None

    found = zip(rows, list(in_threads(one, len(rows), doing, progress=True)), strict=True)
    return {row: result for row, result in found if row not in bad and result is not None}, bad


def _masks(table: ImageTable, rows: list[int], image_size: int) -> list[str]:
    """Masks that cannot be read, are empty, or do not fit their image; and masks that all cover it entirely."""
    if table.read_mask is None:
        return []

    def covers(encoded: Encoded) -> bool:
        if is_empty_mask(encoded):
            raise ValueError("it is empty (all zero)")
        inside = decode_mask(encoded, size=image_size, fit="crop")
        if not inside.any():
            raise ValueError(f"nothing of it is left in the central square at {image_size} pixels")
        return bool(inside.all())

    full, bad = _tried(partial(of_mask, table, covers), rows, "looking at masks")
    whole = ["each covers its whole image; a mask is 0 outside of the lesion"]
    return (whole if full and all(full.values()) else []) + [
        f"mask of {table.describe(row)}: {reason}" for row, reason in sorted(bad.items())
    ]


def _counts(table: ImageTable, split: np.ndarray) -> Table:
    groups, rows = table.frame["group"].to_numpy(), []
    classes = [(name, members(table.labels, k)) for k, name in enumerate(table.classes)]
    for name, mine in [*classes, ("all", np.ones(len(table), dtype=bool))]:
        counts = [int((mine & (split == part)).sum()) for part in SPLITS]
        shares = [f"{count} ({count / max(1, mine.sum()):.0%})" for count in counts]
        rows.append(Row(name, [*shares, str(mine.sum()), str(len(np.unique(groups[mine])))]))
    return Table("label" if table.multilabel else "class", [*SPLITS, "images", "groups"], rows)
