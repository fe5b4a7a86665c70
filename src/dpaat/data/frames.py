"""Tables of text that come with images: how they are read, and names and cells as people write them."""

import codecs
import csv
import io
import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import pandas as pd

from dpaat.errors import UserError, listed

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# What pandas, Excel and R write where there is nothing; "none" may be a class ("no finding"), Python's None is not.
MISSING = {
    "", "nan", "-nan", "na", "n/a", "n.a.", ".", "--", "missing",
    "<na>", "#n/a", "#na", "#n/a n/a", "null", "<null>", "#null!", "nat", "?",
    "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "#value!", "#ref!", "#name?", "#div/0!",
}  # fmt: skip
NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:[.,][0-9]{0,40})?|[.,][0-9]{1,40})(?:e[+-]?[0-9]{1,3})?", re.IGNORECASE)
AGE = re.compile(
    r"([0-9]{1,5}(?:[.,][0-9]{1,9})?) ?(?:(y)(?:ears?|rs?|o)?|(m)(?:o|onths?)?|(w)(?:eeks?)?|(d)(?:ays?)?)?"
)
OLDEST = 130.0
# Words in the names of columns that say which images belong together, and what may follow them.
GROUPS = (
    "patient|pat|subject|case|lesion|study|series|slide|wsi|person|participant|individual|volunteer|donor|animal|mouse|"
    "exam|encounter|accession|record|specimen|biopsy|sample|barcode|nodule|polyp|video|mrn|pid|ptid"
)
NUMBERS = "id|ids|uid|uuid|no|nr|num|number|code|key|name|hash|index"


def read_text_table(path: Path, *, required: Iterable[str] = (), strip: bool = True, what: str = "") -> pd.DataFrame:
    """Read a file of cells between commas, semicolons, tabs or bars, in UTF-8 or UTF-16, with every cell as text.

    A row per line that is not empty; the index is the number of the line in the file. Empty cells are "". `strip` takes
    blanks off the ends of cells; `what` the table holds is for messages, such as "splits from ". UserError for an
    unreadable file, no rows, or a missing column.
    """
    try:
        content = path.read_bytes()
        utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf_16 else "utf-8-sig")
        if "\0" in text:  # UTF-16 without its mark
            raise UnicodeError
        first = text.partition("\n")[0].strip("\r ")
        named = re.fullmatch('"?sep=(.)"?', first)  # Excel's own line
        most_cells = max(",;\t|", key=lambda separator: len(next(csv.reader([first], delimiter=separator), [])))
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            frame = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=named[1] if named else most_cells,
                skiprows=1 if named else 0,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skip_blank_lines=False,
            )
    except (OSError, ValueError, csv.Error, pd.errors.ParserWarning) as error:
        said = "not text in UTF-8 or UTF-16; save it as 'CSV UTF-8'" if isinstance(error, UnicodeError) else str(error)
        raise UserError(f"cannot read {what}{path} as CSV: {' '.join(said.split())}") from None
    frame.columns = frame.columns.str.strip()
    if frame.columns.duplicated().any():
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"{path}: two columns are called {twice!r}; rename or remove one")
    require_columns(path, frame, required)
    frame = frame.fillna("")
    if strip:
        frame = frame.apply(lambda column: column.str.strip())
    frame.index += 3 if named else 2
    frame = frame[(frame != "").any(axis=1)]
    if frame.empty:
        raise UserError(f"{path}: no rows")
    return frame


def require_columns(path: Path, frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise a UserError if a table lacks a column."""
    for name in names:
        if name not in frame:
            found = ", ".join(frame.columns)
            raise UserError(f"{path}: no column {name!r} (columns found: {found}); add it or rename one")


def refuse_rows(path: Path, cells: pd.Series, wrong: pd.Series, message: str) -> None:
    """Raise a UserError about the rows of a column that are wrong, if any; "{}" is replaced by the first such cell."""
    if wrong.any():
        raise UserError(f"{path}: {rows_of(wrong)}: {message.format(repr(cells[wrong].iloc[0]))}")


def rows_of(chosen: pd.Series) -> str:
    """Name the first few of the chosen rows by their line, such as "row 7" or "rows 2, 5, 9"."""
    lines = chosen.index[chosen]
    return f"row{'s' if len(lines) > 1 else ''} {listed(lines, 5)}"


def names_a_group(name: str) -> bool:
    """Whether a column is called as what tells which images belong together, such as "PatientID"."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    ends_so = bool(words) and re.fullmatch(rf"({GROUPS})?s?({NUMBERS})?", words[-1]) is not None
    return ends_so and any(re.fullmatch(rf"({GROUPS})s?({NUMBERS})?", word) for word in words)


def metadata(frame: pd.DataFrame, names: dict[str, str]) -> tuple[dict[str, pd.Series], tuple[str, ...]]:
    """Pick the columns kept for subgroup analysis, and say what was not understood.

    `names` are "age", "sex", "site", "source" to the column that holds it. Age is returned as float in years, NaN where
    unknown; the others as text, "unknown" where missing.
    """
    kept: dict[str, pd.Series] = {}
    problems = []
    for name, column in names.items():
        if column not in frame:
            continue
        text = frame[column]
        absent = text.map(is_unknown)
        if name != "age":
            kept[name] = text.mask(absent, "unknown").astype(str)
            if pair := twins(kept[name]):
                problems.append(f"{column} {pair[0]!r} and {pair[1]!r} differ in spelling only, but are two subgroups")
            continue
        kept[name] = text.map(age_in_years).astype(float)
        strange = kept[name].isna() & ~absent
        if strange.any():
            problems.append(
                f"{column} of {strange.sum()} of {len(frame)} images is not understood and counts as unknown, such as "
                f"{text[strange].iloc[0]!r} ({rows_of(strange)}); write years (58) or as DICOM does (058Y, 006M)"
            )
    return kept, tuple(problems)


def age_in_years(text: str) -> float:
    """Read an age in years, or as DICOM writes it (058Y, 006M, 012W, 030D); NaN for anything else."""
    match = AGE.fullmatch(text.strip().lower())
    if not match:
        return float("nan")
    number, _, months, weeks, days = match.groups()
    age = float(number.replace(",", ".")) / (12 if months else 365.25 / 7 if weeks else 365.25 if days else 1)
    return age if age <= OLDEST else float("nan")


def split_name(text: str) -> str | None:
    """Read "train", "val" or "test" in any of the usual spellings; None for another word."""
    return SPLIT_NAMES.get(text.strip().lower())


def is_missing(text: str) -> bool:
    """Whether a cell of a table says that there is nothing."""
    return text == "None" or text.lower() in MISSING


def is_unknown(text: str) -> bool:
    """Whether a cell of metadata or groups says that nothing is known; of a label, "unknown" may be a class."""
    return is_missing(text) or text.lower() == "unknown"


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: as numbers if all of them are, else as text."""
    different = sorted(set(names))
    numbers = {name: number for name in different if (number := _number(name)) is not None}
    return tuple(sorted(different, key=numbers.__getitem__) if len(numbers) == len(different) else different)


def order_notes(classes: Sequence[str]) -> tuple[str, ...]:
    """Say so where numbers are not in the order of their texts, which other programs take."""
    if sorted(classes) == [*classes]:
        return ()
    return (f"classes are in numerical order ({listed(classes, 12)}), not in that of their texts",)


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Find two names that differ in case, blanks, hyphens between letters, Unicode form or form of a number only."""
    known: dict[object, str] = {}
    for name in dict.fromkeys(names):
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
