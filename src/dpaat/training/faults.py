"""Training that goes wrong: what to look for, and what to say about it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from dpaat.config import TrainConfig
from dpaat.errors import out_of_memory
from dpaat.methods import StepOutput, base, find_method
from dpaat.methods.dpaat import MIN_RAMP
from dpaat.radii import radius_name

LOSS, EPS, WEIGHTS = "the loss is not finite", "a perturbation size has exploded", "the weights are not finite"
ADVICE = {LOSS: "try a smaller --lr", EPS: "try a smaller --eps", WEIGHTS: "try a smaller --lr"}
COLLAPSE, LEAST = 0.5, 1.5


class TrainingError(Exception):
    """Training has gone wrong: by `LOSS`, `EPS` or `WEIGHTS`, at a batch counted from 0, with samples `rows`."""

    def __init__(self, cause: str, step: int, rows: list[int]) -> None:
        super().__init__(cause)
        self.cause, self.step, self.rows = cause, step, rows


class FaultWatch:
    """Remembers the first step that went wrong on the device, so that no step has to wait for the answer.

    No perturbation size of the `num_samples` may exceed `eps_limit`.
    """

    def __init__(self, num_samples: int, eps_limit: float, device: torch.device) -> None:
        self.eps_limit = eps_limit
        # Step of the first fault or -1, and whether the loss is its cause; then the samples at fault.
        self._first = torch.tensor([-1, 0], device=device)
        self._rows = torch.zeros(num_samples, dtype=torch.bool, device=device)

    @torch.no_grad()
    def look(self, step: int, output: StepOutput, eps: Tensor | None) -> None:
        """Look at a step that is done, and at the perturbation sizes `(N,)` after it; never waits for the device."""
        lost = ~torch.isfinite(output.loss)
        at_fault = ~torch.isfinite(output.logits).all(1)
        for values in output.rows.values():
            at_fault = at_fault | ~torch.isfinite(values[:, None].flatten(1)).all(1)
        # A loss that is not finite while every row is: nothing tells the samples of the batch apart.
        at_fault = torch.where(at_fault.any(), at_fault, True) & lost
        if eps is not None:
            sizes = eps[output.index]
            exploded = ~torch.isfinite(sizes) | (sizes > self.eps_limit)
            at_fault = at_fault | (exploded & ~lost)
        first = (self._first[0] < 0) & at_fault.any()
        self._first = torch.where(first, torch.stack([torch.full_like(self._first[0], step), lost.long()]), self._first)
        self._rows[output.index] = self._rows[output.index] | (at_fault & first)

    def check(self) -> None:
        """Wait for the device; raise TrainingError if a step since the beginning went wrong."""
        step, lost = self._first.tolist()
        if step >= 0:
            raise TrainingError(LOSS if lost else EPS, step, self._rows.nonzero()[:, 0].tolist())


def finite(module: nn.Module) -> bool:
    """Whether all weights and running statistics of a network are finite."""
    values = (value for value in module.state_dict().values() if isinstance(value, Tensor))
    return bool(torch.stack([torch.isfinite(value).all() for value in values if value.is_floating_point()]).all())


def catastrophic_overfitting(
    train: Sequence[float], robust: Sequence[float], *, num_classes: int, causes: Sequence[Sequence[float]] = ()
) -> int | None:
    """The first epoch in which robust balanced accuracy collapsed while training accuracy under attack did not drop.

    The training attack has then become easy for the network, and says nothing about a stronger one. A network that
    answers the same class whatever the image has a balanced accuracy of 1 / K, and gives up no robustness when it
    begins to learn.

    `train` is the accuracy of each epoch on the adversarial views that were learned from, `robust` its balanced
    accuracy on validation images under the attack of several steps, in [0, 1]. `causes` are what else may take
    robustness with it, of each epoch: clean accuracy, or the radii that are trained at; where one has halved as well,
    the drop is another one. Returns the number of an epoch whose robust balanced accuracy is below half of the best
    before, which was 1.5 / K at least, at no lower training accuracy than then; or None.

    The effect: Wong et al., "Fast is better than free", ICLR 2020, arXiv 2001.03994, section 5. The thresholds are
    ours.
    """
    best = 0
    for epoch, (accuracy, score) in enumerate(zip(train, robust, strict=True)):
        collapsed = robust[best] >= LEAST / num_classes and score < COLLAPSE * robust[best]
        explained = any(cause[epoch] < COLLAPSE * cause[best] for cause in causes)
        if collapsed and accuracy >= train[best] and not explained:
            return epoch
        if score > robust[best]:
            best = epoch
    return None


def attacked_radius(config: TrainConfig) -> str | None:
    """Name the validation score that watches over the training attack: the largest radius not beyond its own.

    Where a method moves the radii, most samples are attacked at far smaller ones than `eps`: then the smallest.
    """
    radii = [radius for radius in config.val_radii if radius <= config.radius * (1 + 1e-6)]
    if not radii:
        return None
    radius = min(radii) if find_method(config.method).moves_radius else max(radii)
    return f"val/robust_balanced_accuracy@{radius_name(radius)}"


def overfitted(folder: Path, config: TrainConfig, num_classes: int) -> str | None:
    """What there is to warn of after the epochs in a run folder's `metrics.csv`: catastrophic overfitting, or None.

    Epochs before the first attack say nothing about it.
    """
    method, attacked = find_method(config.method), attacked_radius(config)
    if attacked is None or not (folder / "metrics.csv").exists():
        return None
    table = pd.read_csv(folder / "metrics.csv")
    table = table[table["epoch"] >= first_attack(config)].reset_index(drop=True)
    row = catastrophic_overfitting(
        table["train/accuracy"].tolist(),
        table[attacked].tolist(),
        num_classes=num_classes,
        causes=[table[name].tolist() for name in ("val/balanced_accuracy", "eps/mean") if name in table],
    )
    if row is None:
        return None
    views = "" if method.attacked(config.clean_weight or 0.0, config.options) < 1 else " under attack"
    return (
        f"catastrophic overfitting in epoch {table['epoch'][row] + 1}: {attacked} fell from "
        f"{table[attacked][:row].max():.1%} to {table[attacked][row]:.1%} while training accuracy{views} did not; "
        "try more --steps or a smaller --eps"
    )


def first_attack(config: TrainConfig) -> int:
    """The first epoch, from 0, in which training images are attacked, by a completed configuration."""
    option, least = find_method(config.method).build.clean_first or ("", 0)
    share = float(config.options.get(option, 0.0))
    return base.first_attack(float(config.adv_start or 0.0), config.epochs, share, least)


def attacked_visits(config: TrainConfig) -> float:
    """How often a run attacks a training image, in the mean."""
    epochs = max(0, config.epochs - first_attack(config))
    return epochs * find_method(config.method).attacked(config.clean_weight or 0.0, config.options)


def adaptation(config: TrainConfig) -> tuple[str, bool] | None:
    """How often a method that moves radii attacks an image in this run, and whether that is too seldom to move a size.

    None for other methods, unless they attack no image at all. With the rule "step" a size moves by one increment at an
    attack, after the first one.
    """
    method, first = find_method(config.method), first_attack(config)
    if method.adversarial and first >= config.epochs:
        return f"no image will be attacked: the first {_counted(first, 'epoch')} learn clean images; train longer", True
    if not method.moves_radius:
        return None
    visits, needed = attacked_visits(config), 1.0
    often = f"{_counted(visits, 'time')} in {_counted(config.epochs, 'epoch')}"
    line = f"each training image will be attacked about {often}"
    if config.options.get("rule") == "step":
        increments = max(0.0, visits - 1)  # the first one is tracked only
        needed += 1
        share = min(1.0, increments / max(MIN_RAMP, config.options["ramp"] * visits))
        line += f", which can move its size by {share:.0%} of eps"
    if visits >= needed:
        return line, False
    if not method.attacked(config.clean_weight or 0.0, config.options):
        return f"{line}: too seldom to move a size; give a smaller --clean-weight", True
    enough = config
    while attacked_visits(enough) < needed:
        enough = dataclasses.replace(enough, epochs=enough.epochs + 1)
    return f"{line}: too seldom to move a size, {enough.epochs} epochs would do", True


def _counted(number: float, noun: str) -> str:
    text = f"{number:.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
    return f"{text} {noun}" + ("" if text == "1" else "s")


def largest_batch(attempt: Callable[[int], object], batch_size: int) -> int | None:
    """The first half, quarter, ... of a batch size, at least 2, with which `attempt` does not run out of memory."""
    size = batch_size // 2
    while size >= 2:
        try:
            attempt(size)
            return size
        except Exception as error:
            if not out_of_memory(error):
                raise
        size //= 2
    return None
