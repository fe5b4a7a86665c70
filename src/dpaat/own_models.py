"""Networks of the user's own, as `py:PKG.MODULE:NAME` names them."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpaat.errors import UserError, first_line
from dpaat.own_code import call, resolve

CLASSES = ("num_classes", "out_channels", "n_classes", "num_labels", "num_outputs")
CHANNELS = ("channels", "in_channels", "in_chans", "num_channels")
SIZE = ("image_size", "img_size")
"""Names of arguments that a factory may take, as libraries call them; MONAI's `spatial_dims` is 2."""


def own_network(spec: str, *, num_classes: int, channels: int, image_size: int) -> tuple[nn.Module, dict[str, Any]]:
    """Make a network of the user's own, and say which of its layers is the head, as timm's configurations do.

    What is named is a function or class that returns an `nn.Module`, or a module itself, which is copied. A function
    gets those of these arguments that it names: the number of classes, of channels (1 or 3), and of pixels at the side.
    Raises UserError: nothing of that name, or no network comes of it.
    """
    made = resolve(spec, "model")
    if isinstance(made, nn.Module):
        network: Any = copy.deepcopy(made)
    else:
        values = ((CLASSES, num_classes), (CHANNELS, channels), (SIZE, image_size), (("spatial_dims",), 2))
        known = {name: value for names, value in values for name in names}
        network = call(made, spec, "model", known, rest=CLASSES[0])
    if not isinstance(network, nn.Module):
        raise UserError(f"model: {spec} gives {type(network).__name__}, not an nn.Module")
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UserError(f"model: {spec} has no weights that could be trained")
    heads = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    config: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}  # it takes images as they are, unless told otherwise
    return network, config | ({"classifier": heads[-1]} if heads else {})


def own_transform(spec: str) -> Callable[[Tensor], Tensor]:
    """Make a function on batches of images `(B, C, H, W)` in [0, 1] of what the user named: a function, or a class.

    All that is random in it follows torch's generator, so that a resumed run repeats it. The function raises UserError
    for whatever goes wrong in it, another shape, and values outside of [0, 1].
    """
    found = resolve(spec, "transform")
    function = call(found, spec, "transform", {}) if isinstance(found, type) else found
    if not callable(function):
        raise UserError(f"transform: {spec} is {type(function).__name__}, which cannot be called")

    def transform(x: Tensor) -> Tensor:
        seed = int(torch.randint(2**31, (1,)))
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - libraries draw from it
        try:
            with torch.no_grad():
                made = function(x)
        except Exception as error:
            raise UserError(f"transform: {spec} fails with {type(error).__name__}: {first_line(error)}") from None
        if not isinstance(made, Tensor) or made.shape != x.shape or not made.is_floating_point():
            what = f"{tuple(made.shape)}, {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
            raise UserError(f"transform: {spec} turns images {tuple(x.shape)} into {what}; it must keep their shape")
        low, high = (float(value) for value in made.aminmax())
        if not (low >= 0 and high <= 1):
            raise UserError(f"transform: {spec} gives values from {low:g} to {high:g}; images must stay in [0, 1]")
        return made.to(x)

    return transform
