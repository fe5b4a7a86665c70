"""Expected cost of a cell in forward passes, an input gradient counting as one more."""

import time
from typing import Any, NamedTuple

from dpaat.benchmark.plans import Plans
from dpaat.config import TrainConfig
from dpaat.data.splits import DEFAULT_FOLDS, VAL_FOLDS, parse_fold
from dpaat.evaluation.suite import SUITE_ATTACKS
from dpaat.measurement import EvaluateConfig
from dpaat.methods import find_method
from dpaat.methods.registry import VIEW


class Size(NamedTuple):
    """How large a dataset is: images in all splits, classes, and channels of an image."""

    images: int
    classes: int
    channels: int = 3


def cell_passes(config: TrainConfig, plans: Plans, size: Size) -> float:
    """Estimate the forward passes of a cell: training, validation and evaluation, on a split of the usual shares.

    The evaluation is an upper bound: costly attacks leave out what cheap ones misclassified. Corruptions are left out.
    """
    test = size.images / (parse_fold(config.fold)[1] if config.fold else DEFAULT_FOLDS)
    val = (size.images - test) / VAL_FOLDS
    sizes = {"train": size.images - test - val, "val": val, "test": test, "all": size.images}
    per_epoch = sizes["train"] * step_passes(config) + val * (1 + 2 * config.val_steps * len(config.val_radii))
    plan_costs = (
        min(plan.max_samples or size.images, sizes[plan.split]) * attack_passes(plan, size.classes)
        for plan in (plans.main, plans.draw)
        if plan is not None
    )
    masked = 0.0
    if plans.masking is not None:
        per_image = 100 * (9 + min(9, size.classes - 1)) + 1280  # of `run_masking` with its usual budgets
        masked = min(plans.masking.max_samples or size.images, sizes[plans.masking.split]) * per_image
    return config.epochs * per_epoch + sum(plan_costs) + masked


def step_passes(config: TrainConfig) -> float:
    """Forward passes per training image and epoch, by the cost that the method states, in the mean over the run."""
    weight, start, teacher = (each or 0.0 for each in (config.clean_weight, config.adv_start, config.self_teacher))
    cost = find_method(config.method).step_cost(weight, config.options, start, teacher)
    return cost.passes(config.steps) + (VIEW * cost.views if config.awp else 0)


def attack_passes(plan: EvaluateConfig, classes: int) -> int:
    """Most forward passes per evaluated image."""
    specs = [plan.spec(name) for name in SUITE_ATTACKS] if plan.suites else plan.all_specs
    return 1 + len(plan.radii) * sum(spec.passes(classes) for spec in specs)


def seconds_per_pass(config: TrainConfig, size: Size, threads: int) -> float | None:
    """Seconds that a forward pass of an image takes on the CPU with so many threads; None where cells run on a GPU."""
    import torch

    from dpaat.models import build_model

    if config.accelerator not in ("cpu", "auto") or (config.accelerator == "auto" and torch.cuda.is_available()):
        return None
    shape: dict[str, Any] = {"channels": size.channels, "image_size": config.image_size, "stem": config.stem}
    model = build_model(config.model, num_classes=size.classes, **shape).train()
    batch = max(2, min(size.images, config.batch_size, 32))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images, taken = torch.zeros(batch, size.channels, config.image_size, config.image_size), []
        with torch.no_grad():
            for _ in range(3):
                started = time.perf_counter()
                model(images)
                taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return min(taken) / batch
