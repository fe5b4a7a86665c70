"""Expected cost of a cell in forward passes, an input gradient counting as one more."""

from __future__ import annotations

from dataclasses import dataclass

from dpaat.benchmark.plans import Plans
from dpaat.config import TrainConfig
from dpaat.data import load_table
from dpaat.data.splits import DEFAULT_FOLDS, VAL_FOLDS, parse_fold
from dpaat.evaluation.suite import SUITE_ATTACKS
from dpaat.measurement import EvaluateConfig
from dpaat.methods import find_method
from dpaat.methods.registry import VIEW


@dataclass(frozen=True)
class Size:
    """How large a dataset is: images in all splits, and classes."""

    images: int
    classes: int


def size_of(spec: str) -> Size:
    """Read a dataset's table for its size; raises UserError where it is not there, or wrong."""
    table = load_table(spec)
    return Size(len(table), len(table.classes))


def cell_passes(config: TrainConfig, plans: Plans, size: Size) -> float:
    """Estimate the forward passes of a cell: training, validation and evaluation, on a split of the usual shares.

    The evaluation is an upper bound, since costly attacks are made on what stands; masking checks and corruptions
    are left out.
    """
    folds = parse_fold(config.fold)[1] if config.fold else DEFAULT_FOLDS
    test = size.images / folds
    val = (size.images - test) / VAL_FOLDS
    train = size.images - test - val
    per_epoch = train * step_passes(config) + val * (1 + 2 * config.val_steps * len(config.val_radii))
    sizes = {"train": train, "val": val, "test": test, "all": size.images}
    evaluation = sum(
        min(plan.max_samples or size.images, sizes[plan.split]) * attack_passes(plan, size.classes)
        for plan in (plans.main, plans.draw)
        if plan is not None
    )
    return config.epochs * per_epoch + evaluation


def step_passes(config: TrainConfig) -> float:
    """Forward passes per training image and epoch, by the cost that the method states, in the mean over the run."""
    info = find_method(config.method)
    weight = config.clean_weight or 0.0
    cost = info.step_cost(weight, config.options, config.adv_start or 0.0, config.self_teacher or 0.0)
    return cost.passes(config.steps) + (VIEW * cost.views if config.awp else 0)


def attack_passes(plan: EvaluateConfig, classes: int) -> int:
    """Most forward passes per evaluated image."""
    specs = [plan.spec(name) for name in SUITE_ATTACKS] if plan.suites else plan.all_specs
    return 1 + len(plan.radii) * sum(spec.passes(classes) for spec in specs)
