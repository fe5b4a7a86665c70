"""Auto-PGD: projected gradient ascent whose step size answers to its own progress."""

from functools import partial
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpaat.attacks.checks import checked
from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.attacks.losses import LossFunction, cross_entropy, dlr, fooled, nearest_targets, targeted_dlr
from dpaat.attacks.norms import Start, make_ball, widen
from dpaat.attacks.registry import AttackCost, register_attack
from dpaat.attacks.restarts import on_standing
from dpaat.errors import BadValueError

MOMENTUM = 0.75
PROGRESS = 0.75  #: A step size is kept if at least this share of the steps since the last checkpoint raised the loss
MAX_TARGETS = 9
USUAL: dict[str, Any] = {"steps": 100, "starts": True, "stops": True, "mixes": True}


@register_attack("apgd-ce", "Auto-PGD on the cross-entropy (Croce, Hein 2020)", cost=AttackCost(2, 2), **USUAL)
@checked()
def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 100,
    norm: str = "linf",
    loss: Literal["ce", "dlr"] | LossFunction = "ce",
    target: Tensor | None = None,
    start: Start = "random",
    stop: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find adversarial images by Auto-PGD, each inside a ball of its own radius.

    Starts with steps of 2 * eps, adds momentum, and at checkpoints halves the step size of every sample that makes
    no progress, which then goes back to its best point. The model runs in eval mode and is left exactly as found.

    Beside the arguments of all attacks: `loss` is what to raise, "ce", "dlr" (the margin where there are three classes
    or fewer), or a function; with a `target`, class numbers `(B,)`, it is the targeted DLR loss instead. `start` is
    "random" or "zero". With `stop` a sample that is misclassified leaves the batch at once: the verdict is the same and
    costs less. A step costs a forward pass and an input gradient.

    Returns:
        Adversarial images `(B, C, H, W)`, detached: where a sample was ever misclassified, the misclassified iterate
        with the largest loss (with `stop` the first one), else the iterate with the largest loss.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv 2003.01690, algorithm 1.
    """
    if isinstance(loss, str) and loss not in ("ce", "dlr"):
        raise BadValueError(f"loss must be 'ce', 'dlr' or a function, not {loss!r}")
    measure: LossFunction = loss if callable(loss) else cross_entropy if loss == "ce" else dlr
    if target is not None:
        measure = targeted_dlr(target)

    x = x.detach()
    ball, x_adv, index = make_ball(norm, x, eps), x.clone(), torch.arange(len(x), device=x.device)
    radius = ball.eps.flatten().expand(len(x))
    current = ball.start(start, generator)
    with evaluation_mode(model):
        gradient, logits = input_gradient(model, current, y, measure)
        value = measure(logits, y)
        found = _Found(current, logits, y, value)
        best, best_value, best_gradient = current, value, gradient
        previous = current
        step = 2 * widen(radius, x)
        risen = torch.zeros_like(value)
        value_at_checkpoint, halved = best_value, torch.zeros_like(value, dtype=torch.bool)
        checkpoints, last = _checkpoints(steps), 0
        for k in range(1, steps + 1):
            if stop and bool(found.fooled.any()):
                keep = ~found.fooled
                x_adv[index[found.fooled]] = found.image[found.fooled]
                index, y, current, previous, gradient, value = (
                    each[keep] for each in (index, y, current, previous, gradient, value)
                )
                if not len(index):
                    return x_adv
                best, best_value, best_gradient, step, risen, value_at_checkpoint, halved = (
                    each[keep] for each in (best, best_value, best_gradient, step, risen, value_at_checkpoint, halved)
                )
                ball, found = make_ball(norm, x[index], radius[index]), _Found(current, logits[keep], y, value)
                if target is not None:
                    measure = targeted_dlr(target := target[keep])
            ahead = ball.project_(current + step * ball.direction(gradient))
            weight = 1.0 if k == 1 else MOMENTUM
            moved = current + weight * (ahead - current) + (1 - weight) * (current - previous)
            previous, current = current, ball.project_(moved)
            gradient, logits = input_gradient(model, current, y, measure)
            before, value = value, measure(logits, y)
            found.update(current, logits, y, value)
            risen += value > before
            better = value > best_value
            wide = widen(better, x)
            best, best_gradient = torch.where(wide, current, best), torch.where(wide, gradient, best_gradient)
            best_value = torch.where(better, value, best_value)
            if k in checkpoints:
                stuck = risen < PROGRESS * (k - last)
                stalled = ~halved & (best_value <= value_at_checkpoint)
                halved = stuck | stalled
                wide = widen(halved, x)
                step = torch.where(wide, step / 2, step)
                current, gradient = torch.where(wide, best, current), torch.where(wide, best_gradient, gradient)
                previous, value = torch.where(wide, best, previous), torch.where(halved, best_value, value)
                value_at_checkpoint, last = best_value, k
                risen = torch.zeros_like(value)
    x_adv[index] = torch.where(widen(found.fooled, x), found.image, best)
    return x_adv


@register_attack(
    "apgd-t",
    "Auto-PGD towards each of the up to 9 likeliest wrong classes, for any number of classes",
    cost=AttackCost(2, 3, each="target", most=MAX_TARGETS, once=1),
    **USUAL,
)
@checked()
def apgd_targeted(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    targets: int = MAX_TARGETS,
    rank: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Run Auto-PGD towards each of the likeliest wrong classes in turn; `options` are those of `apgd`.

    Works for any number of classes K >= 2: at most K - 1 targets are tried, and below four classes the difference
    of two logits takes the place of the targeted DLR loss. Each target is tried on the samples still standing.

    At most `targets` classes are tried. Returned is the first image that fools, else that of the likeliest target.
    With a `rank` `(B,)` each sample is pulled towards one class only, 0 for the likeliest.

    Source: Croce and Hein 2020, section 4.
    """
    with evaluation_mode(model), torch.no_grad():
        logits = model(x).float()
    ranked = nearest_targets(logits, y, targets)

    if rank is not None:
        return apgd(model, x, y, eps=eps, target=ranked.gather(1, rank[:, None])[:, 0], **options)

    def towards(targets: Tensor, x: Tensor, y: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        return apgd(model, x, y, eps=eps, target=targets[index], **options)

    attacks = [partial(towards, targets) for targets in ranked.T]
    return on_standing(model, x, y, eps=eps, attacks=attacks, keep="first")


DLR = "Auto-PGD on the difference of logits ratio, which scaled logits cannot mask"
register_attack("apgd-dlr", DLR, cost=AttackCost(2, 2), **USUAL)(partial(apgd, loss="dlr"))


@register_attack(
    "transfer",
    "Auto-PGD on the cross-entropy of another model, the source",
    cost=AttackCost(2, 2),
    steps=100,
    starts=True,
    needs_source=True,
)
def transfer(model: nn.Module, x: Tensor, y: Tensor, *, source: nn.Module, **options: Any) -> Tensor:
    """Auto-PGD on another model with the same classes, the `source`; `model` itself is not asked.

    A model that these images fool, and attacks of its own do not, hides its gradient. `options` are those of `apgd`.

    Source: Papernot et al., "Transferability in Machine Learning", 2016, arXiv 1605.07277.
    """
    return apgd(source, x, y, **options)


class _Found:
    """The misclassified iterate with the largest loss, per sample."""

    def __init__(self, image: Tensor, logits: Tensor, y: Tensor, value: Tensor) -> None:
        self.image = image
        self.fooled = fooled(logits, y)
        self.value = torch.where(self.fooled, value, -torch.inf)

    def update(self, image: Tensor, logits: Tensor, y: Tensor, value: Tensor) -> None:
        wrong = fooled(logits, y)
        better = wrong & (~self.fooled | (value > self.value))
        self.image = torch.where(widen(better, image), image, self.image)
        self.value = torch.where(better, value, self.value)
        self.fooled = self.fooled | wrong


def _checkpoints(steps: int) -> set[int]:
    """Steps after which progress is looked at: 22 % of all, then ever closer, never less than 6 % apart."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {ceil(share * steps) for share in shares[1:] if share < 1}
