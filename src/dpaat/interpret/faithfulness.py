"""Faithfulness of attribution maps: deletion and insertion curves."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode
from dpaat.interpret.maps import mean_colour

STEPS = 16


def deletion_insertion(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    maps: Tensor,
    *,
    steps: int = STEPS,
    generator: torch.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the areas under the deletion and the insertion curve.

    Deletion paints the pixels in the image's mean colour, the most important first; insertion begins with nothing but
    that colour and shows the most important pixels first. The curve is the probability of class `y` over the share of
    pixels, its area by the trapezoidal rule. Pixels of equal importance come in random order.

    Args:
        model: maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        x: images.
        y: classes `(B,)` that the maps explain.
        maps: `(B, H, W)`.
        steps: parts into which the pixels are cut, at least 1.
        generator: source of the random order, on the device of `maps`.

    Returns:
        Deletion (lower is better) and insertion (higher is better), each `(B,)` float64 in [0, 1]. What they are by
        chance a map of one value tells.

    Raises:
        ValueError: shapes that do not fit, or no steps.

    Source: V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC
    2018, arXiv 1806.07421, section 4.3.
    """
    if steps < 1 or maps.shape != (len(x), *x.shape[2:]):
        raise ValueError(f"maps {tuple(maps.shape)} do not fit images {tuple(x.shape)}, or steps {steps} below 1")
    place = _falling_order(maps, generator).reshape(maps.shape)
    plain = mean_colour(x)
    curves = []
    with evaluation_mode(model), torch.no_grad():
        for step in range(steps + 1):
            chosen = (place < round(maps[0].numel() * step / steps))[:, None]
            for image in (torch.where(chosen, plain, x), torch.where(chosen, x, plain)):
                probability = model(image).cpu().double().softmax(dim=1)
                curves.append(probability.gather(1, y.cpu()[:, None])[:, 0].numpy())
    deletion, insertion = np.array(curves[0::2]), np.array(curves[1::2])
    return np.trapezoid(deletion, axis=0) / steps, np.trapezoid(insertion, axis=0) / steps


def _falling_order(maps: Tensor, generator: torch.Generator | None) -> Tensor:
    """Place of every pixel, 0 for the highest, `(B, H * W)`; equal ones in random order."""
    values = maps.flatten(1)
    shuffled = torch.rand(values.shape, generator=generator, device=values.device).argsort(dim=1)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(values.shape[1], device=order.device).expand_as(order)
    )
