"""Profile of a training step, and the predicted time of a run: measured on the run's own model and data."""

import dataclasses
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Group, RenderableType

from dpaat.config import TrainConfig, complete
from dpaat.errors import UserError
from dpaat.methods import Method, find_method
from dpaat.models import check_name
from dpaat.perturbation import AdaptivePerturbation
from dpaat.provenance import provenance
from dpaat.tables import Row, Table
from dpaat.training.setup import build, check_splits, make_datamodule, prepare_data
from dpaat.training.stopwatch import PHASES, Stopwatch
from dpaat.training.trainer import check_options, make_trainer, quiet

WARMUP = 3  #: Batches that are not counted: the first ones choose kernels and fill caches
STANDING = {True: 0.5, False: 0.35}
"""Share of the validation images that are attacked at a radius, since only those still standing are: typical of
adversarial training, and of training without."""
SAFETY = 0.8  #: Share of the free memory that a batch may fill


def profile(config: TrainConfig, *, batches: int = 9, cache_dir: Path | None = None) -> dict[str, Any]:
    """Train a few batches as `train` would, in a folder that is thrown away, with a stopwatch.

    They are trained as in the last epoch, which is a costly one: some methods attack less, or not at all, before.
    `batches` are measured. Returns ready for JSON: `batch`, median seconds of a step and of its phases; `passes`,
    seconds of a pass over a batch; `floor`, the seconds of K forward passes with input gradients on the images that are
    attacked and of one training pass on every view that is learned from; `memory` in bytes, and the batch size that
    `fits`; `epoch` and `run`, estimated seconds, if all epochs are as the last. Raises UserError: bad input, as in
    `train`, or a training split of too few batches.
    """
    config = complete(config)
    check_options(config.trainer)
    check_name(config.model)
    data = prepare_data(config, cache_dir=cache_dir, progress=False)
    check_splits(config, data)
    datamodule = make_datamodule(config, data)
    per_epoch = -(-len(datamodule.train) // config.batch_size)
    if per_epoch <= WARMUP:
        raise UserError(f"batch_size: {per_epoch} batches an epoch are too few to measure; give a smaller one")
    module = build(config, data)
    spread_sizes(module.method)
    begin_epoch = module.begin_epoch
    module.begin_epoch = lambda epoch: begin_epoch(config.epochs - 1)  # type: ignore[method-assign]
    watch = Stopwatch()
    limits = {"limit_train_batches": min(WARMUP + batches, per_epoch), "limit_val_batches": 1}
    short = dataclasses.replace(config, epochs=1, freeze_until=0, trainer=config.trainer | limits)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(short, Path(folder), data, stop_after=None, console=None)
        trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
        with quiet():
            trainer.fit(module, datamodule)

    times = {phase: watch.times[phase][WARMUP:] for phase in PHASES}
    step = median(map(sum, zip(*times.values(), strict=True)))
    method, weight = find_method(config.method), config.clean_weight or 0.0
    share = method.attacked(weight, config.options)
    views = method.step_cost(weight, config.options).views
    teacher = bool(config.self_teacher) * share * watch.passes["forward"]
    floor = share * config.steps * watch.passes["input_gradient"] + views * watch.passes["training"] + teacher
    per_image = {name: value / config.batch_size for name, value in watch.passes.items()}
    attacked = config.val_steps * per_image["input_gradient"] + per_image["forward"]
    attacks = STANDING[method.adversarial] * len(config.val_radii)
    parts = {
        "training": per_epoch * step,
        "validation": len(datamodule.val) * (per_image["forward"] + attacks * attacked),
        "end": watch.epoch_end,
    }
    device = trainer.strategy.root_device
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )
    fits = max(int((SAFETY * free - watch.memory["model"]) * config.batch_size / watch.memory["batch"]), 0)
    return {
        **provenance(str(device)),
        "config": dataclasses.asdict(config),
        "fingerprint": data.fingerprint,
        "batches": len(times["attack"]),
        "batch": {"phases": {phase: median(values) for phase, values in times.items()}, "seconds": step},
        "passes": watch.passes,
        "floor": floor,
        "over_floor": step / floor,
        "images_per_second": config.batch_size / step,
        "memory": watch.memory | {"free": free, "fits": fits},
        "epoch": parts | {"seconds": sum(parts.values())},
        "run": config.epochs * sum(parts.values()),
    }


def spread_sizes(method: Method) -> None:
    """Give the samples all perturbation sizes alike, as in the middle of a run: an attack's cost may hang on them."""
    state = method.perturbation
    if isinstance(state, AdaptivePerturbation):
        order = torch.randperm(len(state.eps), generator=torch.Generator().manual_seed(0))
        state.eps.copy_(torch.linspace(state.eps_min, state.eps_max, len(order))[order])


def profile_table(found: dict[str, Any]) -> RenderableType:
    """Show what `profile` found."""
    config, memory, epoch = found["config"], found["memory"], found["epoch"]
    batch, step = found["batch"], found["batch"]["seconds"]
    lines = [(phase, seconds, f"{seconds / step:.1%}") for phase, seconds in batch["phases"].items()]
    lines += [("step", step, f"{found['images_per_second']:,.0f} images/s")]
    lines += [("floor", found["floor"], f"step = {found['over_floor']:.2f} x floor")]
    rows = [Row(name, [f"{1000 * seconds:,.1f}", share]) for name, seconds, share in lines]
    title = f"a step of {config['method']} with {config['batch_size']} images on {found['device']}"
    fits = f"{memory['fits']:,} images a batch would fit" if memory["fits"] else "not even one image would fit"
    return Group(
        Table("phase", ["ms", "share"], rows, title=title).to_rich(),
        f"memory: network and optimizer {_bytes(memory['model'])}, batch {_bytes(memory['batch'])}; "
        f"{fits} into the {_bytes(memory['free'])} that are free",
        f"time: {_duration(epoch['seconds'])} an epoch (training {_duration(epoch['training'])}, validation about "
        f"{_duration(epoch['validation'])}), {_duration(found['run'])} for {config['epochs']} epochs like the last",
    )


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
