"""Splits that keep lesions, near-duplicates and identical images on one side."""

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dpaat.data import label_sets
from dpaat.data.frames import read_text_table, refuse_rows, split_name
from dpaat.data.table import SPLITS, ImageTable
from dpaat.errors import UserError, listed
from dpaat.storage import replacing

DEFAULT_FOLDS, VAL_FOLDS = 5, 8
SHARES = {"test": DEFAULT_FOLDS, "val": VAL_FOLDS}


def assign_splits(
    table: ImageTable,
    *,
    seed: int,
    fold: str | None = None,
    digests: Sequence[str] | None = None,
    training: bool = True,
) -> np.ndarray:
    """Divide N rows into train, val and test, about 70 : 10 : 20, stratified by class or labels; (N,) of str.

    What belongs together (a group, a near-duplicate pair, images of one content digest) stays together. Fold k of K is
    the test split (without `fold`: 1 of 5), an eighth of the rest is val. A table with splits of its own keeps them
    unless `fold` is given; if it has no test or no val, that is cut out of train in the same shares. The result depends
    on the data, the seed and the fold, not on the order of rows. A class with too few groups for all splits is in
    train first. Without `fold`, a class of at least three groups is present in all three splits where that is possible;
    with it, each group is tested in exactly one fold, and this is ensured for train and val only. Without `training`,
    splits without train stay as they are, and a table that is too small to split is all "test". Raises UserError for a
    malformed fold, or too few groups.
    """
    given = table.frame["split"].to_numpy(dtype="<U5") if "split" in table.frame else None
    if not training:
        if given is not None and not (given == "train").any():
            return given
        with suppress(UserError):
            return assign_splits(table, seed=seed, fold=fold, digests=digests)
        return np.full(len(table), "test") if given is None else given
    groups, order = connected(table, digests)
    own = given is not None and fold is None
    split = np.array(given) if own else np.full(len(table), "train", dtype="<U5")
    if not (split == "train").any():
        raise UserError(f"{table.spec}: no image of split 'train'; it can be evaluated on, but not learned from")
    cut = [name for name in SHARES if not (split == name).any()]
    for name in cut:
        exact = fold is not None and name == "test"
        k, folds = parse_fold(fold) if fold is not None and exact else (1, SHARES[name])
        rest = order[split[order] == "train"]
        split[_fold(table, groups, rest, folds, k, seed, exact=exact)] = name
    whole = [] if fold is None else ["test"]
    _repair(split, table.labels, groups, order, ["train", *(name for name in cut if name not in whole)] if cut else [])
    if empty := [name for name in SPLITS if not (split == name).any()]:
        raise UserError(
            f"{table.spec}: the {' and '.join(empty)} split would be empty ({len(np.unique(groups))} independent "
            "groups of images); add images, or give a file of splits"
        )
    return split


def parse_fold(text: str) -> tuple[int, int]:
    """Read "k/K"; UserError for anything else, K below 2, or k outside 1..K."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    k, folds = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= k <= folds or folds < 2:
        raise UserError(f"fold {text!r}: write k/K with 1 <= k <= K and K at least 2, such as 1/5")
    return k, folds


def export_splits(path: Path, ids: Iterable[str], split: Iterable[str], **columns: Iterable[str]) -> None:
    """Write a CSV file with the columns `id` and `split`, and maybe more."""
    with replacing(path) as temporary:
        pd.DataFrame({"id": list(ids), "split": list(split), **columns}).to_csv(temporary, index=False)


def split_digest(ids: Iterable[str], split: Iterable[str]) -> str:
    """16 hex digits that identify a split of images, whatever their order."""
    rows = sorted((str(name), str(side)) for name, side in zip(ids, split, strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def read_splits(path: Path) -> pd.DataFrame:
    """Read a file written by `export_splits`, columns of str; UserError for what is missing, unknown or repeated."""
    frame = read_text_table(Path(path), required=("id", "split"), strip=False, what="splits from ")
    known = frame["split"].map(split_name)
    refuse_rows(path, frame["split"], known.isna(), "unknown split {}; use train, val or test")
    if frame["id"].duplicated().any():
        raise UserError(f"{path}: id {frame['id'][frame['id'].duplicated()].iloc[0]!r} is listed twice")
    return frame.assign(split=known)


def import_splits(path: Path, ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Read the split of each id, (N,) of str, see `read_splits`; UserError for an id that is absent."""
    found = read_splits(path).set_index("id")["split"].reindex(list(map(str, ids)))
    if absent := found.index[found.isna()].tolist():
        raise UserError(f"{path}: no split for {len(absent)} of {len(ids)} images, the first is {absent[0]!r}")
    return found.to_numpy(dtype="<U5")


def split_notes(table: ImageTable, split: np.ndarray, *, fold: str | None = None) -> tuple[str, ...]:
    """Say where a split is not the one that came with the data."""
    if "split" not in table.frame:
        return ()
    if fold is not None:
        return (f"the splits of the data are set aside, for fold {fold}",)
    groups = table.frame["group"].to_numpy()
    return tuple(
        f"the data have no {name} split: {mine.sum()} images of {len(np.unique(groups[mine]))} groups are taken out of "
        "train for it"
        for name in SPLITS
        if (mine := split == name).any() and not (table.frame["split"] == name).any()
    )


def leaks(table: ImageTable, split: np.ndarray, digests: Sequence[str] | None = None) -> list[tuple[str, str, str]]:
    """Find images in different splits that should share one, as (id, id, reason).

    For each near-duplicate pair across splits, and for each group and each set of identical images one pair per
    further split that it reaches.
    """
    ids = table.ids.tolist()
    side = dict(zip(ids, split.tolist(), strict=True))
    found = [(a, b, "near-duplicates") for a, b in table.near_duplicates if side[a] != side[b]]
    for reason, values in (("same group", table.frame["group"].tolist()), ("identical images", digests or ())):
        first: dict[str, dict[str, str]] = {}
        for value, name in zip(values, ids, strict=False):
            known = first.setdefault(value, {})
            if known and side[name] not in known:
                found.append((next(iter(known.values())), name, reason))
            known.setdefault(side[name], name)
    return found


def refusals(table: ImageTable, split: np.ndarray) -> list[str]:
    """Say why a split cannot be trained on: an empty part of it, or a class without an image to learn from."""
    found = [
        f"the {part} split is empty; give more images or another --splits"
        for part in ("train", "val")
        if not (split == part).any()
    ]
    labels = table.labels[split == "train"]
    learned = [label_sets.members(labels, k).any() for k in range(len(table.classes))]
    kind, which = "class", "of class"
    if table.multilabel:
        learned = [yes and no for yes, no in zip(learned, (labels == 0).any(axis=0), strict=True)]
        kind, which = "label", "with, or none without"
    lacking = [name for name, known in zip(table.classes, learned, strict=True) if not known]
    if lacking and len(labels):
        found.append(
            f"no image {which} {listed(lacking)} in the training split, so it cannot be learned; give more images, "
            f"another --splits, or leave the {kind} out"
        )
    return found


def connected(table: ImageTable, digests: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Number the sets of rows that belong together, and give the rows in an order that is the data's own."""
    count = len(table)
    row = {name: number for number, name in enumerate(table.ids.tolist())}
    edges = [(row[a], row[b]) for a, b in table.near_duplicates]
    for values in (table.frame["group"].tolist(), digests or ()):
        first: dict[str, int] = {}
        edges += [(first.setdefault(value, number), number) for number, value in enumerate(values)]
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    order = np.argsort(table.ids, kind="stable")
    _, start, inverse = np.unique(component[order], return_index=True, return_inverse=True)
    # Components are renumbered by their first id, since scipy's numbers follow the rows.
    groups = np.empty(count, dtype=np.int64)
    groups[order] = np.argsort(np.argsort(start))[inverse]
    return groups, order


def _fold(
    table: ImageTable, groups: np.ndarray, rows: np.ndarray, folds: int, k: int, seed: int, *, exact: bool = False
) -> np.ndarray:
    """Return the rows of fold k; fewer folds than asked for are made of a set too small, unless `exact`."""
    y, g = table.labels[rows], groups[rows]
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    count = len(np.unique(g))
    possible = count if table.multilabel else min(int(np.bincount(y).max(initial=0)), count)
    if possible < (folds if exact else 2):
        raise UserError(
            f"{table.spec}: too few images to split ({count} independent groups, at most {possible} folds); add "
            "images or give a file of splits"
        )
    folds = min(folds, possible)
    if table.multilabel:
        return np.asarray(rows[label_sets.fold_of(y, g, folds, k, seed)])
    # Where every image is alone, the same aim is reached by what is quick for 100,000 rows.
    splitter, tied = (StratifiedKFold, None) if count == len(g) else (StratifiedGroupKFold, g)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = splitter(folds, shuffle=True, random_state=seed).split(np.zeros(len(rows)), y, tied)
        return np.asarray(rows[next(islice(parts, k - 1, None))[1]])


def _repair(split: np.ndarray, labels: np.ndarray, groups: np.ndarray, order: np.ndarray, names: Sequence[str]) -> None:
    """Move the smallest group of a rare class, in place, into each of the named splits that lacks the class.

    The first split comes first, and takes the only group there is.
    """
    sizes = np.bincount(groups)
    for k in range(int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]):
        chosen = label_sets.members(labels, k)
        for name in names if chosen.any() else ():
            rows = order[chosen[order]]
            holders = {other: np.unique(groups[rows[split[rows] == other]]) for other in names}
            donor = max(names, key=lambda other: (len(holders[other]), names.index(other)))
            if not len(holders[name]) and len(holders[donor]) > (name != names[0]):
                moved = holders[donor][np.argmin(sizes[holders[donor]])]
                split[groups == moved] = name
