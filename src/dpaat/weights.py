"""Weights from files, which may come from anywhere: read without running any code that they hold."""

import argparse
import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpaat.data.files import is_file
from dpaat.errors import UserError, first_line
from dpaat.validation import Int, maybe, misfit
from dpaat.validation import record as made

RECORD = "dpaat"  #: Where checkpoints and exports of this package say what a state dict does not hold
_DEPTH = 4

RECORD_SHAPE = made(
    model=str,
    classes=list[str],
    stem=maybe(Literal["original", "small"]),
    split=maybe(made(seed=Int, fold=str | None)),
    options=maybe(dict[str, Any]),
    **dict.fromkeys(("fit", "fingerprint", "split_digest"), maybe(str)),
    **dict.fromkeys(("channels", "image_size"), maybe(Int)),
    **dict.fromkeys(("mean", "std"), maybe(list[float])),
)
"""What this package writes beside the weights."""


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """Contents and metadata of a file of weights."""

    path: Path
    sets: dict[str, dict[str, Tensor]]  #: Tensors by their place in the file, such as "state_dict"; "" is its top level
    record: dict[str, Any]
    """What this package wrote beside the weights (`RECORD_SHAPE`); empty for weights from elsewhere."""
    architecture: str | None
    classes: tuple[str, ...] | None = None  #: Names of the outputs in their order
    folder: Path | None = None  #: The run folder that the file is in, if any

    @property
    def digest(self) -> str:
        """16 hex digits that identify the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


def open_weights(path: Path) -> WeightsFile:
    """Read weights from a file, a run folder or an export; UserError if there are none."""
    from dpaat.runs import BEST, CONFIG, INFO, LAST, PREVIOUS, Run, read_config, read_info

    if path.is_dir():
        path /= BEST if (path / INFO).is_file() else "model.safetensors"
    content, metadata = _read(path)
    above = path.resolve().parent.parent
    checkpoints = [above / name for name in (BEST, LAST, PREVIOUS)]
    in_run = path.resolve() in checkpoints and (above / INFO).is_file() and (above / CONFIG).is_file()
    folder = above if in_run else None
    record: Any = content.get(RECORD)
    with suppress(ValueError):
        if RECORD in metadata:
            record = json.loads(metadata[RECORD])
        elif {"model", "classes"} <= metadata.keys():  # exports before 0.2 said no more
            record = {"model": metadata["model"], "classes": json.loads(metadata["classes"])}
    if record is None and folder is not None:
        record = Run(folder, read_config(folder / CONFIG), read_info(folder / INFO)).record
    record = record if isinstance(record, dict) else {}
    if record and "thresholds" in content:
        record |= {"thresholds": content["thresholds"]}
    if record and (where := misfit(record, RECORD_SHAPE)):
        raise UserError(f"{path}: damaged, its record of the training has no usable {where!r}")
    told = record.get("model") or content.get("arch")
    classes = tuple(record["classes"]) if record else _told_classes(content)
    return WeightsFile(path, _sets(content, path), record, told if isinstance(told, str) else None, classes, folder)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint without running any code that it may hold; UserError where there is none."""
    sets = _sets(_read(path)[0], path)
    return sets.get("state_dict") or sets.get("") or next(iter(sets.values()))


def _read(path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """Content of a file, and the metadata of safetensors."""
    if not is_file(path):
        raise UserError(f"{path}: no such weights file")
    metadata: dict[str, str] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # weights are stored as in memory; only a bomb would unpack to more
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("compressed, as weights never are")
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        # Checkpoints of timm hold the options of their training in a namespace, which is plain data.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: not readable as weights; it is damaged, or holds more than tensors, which is not loaded because "
            "it could run code; save the state dict alone: torch.save(model.state_dict(), ...)"
        ) from None
    except Exception as error:
        raise UserError(f"{path}: not readable as weights ({first_line(error)})") from None
    return (content if isinstance(content, dict) else {}), metadata


def _sets(content: dict[Any, Any], path: Path) -> dict[str, dict[str, Tensor]]:
    def walk(part: dict[Any, Any], place: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        named = {key: value for key, value in part.items() if isinstance(key, str)}
        if tensors := {key: value for key, value in named.items() if _is_plain(value)}:
            yield place, tensors
        for key, value in named.items():
            if isinstance(value, dict) and depth < _DEPTH:
                yield from walk(value, f"{place}.{key}".lstrip("."), depth + 1)

    found = dict(walk(content, "", 0))
    if not found:
        raise UserError(f"{path}: holds no state dict of tensors")
    return found


def _told_classes(content: dict[Any, Any]) -> tuple[str, ...] | None:
    """Class names in the order of the outputs, under the names that other programs keep them by."""
    for key in ("class_to_idx", "label2id"):
        if isinstance(found := content.get(key), dict) and found:
            content = content | {"idx_to_class": {number: name for name, number in found.items()}}
    for key in ("idx_to_class", "id2label"):
        if isinstance(found := content.get(key), dict) and {*map(str, found)} == {*map(str, range(len(found)))}:
            content = content | {"classes": [found[key] for key in sorted(found, key=int)]}
    for key in ("classes", "class_names"):
        found = content.get(key)
        if isinstance(found, list | tuple) and len(found) > 1 and all(isinstance(name, str) for name in found):
            return tuple(found)
    return None


def _is_plain(value: object) -> bool:
    """Whether a value is an ordinary tensor; others have no place in a state dict."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )
