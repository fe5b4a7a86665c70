"""Datasets of Hugging Face's `datasets`: from the hub, or from a folder in one of the layouts that it reads."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpaat.data.csv_file import METADATA
from dpaat.data.frames import split_name
from dpaat.data.map_style import table_of
from dpaat.data.registry import register_dataset
from dpaat.data.table import ImageTable
from dpaat.errors import UserError, first_line, listed

SHARDS = {".tar": "webdataset", ".parquet": "parquet"}
INSTALL = "pip install 'dpaat[integrations]'"
USED = {"groups": "group", "ids": "id", **{name: name for name in METADATA}}
"""Columns that are used beside images and labels, by the attribute that `table_of` looks for."""
FIELDS = "json"  #: The file of a WebDataset that holds further columns


@register_dataset("hf", "hf:NAME_OR_DIR", "a dataset of Hugging Face's hub, or a folder that `datasets` reads")
def load(argument: str, spec: str) -> ImageTable:
    """Load a dataset with one column of images and one of labels; no code that comes with it is run.

    A folder may be saved by `datasets`, or be of any layout that it knows, such as shards: Parquet, or tars of a
    WebDataset with the class in `cls` or `json`, also named one by one or by a pattern, such as `hf:train-*.tar`.
    Splits called train, validation and test are its splits; others are left out, and so said. Columns `group`, `id`,
    `age`, `sex`, `site` and `source` are used as in a table (`csv:`). Raises UserError where it cannot be had, or has
    no such columns.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{spec}: needs the datasets package: {INSTALL}") from None
    if not argument:
        raise UserError(f"{spec!r} names no dataset; write hf:NAME_OR_DIR")
    folder = Path(argument).expanduser()
    shards = None if folder.is_dir() else SHARDS.get(folder.suffix)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found: Any = datasets.load_from_disk(str(folder))
        elif folder.is_dir():
            found = datasets.load_dataset(str(folder.resolve()))
        elif shards:
            found = datasets.load_dataset(shards, data_files=str(folder))
        else:
            found = datasets.load_dataset(argument)
    except Exception as error:  # networks, disks and builders fail in many ways
        raise UserError(f"{spec}: cannot be loaded ({first_line(error)})") from None
    parts = found if isinstance(found, Mapping) else {"train": found}
    known = {name: part for name, part in parts.items() if split_name(name)}
    if not known:
        raise UserError(f"{spec}: its splits {listed(parts)} are not called train, validation and test")
    rows = {name: _Rows(part, spec, datasets) for name, part in known.items()}
    made: Any = next(iter(rows.values())) if [*map(split_name, rows)] == ["train"] else rows
    name = folder.resolve().parent.name if shards else folder.name  # of a pattern, none that a file could have
    table = table_of(made, name=name, spec=spec)
    said = (f"left out: splits {listed(set(parts) - set(known))}",) if len(parts) > len(known) else ()
    unused = sorted({name for part in rows.values() for name in part.unused})
    notes = (f"columns that are not used: {listed(unused, 12)}",) if unused else ()
    return replace(table, notes=(*table.notes, *notes), warnings=(*table.warnings, *said))


class _Rows:
    """Files of images and labels of one split, with the attributes that `table_of` looks for."""

    def __init__(self, part: Any, spec: str, datasets: Any) -> None:
        images = [name for name, kind in part.features.items() if isinstance(kind, datasets.Image)]
        fields = part.features.get(FIELDS)
        inner = fields if isinstance(fields, Mapping) else {}
        columns = {**inner, **part.features}
        labels = [name for name, kind in columns.items() if isinstance(kind, datasets.ClassLabel)]
        labels = labels or [name for name in ("label", "labels", "cls") if name in columns]
        if len(images) != 1 or len(labels) != 1:
            raise UserError(
                f"{spec}: of its columns {listed(columns, 12)}, {len(images)} hold images and {len(labels)} "
                "labels; give one each, the latter called 'label'"
            )
        self.image, self.rows = images[0], part.cast_column(images[0], datasets.Image(decode=False))
        self.targets = self._column(labels[0])
        self.classes = getattr(columns[labels[0]], "names", None)
        for attribute, column in USED.items():
            if column in columns:
                setattr(self, attribute, self._column(column))
        # Keys of a WebDataset are often counted anew in each shard, so they are no ids.
        own = {"__key__", "__url__", *([FIELDS] if inner else [])}
        self.unused = set(columns) - {self.image, labels[0], *USED.values()} - own

    def _column(self, name: str) -> list[Any]:
        if name in self.rows.features:
            return list(self.rows[name])
        return [None if fields is None else fields[name] for fields in self.rows[FIELDS]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        found = self.rows[number][self.image]
        return found["bytes"] or found["path"], self.targets[number]
