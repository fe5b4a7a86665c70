"""Predictions behind a result, read back from the run folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dpaat.data.label_sets import numbers
from dpaat.errors import UserError
from dpaat.evaluation.entries import Document, Entry
from dpaat.evaluation.replicates import Predictions
from dpaat.evaluation.results import PREDICTIONS_SCHEMA, predictions_part

COLUMNS = ("id", "group", "label", "predicted", "probabilities")


def read_frame(run: Path, entry: Entry, *, remedy: str = "") -> pd.DataFrame:
    """Read the predictions behind a result: `COLUMNS`, in the order of the file.

    Raises UserError: a file that is not there or cannot be read; says `remedy`, by default to evaluate the run again.
    """
    part = predictions_part(run, entry)
    try:
        table = pq.read_table(part, schema=PREDICTIONS_SCHEMA, columns=[*COLUMNS])
    except (OSError, ValueError, pa.ArrowException) as error:
        text = str(error).splitlines()[0]
        raise UserError(f"{part}: cannot be read ({text}); {remedy or f'evaluate {run} again'}") from None
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _read(names: pd.Series, classes: Sequence[str], several: bool) -> np.ndarray | None:
    """`label_sets.numbers`; None for a name that is none of the classes."""
    try:
        return numbers(names, classes, several=several)
    except (LookupError, ValueError, AttributeError, TypeError):
        return None


def read_predictions(run: Path, document: Document, entry: Entry, *, remedy: str = "") -> Predictions:
    """Read the predictions behind a result as numbers; images by id in ascending order.

    Raises UserError: as `read_frame`, or rows that are not those of the result.
    """
    classes = document["classes"]
    frame = read_frame(run, entry, remedy=remedy).sort_values("id", kind="stable")
    scored = bool(frame["probabilities"].notna().all())
    rows = frame["probabilities"].to_list() if scored else []
    several = bool(document.get("multilabel"))
    labels, predicted = (_read(frame[name], classes, several) for name in ("label", "predicted"))
    known = labels is not None and predicted is not None and not frame["id"].duplicated().any()
    sound = all(len(row) == len(classes) and np.isfinite(row).all() for row in rows)
    if len(frame) != entry["n"] or not known or not sound:
        raise UserError(
            f"{predictions_part(run, entry)}: damaged, it does not hold predictions of {entry['n']} images; "
            f"{remedy or f'evaluate {run} again'}"
        )
    assert labels is not None
    assert predicted is not None
    return Predictions(
        ids=frame["id"].to_numpy(dtype=str),
        labels=labels,
        groups=frame["group"].to_numpy(dtype=str),
        predicted=predicted,
        probabilities=np.stack(rows) if scored else None,
        classes=classes,
    )
