"""Projected gradient descent."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import LossFunction, cross_entropy, evaluation_mode, input_gradient
from dpaat.attacks.norms import make_ball, per_sample


@overload
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = ...,
    step_size: float | Tensor | None = ...,
    norm: str = ...,
    start: Literal["zero", "random"] = ...,
    loss: LossFunction = ...,
    generator: torch.Generator | None = ...,
    return_clean_logits: Literal[False] = ...,
) -> Tensor: ...
@overload
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = ...,
    step_size: float | Tensor | None = ...,
    norm: str = ...,
    start: Literal["zero", "random"] = ...,
    loss: LossFunction = ...,
    generator: torch.Generator | None = ...,
    return_clean_logits: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    norm: str = "linf",
    start: Literal["zero", "random"] = "zero",
    loss: LossFunction = cross_entropy,
    generator: torch.Generator | None = None,
    return_clean_logits: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Find adversarial images by projected gradient descent, each inside a ball of its own radius.

    $x_{t+1} = \Pi_{B(x, \epsilon) \cap [0,1]}\,(x_t + \alpha\, d(\nabla_x \ell(f(x_t), y)))$ with $d$ the sign
    (Linf) or the normalized gradient (L2). Costs `steps` forward passes and input gradients; the last iterate is
    not scored again. The model runs in eval mode and is left exactly as found.

    Args:
        model: maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        x: clean images `(B, C, H, W)` in [0, 1].
        y: labels `(B,)`, int64.
        eps: radius in pixel units of a [0, 1] image; one number, or one per sample `(B,)`.
        steps: iterations K, at least 1.
        step_size: alpha, a number or `(B,)`; default 2.5 * eps / steps.
        norm: "linf" or "l2".
        start: "zero" starts at `x`, so that the first forward pass is the clean one; "random" starts uniformly in
            the ball.
        loss: what to raise, per sample; default cross-entropy.
        generator: source of the random start.
        return_clean_logits: also return the logits at `x`, which a zero start has computed anyway.

    Returns:
        Adversarial images `(B, C, H, W)`, detached; with `return_clean_logits`, also the clean logits `(B, K)`.

    Raises:
        ValueError: unknown norm or start, steps below 1, radius of a wrong shape, clean logits of a random start.

    Source:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv 1706.06083.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if start not in ("zero", "random"):
        raise ValueError(f"start must be 'zero' or 'random', not {start!r}")
    if return_clean_logits and start != "zero":
        raise ValueError("clean logits come free with start='zero' only")

    x = x.detach()
    ball = make_ball(norm, x, eps)
    alpha = ball.eps * (2.5 / steps) if step_size is None else per_sample(step_size, x)
    x_adv = ball.random_start(generator) if start == "random" else x
    clean_logits: Tensor | None = None
    with evaluation_mode(model):
        for _ in range(steps):
            gradient, logits = input_gradient(model, x_adv, y, loss)
            if clean_logits is None:
                clean_logits = logits
            x_adv = ball.project_(x_adv + alpha * ball.direction(gradient))
    if return_clean_logits:
        assert clean_logits is not None
        return x_adv, clean_logits
    return x_adv
