"""Commands that train: train, tune, profile, quickstart."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.terminal import console


def train(
    config: TrainConfig,
    out: Path | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    cache: Path | None = None,
    *,
    _explicit: Callable[[], dict[str, Any]],
    _argv: list[str],
) -> dict[str, Any]:
    """Train a classifier and leave a run folder.

    Args:
        config: what to train on what.
        out: run folder to make (required).
        resume: go on with the run in --out, by its own configuration.
        stop_after: end this call after so many epochs.
        cache: folder for decoded images.

    Examples:
        dpaat train --data ham10000:DIR --image-size 64 --model resnet18 --method dpaat --out runs/ham
        dpaat train --data folder:photos --method pgd --eps 4/255 --clean-weight 0.5 --out runs/pgd
        dpaat train --config runs/ham/config.yaml --seed 1 --out runs/ham-seed1
        dpaat train --resume --out runs/ham
    """
    if out is None:
        raise UserError("out: name the run folder to make, such as --out runs/ham")
    from dpaat.consistency import check_choices
    from dpaat.runs import INFO

    given = _explicit() if resume else {}
    if resume:
        told = any(part.startswith("--config") for part in _argv)
        options = {name: value for name, value in given.items() if name in vars(config)}
        config = check_choices(out, options, told=told) or config
    from dpaat import training
    from dpaat.storage import read_json

    training.train(
        config,
        out,
        resume=resume,
        data=given.get("data"),
        stop_after=stop_after,
        cache_dir=cache,
        command=shlex.join(["dpaat", *_argv]),
        console=console(),
    )
    return {"run": str(out.resolve())} | read_json(out / INFO)


def tune(
    config: TrainConfig,
    search: list[str] = [],  # noqa: B006 - never changed
    trials: int = 20,
    out: Path | None = None,
    prune: bool = False,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Search for good settings with Optuna, judged by validation scores; the test split is not looked at.

    The same command goes on with a study; several calls may work on one --out at once.

    Args:
        config: what all trials share.
        search: FIELD=LOW,HIGH, FIELD=log:LOW,HIGH, FIELD=A,B,C or FIELD=choice:1,2; may be repeated (required).
        trials: number of trainings, those of earlier calls included.
        out: folder of the study (required).
        prune: give up trainings that are worse than the median of the others at the same epoch.
        cache: folder for decoded images.

    Examples:
        dpaat tune --data folder:photos --search lr=log:1e-4,1e-1 --search clean_weight=0.5,0.9 --out runs/lr --trials 9
        dpaat tune --data folder:photos --search eps=2/255,4/255,8/255 --search options.damping=0.2,0.8 --out runs/eps
        dpaat train --config runs/lr/best.yaml    --out runs/tuned     needs pip install 'dpaat[tune]'
    """
    if out is None:
        raise UserError("out: name the folder of the study, such as --out runs/study")
    from dpaat.tuning import tune as search_settings

    best = search_settings(config, out, search or [], trials=trials, prune=prune, cache_dir=cache, console=console())
    return {"best": str(best.resolve())}


def profile(
    config: TrainConfig, batches: int = 9, out: Path | None = None, cache: Path | None = None
) -> dict[str, Any]:
    """Measure where the time of a training step goes, and estimate the whole run.

    Args:
        config: the training.
        batches: how many batches to measure.
        out: JSON file to write.
        cache: folder for decoded images.

    Examples:
        dpaat profile --data ham10000:DIR --image-size 64 --model resnet18
        dpaat profile --config runs/ham/config.yaml --batch-size 256 --out profile.json
    """
    from dpaat.storage import write_json
    from dpaat.training import profile as module

    found = module.profile(config, batches=batches, cache_dir=cache)
    console().print(module.profile_table(found))
    if out:
        write_json(out, found)
    return found


def quickstart(
    data: str = "synthetic", epochs: int | None = None, seed: int = 0, out: Path | None = None
) -> dict[str, Any]:
    """Train standard, fixed-radius and DPAAT models on embedded images (or --data), evaluate them and write a report.

    It takes a few minutes on two cores.

    Args:
        data: dataset, as for `dpaat train --data`.
        epochs: passes over the training set; by default 12.
        seed: of everything random.
        out: folder to make; by default the first free one of runs/quickstart, runs/quickstart-2, ...
    """
    from dpaat import quickstart as module

    report = module.quickstart(data=data, out=out, epochs=epochs, seed=seed, console=console())
    return {"report": str(report.resolve()), "runs": [str(report.resolve().parent / name) for name in module.METHODS]}
