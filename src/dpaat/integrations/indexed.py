"""Datasets whose samples carry their number."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset, IterableDataset
from typing_extensions import override

from dpaat.errors import UserError

INDEX = "index"
"""Key of the sample's number where items are dictionaries."""


class Indexed(Dataset[Any]):
    """A map-style dataset whose items begin with their number: `(number, image, label)`, or a key "index".

    All else is that of the dataset: its length, attributes such as `classes` or `targets`, batches at once
    (`__getitems__`). The numbers are those of this dataset: wrap a subset, not what it is a subset of.

    The items of `dataset` are tuples (image, label), dictionaries, or, as MONAI has them, lists of dictionaries. Raises
    UserError for a dataset without numbers: it is iterable-style.
    """

    def __init__(self, dataset: Any) -> None:
        lacks = [name for name in ("__getitem__", "__len__") if not hasattr(dataset, name)]
        if lacks or isinstance(dataset, IterableDataset):
            raise UserError(
                f"Indexed: {type(dataset).__name__} is iterable-style, so that its samples have no numbers; take a "
                "map-style dataset, one with __getitem__ and __len__"
            )
        self.__dict__["dataset"] = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @override
    def __getitem__(self, index: Any) -> Any:
        number = operator.index(index)
        number += len(self) if number < 0 else 0
        return _numbered(number, self.dataset[number])

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """The items of a batch, read at once where the dataset can do that."""
        whole = getattr(self.dataset, "__getitems__", None)
        items = whole(numbers) if whole else [self.dataset[number] for number in numbers]
        return [_numbered(int(number), item) for number, item in zip(numbers, items, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # asked for while unpickling, before there is a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)


def _numbered(number: int, item: Any) -> Any:
    if isinstance(item, Mapping):
        if INDEX in item:
            raise UserError(f'Indexed: the items have a key "{INDEX}" of their own; rename it')
        return {**item, INDEX: number}
    if isinstance(item, list) and item and all(isinstance(part, Mapping) for part in item):
        return [_numbered(number, part) for part in item]
    if isinstance(item, tuple | list) and len(item) >= 2:
        return (number, *item)
    raise UserError(f"Indexed: items must be (image, label) or dictionaries, not a {type(item).__name__}")
