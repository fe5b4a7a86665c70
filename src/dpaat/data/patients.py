"""Patients of images, known by keyed hashes of what their files call them."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from platformdirs import user_data_path

from dpaat.data.frames import age_in_years, is_unknown
from dpaat.data.table import UNGROUPED
from dpaat.errors import UserError
from dpaat.storage import locked, replacing

KEY = "DPAAT_PATIENT_KEY"
"""Environment variable: the file of the key of the hashes, in place of one in the user's folder for data."""
SEXES = {"M": "male", "F": "female", "O": "other"}
OLDEST = 90.0  # years; above 89 an age is rare enough to point to a person


class Patient(NamedTuple):
    """What is kept of a header."""

    group: str  # a keyed hash; empty where the file does not say whose image it is
    age: float  # years, NaN where unknown, at most `OLDEST`
    sex: str  # "male", "female", "other" or "unknown"


def patient(identifier: bytes, age: bytes, sex: bytes) -> Patient:
    """Read what a header says of a patient; case and blanks of the identifier do not count."""
    name = " ".join(identifier.decode("latin-1").replace("\0", " ").split()).casefold()
    digest = hashlib.blake2b(name.encode(), key=_key(os.environ.get(KEY)), digest_size=10).hexdigest()
    years = age_in_years(age.decode("latin-1").strip("\0 "))
    known = SEXES.get(sex.decode("latin-1").strip("\0 ").upper(), "unknown")
    group = "" if is_unknown(name) else f"patient-{digest}"
    return Patient(group, years if np.isnan(years) else min(years, OLDEST), known)


def patient_columns(
    found: Sequence[Patient | None], ids: pd.Series, *, grouped: bool = False
) -> tuple[dict[str, pd.Series], tuple[str, ...], tuple[str, ...]]:
    """Columns `group`, and where known `age` and `sex`, of images with these ids; notes and warnings about them.

    An image whose patient is not known is a group of its own. If `grouped`, the groups come from elsewhere.
    """
    columns, notes, doubts = {"group": ids}, [UNGROUPED], []
    if any(found):
        frame = pd.DataFrame([one or Patient("", np.nan, "unknown") for one in found], index=ids.index)
        named, count = frame["group"] != "", len(frame)
        patients = frame["group"][named].nunique()
        known = {"age": frame["age"].notna(), "sex": frame["sex"] != "unknown"}
        columns = {"group": frame["group"].where(named, ids)}
        columns |= {name: frame[name] for name, mask in known.items() if mask.any()}
        notes = [f"groups are the {patients} patients of the DICOM headers, called by keyed hashes of their PatientID"]
        if not named.all():
            notes.append(f"{(~named).sum()} of {count} images name no patient and count as independent")
        if patients == 1 and named.sum() > 1:
            doubts.append(
                f"all {named.sum()} DICOM files name the same patient; if that is a placeholder, give the groups in a "
                "table (csv:FILE.csv)"
            )
    if grouped:
        del columns["group"]
        notes, doubts = [], []
    if any(found):
        notes.append(
            f"age of {known['age'].sum()} and sex of {known['sex'].sum()} of {count} images are in the headers"
        )
    return columns, tuple(notes), tuple(doubts)


@lru_cache
def _key(given: str | None) -> bytes:
    """The key of this machine, in a file as given or the user's own, made when it is first asked for."""
    path = Path(given or "patients.key")
    try:
        path = path.expanduser() if given else user_data_path("dpaat") / path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f"{path.name}.lock")):
                if not path.exists():  # no other process was quicker
                    with replacing(path) as temporary:
                        temporary.touch(0o600)
                        temporary.write_bytes(os.urandom(32))
        key = path.read_bytes()
    except (OSError, UserError, RuntimeError) as error:
        raise UserError(
            f"the key that hides PatientIDs cannot be kept in {path} ({error}); set {KEY} to a file"
        ) from None
    if not 16 <= len(key) <= 64:
        raise UserError(f"{path}: not a key of 16 to 64 bytes, as hides PatientIDs; give {KEY} another file")
    return key
