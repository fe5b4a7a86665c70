"""Reading the CSV files that come with images."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.errors import UserError

GROUPS = "patient|subject|case|lesion|study|slide|person|participant|individual|exam|specimen|mrn|pid|ptid"
NUMBERS = "id|ids|uid|uuid|no|nr|num|number|code|key|name|hash|index"
"""Words in the names of columns that say which images belong together, and what may follow them."""


def read_text_table(path: Path, *, required: Iterable[str] = ()) -> pd.DataFrame:
    """Read a comma- or tab-separated file with every cell as text, stripped; empty cells are "".

    Raises:
        UserError: unreadable, no rows, or a required column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            separator = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                frame = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # bad encodings are ValueErrors, like most others
        raise UserError(f"cannot read {path} as CSV: {' '.join(str(error).split())}") from None
    frame.columns = frame.columns.str.strip()
    if frame.columns.duplicated().any():
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"{path}: two columns are called {twice!r}; rename or remove one")
    missing = [column for column in required if column not in frame]
    if missing:
        raise UserError(
            f"{path}: no column {missing[0]!r} (columns found: {', '.join(frame.columns)}); add it or rename one"
        )
    if frame.empty:
        raise UserError(f"{path}: no rows")
    stripped: pd.DataFrame = frame.apply(lambda column: column.str.strip())
    return stripped.reset_index(drop=True)


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


def metadata(frame: pd.DataFrame, names: dict[str, str]) -> dict[str, pd.Series]:
    """Pick the columns kept for subgroup analysis.

    Args:
        frame: a table of text.
        names: "age", "sex", "site", "source" to the column that holds it; columns not in the table are left out.

    Returns:
        `age` as float in years, NaN where unknown; the others as text, "unknown" where empty.
    """
    kept = {}
    for name, column in names.items():
        if column in frame:
            text = frame[column]
            kept[name] = (
                pd.to_numeric(text, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
                if name == "age"
                else text.mask(text == "", "unknown").astype(str)
            )
    return kept
