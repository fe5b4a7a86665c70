"""What a cell costs, before it has run: forward passes, an input gradient counting as one more."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dpaat.benchmark.plans import Plans
from dpaat.config import TrainConfig
from dpaat.data import load_table
from dpaat.data.splits import DEFAULT_FOLDS, VAL_FOLDS, parse_fold
from dpaat.evaluation.plan import Plan
from dpaat.evaluation.suite import SUITE_ATTACKS
from dpaat.methods import complete_options, find_method

VIEW_PASSES = 3
"""A forward and a backward pass on one more view of an image, or at perturbed weights."""
_COST = re.compile(r"(?:\(([\d.]*)K \+ (\d+)\)|(\d+)) F")


@dataclass(frozen=True)
class Size:
    """How large a dataset is.

    Attributes:
        images: in all splits.
        classes: their number.
    """

    images: int
    classes: int


def size_of(spec: str) -> Size:
    """Read a dataset's table for its size.

    Raises:
        UserError: the dataset is not there, or something is wrong with it.
    """
    table = load_table(spec)
    return Size(len(table), len(table.classes))


def cell_passes(config: TrainConfig, plans: Plans, size: Size) -> float:
    """Estimate the forward passes of a cell: training, validation and evaluation.

    The split is taken for the usual one. The evaluation is an upper bound, since costly attacks are made on what
    stands only; masking checks and corruptions are left out.
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
    """Forward passes per training image and epoch, by the cost that the method's registry entry states."""
    info = find_method(config.method)
    cost = info.cost
    match = _COST.fullmatch(cost)
    if match is None:
        raise ValueError(f"cost {cost!r} of method {config.method!r} is not of the form '(2K + 3) F' or '3 F'")
    per_step, base, constant = (float("1" if group == "" else group or 0) for group in match.groups())
    weight = config.clean_weight or 0.0
    second = info.beside(weight, config.options)
    if info.in_turn:
        defaults = complete_options(info, {})
        usual = info.attacked(info.clean_weight, defaults) * (1 - defaults["start"])
        late = 1 - config.options["start"]
        per_step *= late * info.attacked(weight, config.options) / usual
        second *= late
    extra = VIEW_PASSES * (second + (1 + second if config.awp else 0))
    return per_step * config.steps + base + constant + extra


def attack_passes(plan: Plan, classes: int) -> int:
    """Most forward passes per evaluated image."""
    specs = [plan.spec(name) for name in SUITE_ATTACKS] if plan.suites else plan.all_specs
    return 1 + len(plan.radii) * sum(spec.passes(classes) for spec in specs)
