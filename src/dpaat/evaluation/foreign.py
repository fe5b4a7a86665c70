"""Evaluation of weights from elsewhere: what they are, and the images that they are tried on."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpaat.data import PreparedData, label_sets, prepare
from dpaat.data.findings import warnings_of
from dpaat.data.seen import LeftOut, same_split
from dpaat.errors import UserError, first_line
from dpaat.evaluation.labels import thresholds_of
from dpaat.evaluation.target import EvalTarget, check_fit, head_of, resolve_device, unseen, usual_labels
from dpaat.fitting import channels_of
from dpaat.measurement import Foreign
from dpaat.models import Classifier, build_model
from dpaat.normalization import normalization, parse_normalization
from dpaat.own_code import is_own
from dpaat.runs import SUBJECT, open_run, read_info
from dpaat.storage import writing
from dpaat.weights import WeightsFile, open_weights


def target_of_weights(
    given: Foreign,
    data: Any,
    *,
    window: str | None,
    device: str,
    seed: int,
    progress: bool,
    module: nn.Module | None = None,
    classes: Sequence[str] | None = None,
) -> EvalTarget:
    """Take a model that was trained elsewhere: weights, a network of the user's own, or an object.

    What a state dict does not hold is taken from what is stated; else from the record that checkpoints and exports of
    this package carry; else by the rules of `Foreign`. All of it is in the head of the results, as `network`.

    `data` is a dataset as `dpaat.data.load_table` takes it or prepared, whose classes are matched with the model's by
    name; `window` says how its values are read, `seed` is of the split, where it has none; `module` is the model
    itself, which takes images in [0, 1] unless a normalization is stated, and is copied; `classes` names its outputs
    in their order. Raises UserError for weights that do not fit the model and the classes, or data that cannot be read.
    """
    assert given.out
    device = resolve_device(device)
    out, source = Path(given.out), open_weights(Path(given.weights)) if given.weights else None
    prepared, left_out, own_splits = _prepare_for(source, given, data, window, seed=seed, progress=progress)
    outputs, said = _outputs(source, classes or given.classes, prepared)
    if classes or given.classes:
        prepared = _numbered(prepared, outputs)
    size = int(prepared.images.shape[2])
    name = given.model or type(module).__name__
    if module is None:
        assert given.model
        channels = _channels(source, given.model) or int(prepared.images.shape[1])
        options = {name: getattr(given, name) for name in ("stem", "weights_key", "mean", "std", "input_range")}
        options |= {"num_classes": len(outputs), "channels": channels, "image_size": size, "weights": source}
        with torch.random.fork_rng():  # what is random in a network of the user's own is so once and for all
            torch.manual_seed(seed)
            model = build_model(given.model, keep_head=True, **options)
    else:
        first = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), None)
        channels = first if first in (1, 3) else int(prepared.images.shape[1])
        model = of_module(module, given, channels, size, len(outputs))
    check_fit(prepared, outputs, channels, str(source.path) if source else name)
    if source is not None:
        model.facts["weights"]["outputs_are"] = said
    learned = prepared.rows("train")
    counts = label_sets.count(prepared.labels[learned] if len(learned) else prepared.labels, prepared.classes)
    info = {"train_counts": counts, "split_sizes": {"train": len(learned) or len(prepared.labels)}}
    several = prepared.table.multilabel
    with writing(out, "cannot be made"):
        out.mkdir(parents=True, exist_ok=True)
    # The same file read in another way is another model.
    read = {key: model.facts[key] for key in ("stem", "mean", "std")}
    if source is not None:
        identity = json.dumps([source.digest, given.model, read | {"key": model.facts["weights"]["key"]}, outputs])
    else:
        identity = json.dumps([network_digest(model), name, read, outputs])
    return EvalTarget(
        folder=out,
        model=model.eval().to(torch.device(device)).to(memory_format=torch.channels_last),
        device=device,
        classes=outputs,
        channels=channels,
        data=prepared,
        own_data=prepared,
        left_out=left_out,
        own_splits=own_splits,
        majority=usual_labels(info) if several else max(counts, key=counts.__getitem__),
        thresholds=_thresholds(source, outputs) if several else None,
        head=head_of(
            prepared,
            outputs,
            device,
            checkpoint=_told_apart(out, identity, size),
            run=out.resolve().name,
            model=name,
            **dict.fromkeys(("method", "training_seed", "fold", "recipe")),
            data_warnings=warnings_of(prepared),
            network=model.facts,
            **({"multilabel": True} if several else {}),
        ),
    )


def _told_apart(out: Path, identity: str, size: int) -> str:
    """16 hex digits of a model's identity; of the image size too where its results at another are in the folder."""
    plain, sized = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (identity, f"{identity} {size} px"))
    path = out / SUBJECT
    known = read_info(path) if path.is_file() else {}
    before, then = (known.get("subject") or {}).get("checkpoint"), (known.get("config") or {}).get("image_size")
    return sized if before == sized or (before == plain and then != size) else plain


def of_module(module: nn.Module, given: Foreign, channels: int, size: int, classes: int) -> Classifier:
    """Take a copy of a network, behind the normalization that is stated; UserError where it gives no logits."""
    stated = parse_normalization(given.mean, given.std, given.input_range)
    none = (0.0,), (1.0,)
    means, deviations, origin = normalization(stated, [], none, channels=channels, unit=False)
    facts = {"stem": "original", "weights": None, "mean": means.tolist(), "std": deviations.tolist()}
    facts |= {"code": type(module).__qualname__, "normalization": "none" if origin == "of timm" else origin}
    facts |= {"input_range": list(stated.range or (0, 1)), "strides": []}
    try:
        model = Classifier(copy.deepcopy(module).cpu().eval(), means, deviations, facts)
    except Exception as error:
        raise UserError(f"{type(module).__name__}: cannot be copied: {first_line(error)}") from None
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, channels, size, size))
    except Exception as error:
        what = f"images ({channels}, {size}, {size})"
        raise UserError(f"{type(module).__name__}: cannot take {what}: {first_line(error)}") from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"{type(module).__name__}: gives {found} for 2 images of {classes} classes; name its classes")
    return model


def network_digest(model: nn.Module) -> str:
    """16 hex digits that identify a network by its text, its weights, and its buffers that are not saved with them."""
    found = hashlib.sha256(repr(model).encode())
    for name, value in sorted({**dict(model.named_buffers()), **model.state_dict()}.items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _channels(source: WeightsFile | None, model: str) -> int | None:
    """Of the images that weights were trained on, 1 or 3; None where they do not tell."""
    if source is None:
        return None
    told: int | None = source.record.get("channels") or (None if is_own(model) else channels_of(source, model))
    return told


def _prepare_for(
    source: WeightsFile | None, given: Foreign, data: Any, window: str | None, *, seed: int, progress: bool
) -> tuple[PreparedData, LeftOut | None, bool]:
    """Load a dataset as the record of the weights says; the data of the training are split as then.

    Returns them, what is left out, and whether the splits are those of the training.
    """
    if isinstance(data, PreparedData):
        return data, None, False
    record = source.record if source is not None else {}
    options: dict[str, Any] = {
        "image_size": given.image_size or record.get("image_size") or _side(data, square=True),
        "fit": record.get("fit", "crop"),
        "window": window or "auto",
    }
    if options["window"] == "auto" and "window" in record:
        options |= {"window": record["window"], "known": tuple(record["known"])}
    prepared = prepare(data, seed=seed, training=False, progress=progress, **options)
    if source is not None and source.folder is not None:
        prepared, left_out = unseen(prepared, open_run(source.folder))
        return prepared, left_out, left_out is None or left_out.own
    if source is None or prepared.fingerprint != record.get("fingerprint"):
        return prepared, LeftOut(0, 0, "nothing") if record else None, False
    split = record.get("split")
    then = prepare(data, progress=False, **options, **split) if split else prepared
    if not split or (known := same_split(record, then, **split)) is False:
        raise UserError(
            f"{source.path}: was trained on these data by a split that it does not hold; evaluate its run folder"
        )
    return then, LeftOut(0, 0, "nothing") if known is None else None, True


def _side(data: Any, *, square: bool = False) -> int:
    """Pixels at the shorter side of images that are in memory, else 64."""
    pair = data[0] if isinstance(data, list) and data else None
    shape: Any = getattr(pair[0], "shape", ()) if isinstance(pair, tuple) else ()
    last = isinstance(pair, tuple) and isinstance(pair[0], np.ndarray) and shape[2:] in ((1,), (3,), (4,))
    height, width = (shape[:2] if last else shape[-2:]) if len(shape) >= 2 else (64, 64)
    if square and height != width:
        side = min(height, width)
        raise UserError(f"images of {height} x {width}: give the side of the squares to cut, as image_size={side}")
    return int(min(height, width))


def _thresholds(source: WeightsFile | None, outputs: Sequence[str]) -> np.ndarray:
    """Thresholds of the labels' logits as the weights' run says, else 0: a probability of a half."""
    known = {} if source is None else source.record.get("thresholds") or {}
    if not known and source is not None and source.folder is not None:
        known = open_run(source.folder).info.get("thresholds") or {}
    return thresholds_of(known, outputs)


def _numbered(data: PreparedData, outputs: Sequence[str]) -> PreparedData:
    """Images whose classes are numbers, with the names of these in `outputs`; others as they are."""
    names = data.classes
    if data.table.multilabel or set(names) & set(outputs):
        return data
    if not all(name.isdecimal() and int(name) < len(outputs) for name in names):
        return data
    named = tuple(outputs[int(name)] for name in names)
    return dataclasses.replace(data, table=dataclasses.replace(data.table, classes=named))


def _outputs(
    source: WeightsFile | None, classes: str | Sequence[str] | None, data: PreparedData
) -> tuple[tuple[str, ...], str]:
    """Names of the model's outputs in their order, and where they come from."""
    recorded = source.classes if source is not None else None
    if classes is None:
        known = source is not None and source.record
        said = "classes as trained" if known else f"classes {', '.join(recorded or ())} as the file says"
        return (recorded, said) if recorded else (data.classes, "classes in the data's order")
    names = tuple(name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes))
    if len(set(names)) < max(len(names), 2) or not all(names):
        raise UserError(f"classes: {','.join(names)} must be two or more different names, with commas")
    if recorded and (len(names) != len(recorded) or (names != recorded and sorted(names) == sorted(recorded))):
        where = source.path if source is not None else "the model"
        raise UserError(f"classes: {where} was trained on {','.join(recorded)}, as the file says, in this order")
    return names, f"classes {', '.join(names)} as given"
