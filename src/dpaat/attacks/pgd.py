"""Projected gradient descent, and the fast gradient sign method."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpaat.attacks.checks import checked
from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.attacks.losses import LossFunction, cross_entropy
from dpaat.attacks.norms import Ball, Start, make_ball, per_sample
from dpaat.attacks.registry import AttackCost, register_attack
from dpaat.errors import BadValueError

GRANULE = 16  #: Batch sizes of a graded attack are multiples of it: kernels are compiled and cached for each size


@register_attack(
    "pgd",
    "projected gradient descent, K steps (Madry et al. 2018)",
    cost=AttackCost(2),
    steps=20,
    starts=True,
    mixes=True,
)
@checked("as the loss")
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    norm: str = "linf",
    start: Start = "zero",
    loss: LossFunction = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Find adversarial images by projected gradient descent, each inside a ball of its own radius.

    $x_{t+1} = \Pi_{B(x, \epsilon) \cap [0,1]}\,(x_t + \alpha\, d(\nabla_x \ell(f(x_t), y)))$ with $d$ the sign
    (Linf) or the normalized gradient (L2). Costs `steps` forward passes and input gradients; the last iterate is
    not scored again. Further arguments and errors: see `dpaat.attacks`.

    Args:
        model: maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        x: clean images `(B, C, H, W)` in [0, 1].
        y: labels `(B,)`, int64.
        eps: radius in pixel units of a [0, 1] image; one number, or one per sample `(B,)`.
        steps: iterations K, at least 1.
        step_size: alpha, a number or `(B,)`; default 2.5 * eps / steps.
        norm: "linf" or "l2".
        start: "zero" starts at `x`; "random" starts uniformly in the ball.
        loss: what to raise, per sample; default cross-entropy.
        generator: source of the random start.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv 1706.06083.
    """
    options: dict[str, Any] = {"steps": steps, "step_size": step_size, "loss": loss}
    return _ascend(model, x, y, eps, norm=norm, start=start, generator=generator, **options)[0]


@checked("as the loss")
def pgd_with_clean_logits(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float | Tensor, steps: int = 10, **options: Any
) -> tuple[Tensor, Tensor]:
    """`pgd` from a zero start, and the clean logits `(B, K)` that its first pass computes anyway."""
    if (start := options.get("start", "zero")) != "zero":
        raise BadValueError(f"start must be 'zero', not {start!r}, where no pass sees the clean images; call pgd")
    return _ascend(model, x, y, eps, steps=steps, **options)


@register_attack("fgsm", "one signed gradient step (Goodfellow et al. 2015)", cost=AttackCost(base=2), starts=True)
@checked("as the loss")
def fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float | Tensor, start: Start = "zero", **options: Any
) -> Tensor:
    r"""Find adversarial images by one step of the whole radius: $x + \epsilon\, d(\nabla_x \ell(f(x), y))$.

    `pgd` with one step of size `eps`, and with its further options; from a random start the step is 1.25 * eps, as in
    fast adversarial training (Wong et al. 2020).

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv 1412.6572, section 4.
    """
    step_size = eps if start == "zero" else 1.25 * eps
    return _ascend(model, x, y, eps, steps=1, step_size=step_size, start=start, **options)[0]


@checked()
def pgd_graded(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: Tensor,
    norm: str = "linf",
    most: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`pgd_with_clean_logits` with a number of steps per sample `(B,)`, 0 or more: a small ball needs few.

    Samples that have had their steps leave the batch, which shrinks from step to step, by `GRANULE` samples at a time.
    For that the host waits until the device knows their numbers. With `most`, no less than any number of steps, all
    samples pass through all steps, and stay where theirs are over: more passes, no wait, and all shapes alike.

    Returns:
        Adversarial images `(B, C, H, W)`, and the clean logits `(B, K)` of those that take a step, NaN for the others;
        None if there are none, unless `most` is given.
    """
    if not isinstance(steps, Tensor) or steps.shape != x.shape[:1]:
        raise BadValueError(f"steps must be a tensor of one per image ({len(x)},), not {steps!r}")
    order = steps.argsort(descending=True, stable=True)
    eps = per_sample(eps, x).flatten().expand(len(x))
    x, y, eps, steps = x.detach()[order], y[order], eps[order], steps[order]
    if most is None:
        moving = (steps > torch.arange(int(steps[0]), device=steps.device)[:, None]).sum(1).tolist()
    else:
        moving = [len(x)] * most
    x_adv, clean = x.clone(), None
    with evaluation_mode(model):
        for step, count in enumerate(moving):
            asked = min(-(-count // GRANULE) * GRANULE, len(x))
            gradient, logits = input_gradient(model, x_adv[:asked], y[:asked], cross_entropy)
            if clean is None:
                clean = logits.new_full((len(x), logits.shape[1]), torch.nan)
                clean[:asked] = torch.where(steps[:asked, None] > 0, logits, torch.nan)
            ball = make_ball(norm, x[:count], eps[:count])
            alpha = ball.eps * per_sample(2.5 / steps[:count].clamp(min=1) * (steps[:count] > step), ball.x)
            x_adv[:count] = ball.project_(x_adv[:count] + alpha * ball.direction(gradient[:count]))
    back = order.argsort()
    return x_adv[back], None if clean is None else clean[back]


class Iterate(NamedTuple):
    """One step of projected gradient descent, detached: image, logits and gradient at its start, image at its end."""

    image: Tensor
    logits: Tensor
    gradient: Tensor
    after: Tensor


def pgd_trajectory(
    model: nn.Module,
    first: Tensor,
    y: Tensor,
    *,
    ball: Ball,
    steps: int,
    step_size: float | Tensor | None = None,
    loss: LossFunction = cross_entropy,
) -> Iterator[Iterate]:
    """Climb from `first` as `pgd` does, and show every step; to be run to its end.

    All samples climb all steps, in eval mode, where none depends on another: a rule that stops a sample early keeps
    an earlier iterate of it instead. That costs the passes it might save, and spares the wait for the device that
    counting the samples still moving would need.
    """
    alpha = ball.eps * (2.5 / steps) if step_size is None else per_sample(step_size, ball.x)
    image = first.detach()
    with evaluation_mode(model):
        for _ in range(steps):
            gradient, logits = input_gradient(model, image, y, loss)
            after = ball.project_(image + alpha * ball.direction(gradient))
            yield Iterate(image, logits, gradient, after)
            image = after


def _ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "linf",
    start: Start = "zero",
    generator: torch.Generator | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The last iterate, and the logits of the first."""
    ball = make_ball(norm, x.detach(), eps)
    trajectory = pgd_trajectory(model, ball.start(start, generator), y, ball=ball, **options)
    _, logits, _, x_adv = next(trajectory)
    for iterate in trajectory:
        x_adv = iterate.after
    return x_adv, logits
