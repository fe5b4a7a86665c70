"""Names as people write them: of splits, of classes, and cells that say nothing."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

from dpaat.errors import listed

SPLIT_NAMES = {
    name: split
    for split, names in {
        "train": ("train", "training", "trn"),
        "val": ("val", "valid", "validation", "dev"),
        "test": ("test", "testing", "tst"),
    }.items()
    for name in names
}
# What pandas, Excel and R write where there is nothing; "none" may be a class ("no finding"), Python's None is not.
MISSING = {
    "", "nan", "-nan", "na", "n/a", "n.a.", ".", "--", "missing",
    "<na>", "#n/a", "#na", "#n/a n/a", "null", "<null>", "#null!", "nat", "?",
    "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "#value!", "#ref!", "#name?", "#div/0!",
}  # fmt: skip
NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:[.,][0-9]{0,40})?|[.,][0-9]{1,40})(?:e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def split_name(text: str) -> str | None:
    """Read "train", "val" or "test" in any of the usual spellings; None for another word."""
    return SPLIT_NAMES.get(text.strip().lower())


def is_missing(text: str) -> bool:
    """Whether a cell of a table says that there is nothing."""
    return text == "None" or text.lower() in MISSING


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: as numbers if all of them are, else as text."""
    different = sorted(set(names))
    numbers = {name: _number(name) for name in different}
    if None in numbers.values():
        return tuple(different)
    return tuple(sorted(different, key=lambda name: numbers[name] or Decimal(0)))


def order_notes(classes: Sequence[str]) -> tuple[str, ...]:
    """Say so where numbers are not in the order of their texts, which other programs take."""
    if tuple(sorted(classes)) == tuple(classes):
        return ()
    return (f"classes are in numerical order ({listed(classes, 12)}), not in that of their texts",)


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Find two names that differ in case, blanks, hyphens between letters, Unicode form or form of a number only."""
    known: dict[object, str] = {}
    for name in names:
        other = known.setdefault(_plain(name), name)
        if other != name:
            return other, name
    return None


def is_windows_path(text: str) -> bool:
    """Whether a path begins with a drive of Windows, on another system."""
    return os.name != "nt" and re.match(r"[A-Za-z]:[\\/]", text) is not None


def _number(text: str) -> Decimal | None:
    return Decimal(text.replace(",", ".")) if NUMBER.fullmatch(text) else None


def _plain(name: str) -> object:
    text = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf").strip()
    number = _number(text)
    text = re.sub(r"[\s_]", "", text)
    return re.sub(r"(?<=[^\W\d])[-\u2010-\u2015](?=[^\W\d])", "", text).casefold() if number is None else number
