"""Images of a dataset that a run was trained on, recognized by content rather than by name."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dpaat.data import PreparedData, fingerprint
from dpaat.data.splits import connected, split_digest

SEEN = "seen"  # in the place of a split, for images that are left out
UNNAMED = (
    "the weights do not say which images they were trained on; scores on any of those are too high; give the run "
    "folder in place of the weights, which knows them"
)
UNCHECKED = (
    "images that the model was trained or validated on could be found by their ids only, as the run keeps no digests "
    "of them and they are not where they were"
)


@dataclass(frozen=True)
class LeftOut:
    """How many images of a dataset are left out of an evaluation, and why.

    They are found by "content"; by "id" where the run's images are not known any more: then other names hide the same
    images; by "nothing" for weights without their run folder.
    """

    learned: int  # images that the run was trained or validated on
    related: int  # further ones in a group with those, identical with them, or in a group of the same name as theirs
    by: str
    own: bool = False  # the dataset holds exactly the run's images, whose splits then stay

    @property
    def note(self) -> str:
        """One line; empty where there is nothing to say."""
        if self.by == "nothing":
            return UNNAMED
        counts = {"that the model was": self.learned, "in groups of those that it was": self.related}
        parts = [f"{count:,} images {what} trained or validated on" for what, count in counts.items() if count]
        said = [UNCHECKED] * (self.by == "id") + [f"{' and '.join(parts)} are left out"] * bool(parts)
        return "; ".join(said)


def leave_out(data: PreparedData, known: pd.DataFrame) -> tuple[PreparedData, LeftOut]:
    """Take out of a dataset, split on its own, what a run has learned from, with all that belongs to it.

    The run's own test images stay test images, whatever their names. A dataset that holds exactly the run's images
    keeps the run's splits, and only those test images are left out that its groups tie to others. `known` are the run's
    images as `known_images` gives them, with id and split. In the split, `SEEN` is what is left out.
    """
    found = split_before(data, known)
    learned = np.isin(found, ("train", "val"))
    groups, _ = connected(data.table, data.pixels)
    tied = np.isin(groups, groups[learned])
    if "group_name" in known:
        # A group of its own for every image is no information about other images.
        named = known[(known["split"] != "test") & (known["group_name"] != known["id"])]
        tied |= data.table.frame["group"].isin(named["group_name"]).to_numpy()
    related, by = tied & ~learned, "content" if "pixels" in known else "id"
    keys = _keys(data, known).items()
    same = by == "content" and any(sorted(values) == sorted(known[name]) for name, values in keys)
    split = np.where(related if same else related | learned, SEEN, np.where(found == "", data.split, found))
    left_out = LeftOut(0 if same else int(learned.sum()), int(related.sum()), by, same)
    return dataclasses.replace(data, split=split), left_out


def same_split(record: Mapping[str, Any], data: PreparedData, *, seed: int, fold: str | None) -> bool | None:
    """Whether weights with a `Run.record` were trained on the split of these, the same, images by this seed and fold.

    None if it is not known: older records have no digest of the split, and the data's own column may have changed.
    """
    if (known := record.get("split_digest")) is not None:
        return bool(known == split_digest(data.ids, data.split))
    if record.get("split") != {"seed": seed, "fold": fold}:
        return False
    return None if fold is None and "split" in data.table.frame else True


def split_before(data: PreparedData, known: pd.DataFrame) -> np.ndarray:
    """The split that each image had in a run, "" for images that it does not know; arguments as of `leave_out`."""
    # Of an image on two sides, the one that is learned from counts.
    ordered = known.sort_values("split", key=lambda split: split != "test", kind="stable")
    found = np.full(len(data.split), "", dtype="<U5")
    for name, values in _keys(data, known).items():
        split_of = dict(zip(ordered[name], ordered["split"], strict=True))
        found = np.where(found == "", [split_of.get(value, "") for value in values], found)
    return found


def _keys(data: PreparedData, known: pd.DataFrame) -> dict[str, Sequence[str]]:
    if "pixels" not in known:
        return {"id": data.ids.tolist()}
    return {"pixels": data.pixels, "digest": data.digests}


def recognized(data: PreparedData, known: pd.DataFrame) -> PreparedData | None:
    """A run's own images under other names, by the ids, groups, splits and fingerprint that the run knows them by.

    None unless the same images of the same classes come in the same order and in the same groups.
    """
    if "pixels" not in known or len(known) != len(data.split):
        return None
    now = pd.DataFrame(known_images(data))
    same = any(now[name].tolist() == known[name].tolist() for name in ("pixels", "digest"))
    partitions = [pd.factorize(frame["group_name"])[0].tolist() for frame in (now, known)]
    if not same or now["class_name"].tolist() != known["class_name"].tolist() or partitions[0] != partitions[1]:
        return None
    frame = data.table.frame.assign(id=known["id"].to_numpy(), group=known["group_name"].to_numpy())
    table, digests = dataclasses.replace(data.table, frame=frame), tuple(known["digest"])
    split, name = known["split"].to_numpy(dtype="<U5"), fingerprint(table, digests, data.window)
    return dataclasses.replace(data, table=table, split=split, digests=digests, fingerprint=name)


def known_images(data: PreparedData) -> dict[str, Sequence[str]]:
    """What `splits.csv` keeps of the images that a run is given, beside id and split: how to know them again."""
    group = data.table.frame["group"].tolist()
    return {"class_name": data.table.label_names, "group_name": group, "pixels": data.pixels, "digest": data.digests}
