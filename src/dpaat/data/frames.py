"""Reading the CSV files that come with images."""

from __future__ import annotations

import codecs
import csv
import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.names import is_missing, twins
from dpaat.errors import UserError, listed

AGE = re.compile(
    r"([0-9]{1,5}(?:[.,][0-9]{1,9})?) ?(?:(y)(?:ears?|rs?|o)?|(m)(?:o|onths?)?|(w)(?:eeks?)?|(d)(?:ays?)?)?"
)
OLDEST = 130.0
GROUPS = (
    "patient|pat|subject|case|lesion|study|series|slide|wsi|person|participant|individual|volunteer|donor|animal|mouse|"
    "exam|encounter|accession|record|specimen|biopsy|sample|barcode|nodule|polyp|video|mrn|pid|ptid"
)
NUMBERS = "id|ids|uid|uuid|no|nr|num|number|code|key|name|hash|index"
"""Words in the names of columns that say which images belong together, and what may follow them."""


def read_text_table(path: Path, *, required: Iterable[str] = (), strip: bool = True, what: str = "") -> pd.DataFrame:
    """Read a file of cells between commas, semicolons, tabs or bars, in UTF-8 or UTF-16, with every cell as text.

    Args:
        path: the file.
        required: columns that must be there.
        strip: take blanks off the ends of cells.
        what: the table holds, for messages, such as "splits from ".

    Returns:
        A row per line that is not empty; the index is the number of the line in the file. Empty cells are "".

    Raises:
        UserError: unreadable, no rows, or a required column is missing.
    """
    try:
        text = _text(path.read_bytes())
        first = text.partition("\n")[0].strip("\r ")
        named = re.fullmatch('"?sep=(.)"?', first)  # Excel's own line
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            frame = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=named[1] if named else _separator(first),
                skiprows=1 if named else 0,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skip_blank_lines=False,
            )
    except UnicodeError:
        raise UserError(
            f"cannot read {what}{path} as CSV: not text in UTF-8 or UTF-16; save it as 'CSV UTF-8'"
        ) from None
    except (OSError, ValueError, csv.Error, pd.errors.ParserWarning) as error:
        raise UserError(f"cannot read {what}{path} as CSV: {' '.join(str(error).split())}") from None
    frame.columns = frame.columns.str.strip()
    if frame.columns.duplicated().any():
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"{path}: two columns are called {twice!r}; rename or remove one")
    missing = [column for column in required if column not in frame]
    if missing:
        raise UserError(
            f"{path}: no column {missing[0]!r} (columns found: {', '.join(frame.columns)}); add it or rename one"
        )
    frame = frame.fillna("")
    if strip:
        frame = frame.apply(lambda column: column.str.strip())
    frame.index += 3 if named else 2
    frame = frame[(frame != "").any(axis=1)]
    if frame.empty:
        raise UserError(f"{path}: no rows")
    return frame


def rows_of(frame: pd.DataFrame, chosen: pd.Series) -> str:
    """Name the first few of some rows by their line, such as "row 7" or "rows 2, 5, 9"."""
    lines = frame.index[chosen]
    return f"row{'s' if len(lines) > 1 else ''} {listed(lines, 5)}"


def unused_groups(frame: pd.DataFrame, spec: str, *, most: int) -> tuple[str, ...]:
    """Ask about a column that tells by its name which images belong together, where no column `group` does.

    Args:
        frame: a table of text.
        spec: the dataset as the user wrote it.
        most: values that a column may have without being of interest: it could as well be a class.

    Returns:
        A line about the column with the fewest values that repeat; nothing if there is none.
    """
    counts = {name: frame[name].nunique() for name in frame if _names_a_group(str(name))}
    repeating = {name: count for name, count in counts.items() if most < count < len(frame)}
    if not repeating:
        return ()
    name = min(repeating, key=repeating.__getitem__)
    return (
        f"column {name!r} looks like what makes images alike ({repeating[name]} values for {len(frame)} images), but "
        f"none is called group: give {spec},group={name}, or {spec},group=path if all images are independent",
    )


def _names_a_group(name: str) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return any(re.fullmatch(rf"({GROUPS})s?({NUMBERS})?", word) for word in words) and bool(
        re.fullmatch(rf"({GROUPS})?s?({NUMBERS})?", words[-1])
    )


def metadata(frame: pd.DataFrame, names: dict[str, str]) -> tuple[dict[str, pd.Series], tuple[str, ...]]:
    """Pick the columns kept for subgroup analysis.

    Args:
        frame: a table of text.
        names: "age", "sex", "site", "source" to the column that holds it; columns not in the table are left out.

    Returns:
        columns: `age` as float in years, NaN where unknown; the others as text, "unknown" where missing.
        problems: what was not understood.
    """
    kept: dict[str, pd.Series] = {}
    problems = []
    for name, column in names.items():
        if column not in frame:
            continue
        text = frame[column]
        absent = text.map(is_missing) | (text.str.lower() == "unknown")
        if name == "age":
            years = text.map(age_in_years).astype(float)
            kept[name] = years
            strange = years.isna() & ~absent
            if strange.any():
                problems.append(
                    f"{column} of {strange.sum()} of {len(frame)} images is not understood and counts as unknown, such "
                    f"as {text[strange].iloc[0]!r} ({rows_of(frame, strange)}); write years (58) or as DICOM does "
                    "(058Y, 006M)"
                )
        else:
            known = text.mask(absent, "unknown").astype(str)
            kept[name] = known
            if pair := twins(known):
                problems.append(f"{column} {pair[0]!r} and {pair[1]!r} differ in spelling only, but are two subgroups")
    return kept, tuple(problems)


def age_in_years(text: str) -> float:
    """Read an age in years, or as DICOM writes it (058Y, 006M, 012W, 030D); NaN for anything else."""
    match = AGE.fullmatch(text.strip().lower())
    if not match:
        return np.nan
    number, _, months, weeks, days = match.groups()
    per_year = 12 if months else 365.25 / 7 if weeks else 365.25 if days else 1
    age = float(number.replace(",", ".")) / per_year
    return age if age <= OLDEST else np.nan


def _text(content: bytes) -> str:
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    if "\0" in text:  # UTF-16 without its mark
        raise UnicodeError
    return text


def _separator(line: str) -> str:
    """The character that divides a heading into the most cells."""
    return max(",;\t|", key=lambda separator: len(next(csv.reader([line], delimiter=separator), [])))
