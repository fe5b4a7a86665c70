"""Result folders of models from elsewhere, with a description of the model as a run has in `run.json`."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpaat.consistency import file_digest
from dpaat.data import label_sets
from dpaat.errors import UserError, at, first_line
from dpaat.evaluation.foreign import target_of_weights
from dpaat.evaluation.target import EvalTarget, target_of_run
from dpaat.measurement import Foreign
from dpaat.own_code import PREFIX, marks, require_trust
from dpaat.runs import ELSEWHERE, INFO, SCHEMA_VERSION, SUBJECT, read_info
from dpaat.storage import replacing, write_json
from dpaat.validation import Int, misfit, record

MODULE = "model.pt"
"""A network that was given as a Python object, pickled; only what this user's own account has signed is opened."""
ABOUT = record(given=dict[str, Any], data=str | None, window=str | None, seed=Int, checkpoint=str)


def target_from_elsewhere(
    given: Foreign, data: Any, *, window: str | None = None, seed: int, module: nn.Module | None = None, **options: Any
) -> EvalTarget:
    """Take a model as `target_of_weights` does, and note in its folder what it is.

    By that, `report`, `explain` and a further `evaluate` know it again.
    """
    target = target_of_weights(given, data, window=window, seed=seed, module=module, **options)
    prepared, out, spec = target.data, target.folder, data if isinstance(data, str) else None
    counts = {
        split: label_sets.count(target.view(prepared, prepared.rows(split))[1], target.classes)
        for split in ("train", "val", "test")
    }
    config = {"data": prepared.table.spec, "model": target.head["model"], "method": ELSEWHERE, "fit": prepared.fit}
    about = {name: value for name, value in vars(given).items() if name != "out"}
    signed = marks([given.model, spec])
    if module is not None:
        about["model"] = None
        signed |= _pickle(module, out / MODULE)
    if about["weights"]:
        about["weights"] = str(Path(about["weights"]).resolve())
    write_json(
        out / SUBJECT,
        {
            **target.head,
            "schema_version": SCHEMA_VERSION,
            "status": "evaluated",
            "data": prepared.table.name,
            "fingerprint": prepared.fingerprint,
            "channels": target.channels,
            "pixels": list(prepared.kinds),
            "notes": list(prepared.table.notes),
            "licence": prepared.table.licence,
            "citation": prepared.table.citation,
            "train_counts": counts["train"],
            "split_counts": counts,
            "config": config | {"image_size": int(prepared.images.shape[2]), "seed": seed, "window": prepared.window},
            "subject": {
                "given": about,
                "data": spec,
                "window": window,
                "seed": seed,
                "checkpoint": target.head["checkpoint"],
            },
            **({"code": signed} if signed else {}),
        },
    )
    return target


def target_of_folder(path: Path, *, data: Any, device: str, progress: bool, window: str | None = None) -> EvalTarget:
    """Take the model of a run folder, or of a folder with results of a model from elsewhere; as `target_of_run`.

    Raises UserError: neither of them, a model that is not what was evaluated there, or data that do not fit.
    """
    if (path / INFO).is_file() or not (path / SUBJECT).is_file():
        return target_of_run(path, data=data, device=device, progress=progress, window=window)
    info = read_info(path / SUBJECT)
    with at(str(path / SUBJECT)):
        about = info.get("subject") or {}
        if misfit(about, ABOUT):
            raise UserError("damaged; evaluate the model again")
        given, module = Foreign(**about["given"], out=str(path)), None
        if given.model is None:
            module = _unpickle(path, info.get("code"))
        named = [given.model, about["data"] if data is None else None]
        require_trust(named, info.get("code"), "a network of your own")
        if data is None and about["data"] is None:
            raise UserError("its images were given as an object of Python; name them with --data")
    if data is None:
        data, window = about["data"], about["window"]
    options: dict[str, Any] = {"seed": about["seed"], "module": module, "classes": info["classes"]}
    target = target_of_weights(given, data, window=window, device=device, progress=progress, **options)
    if target.head["checkpoint"] != about["checkpoint"]:
        raise UserError(f"{path}: the model is not what was evaluated there; evaluate it anew into another folder")
    return target


def _pickle(module: nn.Module, path: Path) -> dict[str, str]:
    """Keep an object if it can be, and sign it; its signature."""
    try:
        with replacing(path) as temporary:
            torch.save(module, temporary)
    except Exception:  # classes within functions, handles, locks
        path.unlink(missing_ok=True)
        return {}
    return marks([f"{PREFIX}{MODULE}:{file_digest(path)}"])


def _unpickle(folder: Path, signed: object) -> nn.Module:
    path = folder / MODULE
    if not path.is_file():
        raise UserError("its model is an object of Python that could not be kept; use it from there: dpaat.explain")
    require_trust([f"{PREFIX}{MODULE}:{file_digest(path)}"], signed, path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise UserError(f"{MODULE} cannot be read here ({first_line(error)})") from None
    if not isinstance(found, nn.Module):
        raise UserError(f"{MODULE} holds no network")
    return found
