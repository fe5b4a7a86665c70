"""Augmentation of whole batches on the device, each image by draws of its own."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

CROP_SHARE = 8
"""A crop shifts the image by up to a CROP_SHARE-th of its side."""
JITTER = 0.2
"""Brightness, contrast and saturation change by up to this share."""


def augment(x: Tensor, kinds: Collection[str], generator: torch.Generator | None = None) -> Tensor:
    """Augment a batch; flips, quarter turns and shifts move whole pixels, so nothing is blurred.

    Args:
        x: images `(B, C, H, H)` in [0, 1].
        kinds: any of "flip", "turn", "crop", "jitter".
        generator: source of the draws, on the device of `x`; default the global one.

    Returns:
        Images of the same shape, in [0, 1].
    """

    def chance() -> Tensor:
        return torch.rand(len(x), 1, 1, 1, device=x.device, generator=generator) < 0.5

    if "flip" in kinds:
        x = torch.where(chance(), x.flip(-1), x)
    if "turn" in kinds:
        # A quarter turn is a transposition and a flip; with flips of both axes all eight poses come up equally.
        x = torch.where(chance(), x.transpose(-1, -2), x)
        x = torch.where(chance(), x.flip(-2), x)
        x = torch.where(chance(), x.flip(-1), x)
    if "crop" in kinds:
        x = _shift(x, generator)
    if "jitter" in kinds:
        x = _jitter(x, generator)
    return x


def _shift(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Shift every image by whole pixels; the edge is filled by reflection."""
    batch, side = len(x), x.shape[-1]
    most = side // CROP_SHARE
    for axis in (2, 3):
        offset = torch.randint(-most, most + 1, (batch, 1), device=x.device, generator=generator)
        source = torch.arange(side, device=x.device) + offset
        source = (side - 1) - ((side - 1) - source.abs()).abs()
        shape = [batch, 1, 1, 1]
        shape[axis] = side
        x = x.gather(axis, source.reshape(shape).expand_as(x))
    return x


def _jitter(x: Tensor, generator: torch.Generator | None) -> Tensor:
    draw = torch.rand(3, len(x), 1, 1, 1, device=x.device, generator=generator)
    brightness, contrast, saturation = 1 + JITTER * (2 * draw - 1)
    grey = x.mean(1, keepdim=True)
    level = grey.mean((2, 3), keepdim=True)
    x = grey + saturation * (x - grey)
    return torch.clamp(brightness * level + contrast * (x - level), 0, 1)
