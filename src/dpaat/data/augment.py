"""Augmentation of whole batches on the device, each image by draws of its own."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

CROP_SHARE = 8  # a crop shifts the image by up to a CROP_SHARE-th of its side
JITTER = 0.2  # brightness, contrast and saturation change by up to this share


class Share(NamedTuple):
    """The part of a batch of `total` images that one of several processes holds, which take turns at them.

    Draws are made for the whole batch, so that an image meets the same augmentation however many processes there are.
    """

    total: int
    rank: int = 0
    processes: int = 1

    @property
    def rows(self) -> slice:
        """Which images of the batch are here."""
        return slice(self.rank, None, self.processes)


def augment(
    x: Tensor, kinds: Collection[str], generator: torch.Generator | None = None, share: Share | None = None
) -> Tensor:
    """Augment images `(B, C, H, H)` in [0, 1]; flips, quarter turns and shifts move whole pixels: nothing is blurred.

    `kinds` are any of "flip", "turn", "crop", "jitter"; the generator is on the device of `x`, default the global one;
    `share` is the part of a larger batch that `x` is, default all of it.
    """
    share = share or Share(len(x))

    def chance() -> Tensor:
        return torch.rand(share.total, 1, 1, 1, device=x.device, generator=generator)[share.rows] < 0.5

    if "flip" in kinds:
        x = torch.where(chance(), x.flip(-1), x)
    if "turn" in kinds:
        # A quarter turn is a transposition and a flip; with flips of both axes all eight poses come up equally.
        x = torch.where(chance(), x.transpose(-1, -2), x)
        x = torch.where(chance(), x.flip(-2), x)
        x = torch.where(chance(), x.flip(-1), x)
    if "crop" in kinds:
        x = _shift(x, generator, share)
    if "jitter" in kinds:
        x = _jitter(x, generator, share)
    return x


def _shift(x: Tensor, generator: torch.Generator | None, share: Share) -> Tensor:
    """Shift every image by whole pixels; the edge is filled by reflection."""
    batch, side = len(x), x.shape[-1]
    most = side // CROP_SHARE
    for axis in (2, 3):
        offset = torch.randint(-most, most + 1, (share.total, 1), device=x.device, generator=generator)
        source = torch.arange(side, device=x.device) + offset[share.rows]
        source = (side - 1) - ((side - 1) - source.abs()).abs()
        shape = [batch, 1, 1, 1]
        shape[axis] = side
        x = x.gather(axis, source.reshape(shape).expand_as(x))
    return x


def _jitter(x: Tensor, generator: torch.Generator | None, share: Share) -> Tensor:
    draw = torch.rand(3, share.total, 1, 1, 1, device=x.device, generator=generator)[:, share.rows]
    brightness, contrast, saturation = 1 + JITTER * (2 * draw - 1)
    grey = x.mean(1, keepdim=True)
    level = grey.mean((2, 3), keepdim=True)
    x = grey + saturation * (x - grey)
    return torch.clamp(brightness * level + contrast * (x - level), 0, 1)
