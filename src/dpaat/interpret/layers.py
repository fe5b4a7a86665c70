"""Where Grad-CAM looks into a network: the deepest layer whose map still shows places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode
from dpaat.errors import UserError, unknown
from dpaat.models import Classifier

MIN_SIDE = 8
"""Smallest map taken by itself: below 8 x 8 a cell covers so much of the image that its place says little."""


@dataclass(frozen=True)
class Layer:
    """A layer of a network that gives a map.

    Attributes:
        name: as `--layer` takes it.
        path: as `model.get_submodule` takes it.
        height: of its map.
        width: of its map.
    """

    name: str
    path: str
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.name} ({self.height} x {self.width})"


def find_layer(model: nn.Module, x: Tensor, name: str | None = None) -> Layer:
    """Choose the layer for Grad-CAM.

    The deepest one with a map of at least 8 x 8 that everything the model says depends on: a branch beside which the
    image reaches the output another way, as inside a residual block, would show a part of the story only.

    Args:
        model: maps images `(B, C, H, W)` to logits.
        x: an image `(1, C, H, W)` of the size to be explained.
        name: a layer by its name in place of the deepest.

    Raises:
        UserError: no such layer, one without a map, or a network in which none is large enough.
    """
    layers = list_layers(model, x)
    if name is not None:
        if name not in layers:
            prefix = _prefix(model)
            if prefix + name in dict(model.named_modules()):
                raise UserError(f"layer: {name!r} does not give one map (channels, height, width); choose another")
            raise unknown("layer", name, layers)
        return layers[name]
    for layer in reversed(layers.values()):
        if min(layer.height, layer.width) >= MIN_SIDE and carries_all(model, model.get_submodule(layer.path), x):
            return layer
    raise UserError(
        f"layer: no layer has a map of {MIN_SIDE} x {MIN_SIDE} or more at {x.shape[-1]} pixels; name one with --layer, "
        "or leave grad-cam out of --maps"
    )


def list_layers(model: nn.Module, x: Tensor) -> dict[str, Layer]:
    """List the layers that give one map per image, by name, in the order in which they finish."""
    shapes: dict[str, torch.Size] = {}
    calls: Counter[str] = Counter()

    def note(path: str, module: nn.Module, inputs: object, output: object) -> None:
        calls[path] += 1
        if isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point():
            shapes[path] = output.shape

    hooks = [module.register_forward_hook(partial(note, path)) for path, module in model.named_modules() if path]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    prefix = _prefix(model)
    found = {}
    for path, shape in shapes.items():
        if calls[path] == 1:
            name = path.removeprefix(prefix)
            found[name] = Layer(name, path, shape[2], shape[3])
    return found


def carries_all(model: nn.Module, layer: nn.Module, x: Tensor) -> bool:
    """Whether the image reaches the logits through this layer only: cutting it must cut every path."""
    cut: Callable[[nn.Module, object, Tensor], Tensor] = lambda module, inputs, output: output.detach().clone()  # noqa: E731
    hook = layer.register_forward_hook(cut)
    try:
        with evaluation_mode(model), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            logits = model(x)
            if not logits.requires_grad:
                return True
            (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True)
    finally:
        hook.remove()
    return gradient is None


def _prefix(model: nn.Module) -> str:
    # People know the layers by their names in timm's network, not by those in the wrapper that normalizes.
    return "network." if isinstance(model, Classifier) else ""
