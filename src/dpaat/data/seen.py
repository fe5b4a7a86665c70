"""What of a dataset a run has learned from, found by the images themselves and not by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpaat.data import PreparedData
from dpaat.data.splits import connected

SEEN = "seen"
"""Stands in the place of a split for images that are left out."""


@dataclass(frozen=True)
class LeftOut:
    """How many images of a dataset are left out of an evaluation, and why.

    Attributes:
        learned: images that the run was trained or validated on.
        related: further ones in a group with those, identical with them, or in a group of the same name as theirs.
        by: "content", or "id" where the run's images are not known any more: then other names hide the same images.
        own: whether the dataset holds exactly the run's images, whose splits then stay.
    """

    learned: int
    related: int
    by: str
    own: bool = False

    @property
    def note(self) -> str:
        """One line; empty where there is nothing to say."""
        said = (
            f"{self.learned:,} images that the model has learned from or was chosen by and {self.related:,} of their "
            "groups are left out"
            if self.learned or self.related
            else ""
        )
        if self.by == "content":
            return said
        unchecked = (
            "whether it has images that the model has learned from could be checked by their names only: the run keeps no "
            "digests, and its own data are not there"
        )
        return f"{unchecked}; {said}" if said else unchecked


def leave_out(data: PreparedData, known: pd.DataFrame) -> tuple[PreparedData, LeftOut]:
    """Take out of a dataset what a run has learned from, with all that belongs to it.

    The run's own test images stay test images, whatever their names. A dataset that holds exactly the run's images keeps
    the run's splits, and only those test images are left out that its groups tie to others.

    Args:
        data: another dataset than the run's, split on its own.
        known: the run's images, as `known_images` gives them.

    Returns:
        The dataset, its split `SEEN` where an image is left out; and the counts.
    """
    keys = {"pixels": list(data.pixels), "digest": list(data.digests)} if "pixels" in known else {"id": data.ids.tolist()}
    learned_from = known[known["split"] != "test"]
    ordered = pd.concat([known[known["split"] == "test"], learned_from])  # of an image on two sides, the latter counts
    found = np.full(len(data.split), "", dtype="<U5")
    for name, values in keys.items():
        split_of = dict(zip(ordered[name], ordered["split"], strict=True))
        there = np.array([split_of.get(value, "") for value in values], dtype="<U5")
        found = np.where(found == "", there, found)
    learned = np.isin(found, ("train", "val"))
    groups, _ = connected(data.table, data.pixels)
    tied = np.isin(groups, groups[learned])
    if "group" in known:
        # A group of its own for every image is no information about other images.
        named = learned_from[learned_from["group"] != learned_from["id"]]
        tied |= data.table.frame["group"].isin(set(named["group"])).to_numpy()
    related = tied & ~learned
    same = "pixels" in known and any(sorted(values) == sorted(known[name]) for name, values in keys.items())
    split = np.where(related if same else related | learned, SEEN, np.where(found == "", data.split, found))
    by = "content" if "pixels" in known else "id"
    left_out = LeftOut(0 if same else int(learned.sum()), int(related.sum()), by, same)
    return dataclasses.replace(data, split=split), left_out


def known_images(data: PreparedData) -> dict[str, Sequence[str]]:
    """What `splits.csv` keeps of the images that a run is given, beside id and split: how to know them again."""
    labels = np.array(data.classes)[data.labels]
    group = data.table.frame["group"].tolist()
    return {"label": labels.tolist(), "group": group, "pixels": data.pixels, "digest": data.digests}
