"""Evaluation of weights from elsewhere: what they are, and the images that they are tried on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpaat.data import PreparedData, prepare
from dpaat.data.findings import warnings_of
from dpaat.data.seen import LeftOut
from dpaat.errors import UserError
from dpaat.evaluation.subject import Subject, check_fit, head_of, unseen
from dpaat.fitting import channels_of
from dpaat.measurement import Foreign, Inputs
from dpaat.models import build_model
from dpaat.runs import open_run
from dpaat.weights import WeightsFile, open_weights


def subject_of_weights(given: Foreign, inputs: Inputs, *, seed: int, progress: bool) -> Subject:
    """Take weights that were trained elsewhere.

    What a state dict does not hold is taken from what is stated; else from the record that checkpoints and exports of
    this package carry; else by the rules of `Foreign`. All of it stands in the head of the results, as `network`.

    Args:
        given: model, weights and how they are read; `out` is made if need be.
        inputs: the dataset, whose classes are matched with the model's by name, and a device of this machine.
        seed: of the split, where the dataset has none.
        progress: show progress of decoding.

    Raises:
        UserError: weights that do not fit the model and the classes, or data that cannot be read.
    """
    assert given.model
    assert given.weights
    assert given.out
    out, source = Path(given.out), open_weights(Path(given.weights))
    prepared, left_out = _prepare_for(source, given, inputs, seed=seed, progress=progress)
    outputs, said = _outputs(source, given.classes, prepared)
    channels = source.record.get("channels") or channels_of(source, given.model) or int(prepared.images.shape[1])
    model = build_model(
        given.model,
        num_classes=len(outputs),
        channels=channels,
        image_size=int(prepared.images.shape[2]),
        weights=source,
        keep_head=True,
        **{name: getattr(given, name) for name in ("stem", "weights_key", "mean", "std", "input_range")},
    )
    check_fit(prepared, outputs, channels, str(source.path))
    model.facts["weights"]["outputs_are"] = said
    learned = prepared.rows("train")
    counts = np.bincount(prepared.labels[learned] if len(learned) else prepared.labels, minlength=len(prepared.classes))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror})") from None
    # The same file read in another way is another model.
    read = {key: model.facts[key] for key in ("stem", "mean", "std")} | {"key": model.facts["weights"]["key"]}
    identity = json.dumps([source.digest, given.model, read, outputs])
    return Subject(
        folder=out,
        model=model.eval().to(torch.device(inputs.device)).to(memory_format=torch.channels_last),
        classes=outputs,
        channels=channels,
        data=prepared,
        own_data=prepared,
        left_out=left_out,
        majority=prepared.classes[int(counts.argmax())],
        head=head_of(
            prepared,
            outputs,
            inputs.device,
            checkpoint=hashlib.sha256(identity.encode()).hexdigest()[:16],
            run=out.resolve().name,
            model=given.model,
            **dict.fromkeys(("method", "training_seed", "fold", "recipe")),
            data_warnings=warnings_of(prepared),
            network=model.facts,
        ),
    )


def _prepare_for(
    source: WeightsFile, given: Foreign, inputs: Inputs, *, seed: int, progress: bool
) -> tuple[PreparedData, LeftOut | None]:
    """Load a dataset as the record of the weights says; the data of the training are split as then."""
    record, data = source.record, inputs.data
    assert data
    options: dict[str, Any] = {
        "image_size": given.image_size or record.get("image_size", 64),
        "fit": record.get("fit", "crop"),
        "window": inputs.window or "auto",
    }
    if options["window"] == "auto" and "window" in record:
        options |= {"window": record["window"], "known": tuple(record["known"])}
    prepared = prepare(data, seed=seed, training=False, progress=progress, **options)
    if source.folder is not None:
        return unseen(prepared, open_run(source.folder))
    if prepared.fingerprint != record.get("fingerprint"):
        return prepared, LeftOut(0, 0, "nothing") if record else None
    if record.get("split") is None:
        raise UserError(
            f"{source.path}: was trained on these data by a split that it does not hold; evaluate its run folder"
        )
    return prepare(data, progress=False, **options, **record["split"]), None


def _outputs(source: WeightsFile, classes: str | None, data: PreparedData) -> tuple[tuple[str, ...], str]:
    """Names of the model's outputs in their order, and where they come from."""
    recorded = source.classes
    if classes is None:
        said = "classes as trained" if source.record else f"classes {', '.join(recorded or ())} as the file says"
        return (recorded, said) if recorded else (data.classes, "classes in the data's order")
    names = tuple(name.strip() for name in classes.split(","))
    if len(set(names)) < max(len(names), 2) or not all(names):
        raise UserError(f"classes: {','.join(names)} must be two or more different names, with commas")
    if recorded and (len(names) != len(recorded) or (names != recorded and sorted(names) == sorted(recorded))):
        raise UserError(f"classes: {source.path} was trained on {','.join(recorded)}, as the file says, in this order")
    return names, f"classes {', '.join(names)} as given"
