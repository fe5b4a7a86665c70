"""Python interface: train, load, evaluate and explain, and attacks by name."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpaat.attacks import find_attack
from dpaat.config import TrainConfig, chosen
from dpaat.consistency import check_choices
from dpaat.errors import UserError
from dpaat.evaluation.elsewhere import target_from_elsewhere, target_of_folder
from dpaat.evaluation.entries import Document
from dpaat.evaluation.predict import Predictor, unchanged
from dpaat.evaluation.predict import load as load_predictor
from dpaat.evaluation.run import evaluate as measure
from dpaat.evaluation.run import source_of
from dpaat.evaluation.target import EvalTarget
from dpaat.measurement import FLAGS, EvaluateConfig, ExplainConfig, Foreign
from dpaat.own_code import FIELDS, require_trust, trusting
from dpaat.runs import INFO, SUBJECT, open_run, read_config
from dpaat.weights import open_weights

Config = TrainConfig | Mapping[str, Any] | str | Path
Model = nn.Module | Predictor | str | Path


def train(
    config: Config | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    trust: bool = False,
    **fields: Any,
) -> Path:
    """Train a classifier, as `dpaat train` does.

    Args:
        config: a `TrainConfig`, its fields, or a file of them such as a run's `config.yaml`.
        out: the run folder to make; by default the first free one of `runs/train`, `runs/train-2`, ...
        resume: go on with the run in `out`, by its own configuration; other fields than its own are refused.
        trust: run the code of one's own (`py:`) that a file names.
        **fields: fields of `TrainConfig`, which come before those of `config`, such as `data="folder:images"`.

    Returns:
        The run folder.

    Raises:
        UserError: bad input, or training that went wrong.
    """
    from dpaat.training import train as fit
    from dpaat.training.trainer import isolated

    given: dict[str, Any] = {}
    with trusting(everything=trust), isolated():
        if isinstance(config, str | Path):
            given = vars(read_config(Path(config)))
            require_trust((given[name] for name in FIELDS if name not in fields), None, config)
        elif config is not None:
            given = dict(config) if isinstance(config, Mapping) else vars(config)
        if live := [name for name in ("model", "data") if not isinstance(fields.get(name, ""), str)]:
            raise UserError(f"{live[0]}: give a name, as a run has to find it again: py:PKG.MODULE:NAME for your own")
        if out is None:
            names = chain(["train"], (f"train-{number}" for number in count(2)))
            out = next(folder for name in names if not (folder := Path("runs") / name).exists())
        choices = {**(chosen(given) if fields else given), **fields}
        if resume:
            check_choices(Path(out), choices, told=bool(given))
        return fit(TrainConfig(**choices), out, resume=resume, data=choices.get("data") if resume else None)


def load(path: str | Path, *, device: str = "auto", trust: bool = False) -> Predictor:
    """Load a trained network with all that reading images for it needs.

    Args:
        path: a run folder, or a folder that `dpaat export` wrote.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        trust: run the code of one's own (`py:`) that it names, if it is not this user's own run.

    Raises UserError for neither of them, or one that is damaged.
    """
    with trusting(everything=trust):
        return load_predictor(path, device=device)


def evaluate(
    model: Model,
    data: Any = None,
    *,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    source: str | Path | None = None,
    window: str | None = None,
    device: str = "auto",
    progress: bool = False,
    trust: bool = False,
    **options: Any,
) -> Document:
    """Measure a model clean and under attack, as `dpaat evaluate` does, wherever it was trained.

    Args:
        model: a run folder; or any `nn.Module` that maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`, what
            `load` gives, a folder that `dpaat export` wrote, a file of weights, or a name of timm or `py:`.
        data: a dataset by its name, such as "folder:images", or itself, see `dpaat.data.map_style.table_of`; arrays
            `(images, labels)`, by default all of them in their own size; None for a run's own.
        out: folder for the results, which `report`, `compare` and `explain` take; by default the run's own.
        classes: names of the outputs in their order; by default the model's own, else the data's.
        source: run folder of the model on which transfer attacks make their images.
        window: which values of the images are black and white; None as in the training.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        progress: show a progress bar with the time left on stderr.
        trust: run the code of one's own (`py:`) that a folder names, if it is not this user's own.
        **options: fields of `EvaluateConfig` (suites, attacks, eps, steps, split, max_samples, ...) and, for models
            that are no run, of `Foreign` (weights, image_size, mean, std, input_range, stem, weights_key).

    Returns:
        The document, as written to `evaluation.json`.

    Raises:
        UserError: bad input, or a folder that cannot be written.
    """
    options = {{flag: name for name, flag in FLAGS.items()}.get(name, name): value for name, value in options.items()}
    how = {name: options.pop(name) for name in [*options] if name in FOREIGN}
    plan = EvaluateConfig(**_of_arrays(data) | options)
    with trusting(everything=trust):
        target = _target(model, data, out, classes, how, plan.seed, window=window, device=device, progress=progress)
        other = source_of(target, None if source is None else Path(source))
        return measure(target, plan, source=other, progress=progress)


def explain(
    model: Model,
    data: Any = None,
    *,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    window: str | None = None,
    device: str = "auto",
    progress: bool = False,
    trust: bool = False,
    **options: Any,
) -> Document:
    """Compute and score attribution maps, as `dpaat explain` does.

    Arguments are those of `evaluate`, but that `options` are fields of `ExplainConfig`. Returns the document, as
    written to `interpretability.json`.
    """
    from dpaat.interpret.run import explain as measure_maps

    how = {name: options.pop(name) for name in [*options] if name in FOREIGN}
    plan = ExplainConfig(**_of_arrays(data) | options)
    with trusting(everything=trust):
        target = _target(model, data, out, classes, how, plan.seed, window=window, device=device, progress=progress)
        if plan.norm is None:
            run = target.folder / INFO
            plan = dataclasses.replace(plan, norm=open_run(target.folder).config.norm if run.is_file() else "linf")
        return measure_maps(target, plan, progress=progress)


def attack(
    name: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    steps: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Attack a batch of images by the name of an attack.

    Args:
        name: one of `dpaat list attacks`, such as "pgd", "apgd-ce" or "square".
        model: maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`; it is left as found.
        x: images `(B, C, H, W)` in [0, 1].
        y: labels `(B,)`, int64.
        eps: radius in units of a [0, 1] image, such as 8/255; one number or `(B,)`.
        norm: "linf" or "l2".
        steps: iterations, or queries; by default the attack's own.
        seed: of its random draws.
        **options: further ones of the attack's function, such as `source`, the model on which "transfer" works.

    Returns:
        Adversarial images `(B, C, H, W)`, detached.

    Raises:
        UserError: an unknown attack, a norm or steps that it does not know, or arguments out of their range.
    """
    info = find_attack(name)
    if norm not in info.norms:
        raise UserError(f"norm: attack {name!r} knows {', '.join(info.norms)}, not {norm!r}")
    if steps is not None and info.steps is None:
        raise UserError(f"steps: attack {name!r} takes no number of steps")
    if info.needs_source and "source" not in options:
        raise UserError(f"source: attack {name!r} makes its images on another model; give source=MODEL")
    if info.steps is not None:
        options["steps"] = info.steps if steps is None else steps
    generator = torch.Generator(x.device).manual_seed(seed)
    return info.function(model, x, y, eps=eps, norm=norm, generator=generator, **options)


def _of_arrays(data: Any) -> dict[str, Any]:
    return {"split": "all"} if isinstance(data, tuple) and len(data) == 2 else {}


FOREIGN = {field.name for field in dataclasses.fields(Foreign)} - {"model", "out", "classes"}


def _target(
    model: Model,
    data: Any,
    out: str | Path | None,
    classes: Sequence[str] | None,
    how: Mapping[str, Any],
    seed: int,
    **options: Any,
) -> EvalTarget:
    """Evaluation target: a folder, or a model from elsewhere with a folder for its results."""
    model = unchanged(model) if isinstance(model, Predictor) else model
    path = None if isinstance(model, nn.Module) else Path(model)
    data = list(zip(*data, strict=True)) if _of_arrays(data) else data
    known = path is not None and any((path / name).is_file() for name in (INFO, SUBJECT))
    if path is not None and known and (out is None or Path(out).resolve() == path.resolve()):
        if how or classes:
            raise UserError(f"{next(iter(how), 'classes')}: belongs to models from elsewhere; a run needs none")
        return target_of_folder(path, data=data, **options)
    if out is None:
        raise UserError("out: name a folder for the results of this model")
    if data is None and path is not None and (path / INFO).is_file():
        data = open_run(path).config.data
    if data is None:
        raise UserError("data: name the images to try this model on")
    name: str | None = None if path is None else str(model)
    if path is not None and path.exists():
        source = open_weights(path)
        name = how.get("model") or source.architecture
        if name is None:
            raise UserError(f"{path}: does not say which model it is of; give its name, and weights={str(path)!r}")
        require_trust([name], source.record.get("code"), path)
        how = {**how, "weights": str(path)}
    elif name is not None and not how.get("weights") and not name.startswith("py:"):
        raise UserError(f"model: there is no run or file {name!r}; if it is a network's name, give its weights=FILE")
    given, module = Foreign(**how, model=name, out=str(out)), model if isinstance(model, nn.Module) else None
    return target_from_elsewhere(given, data, seed=seed, module=module, classes=classes, **options)
