"""Layer selection for Grad-CAM: the deepest layer whose map still shows places."""

import math
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode
from dpaat.errors import UserError, unknown
from dpaat.models import Classifier

MIN_SIDE = 8  # of a map taken by itself: below, a cell covers so much of the image that its place says little
PLACES = 3  # rows and columns of the places at which the image is changed to see which axes follow
# Least correlation of an axis with the place; random networks of all layouts have 0.99, and channels 0.5 or so.
FOLLOWS = 0.95
# Least way that a change moves along with its cause among tokens; in Hiera's order, read row by row, it is 0.5.
MOVES = 0.6
MOST_TOKENS = 16  # of a class or the like beside a map


class Layer(NamedTuple):
    """A layer of a network that gives a map `(height, width)`."""

    name: str  # as `--layer` takes it
    path: str  # as `model.get_submodule` takes it
    height: int
    width: int
    axes: tuple[int, ...] = (2, 3)  # of its output down and across the image, or the one of both row by row
    first: int = 0  # where the map begins on that one axis; class tokens come before or after

    def __str__(self) -> str:
        return f"{self.name} ({self.height} x {self.width})"

    def as_map(self, output: Tensor) -> Tensor:
        """Bring what the layer puts out to `(B, C, height, width)`."""
        if len(self.axes) == 2:
            return output.movedim(self.axes, (2, 3))
        tokens = output.movedim(self.axes[0], 2)[:, :, self.first : self.first + self.height * self.width]
        return tokens.reshape(*tokens.shape[:2], self.height, self.width)


def find_layer(model: nn.Module, x: Tensor, name: str | None = None) -> Layer:
    """Choose the layer for Grad-CAM, the deepest or one by its name, for images `x` of the size to be explained.

    The deepest one with a map of at least 8 x 8 that everything the model says depends on: a branch beside which the
    image reaches the output another way, as inside a residual block, would show a part of the story only. Of a model
    that answers from a class token, the deepest whose map still has a say. Raises UserError: no such layer, one without
    a map or whose map has no say, or a network in which none is large enough.
    """
    layers = list_layers(model, x)
    if name is None:
        return _deepest(model, x, layers)
    if name in layers and _reach(model, layers[name], x)[1]:
        return layers[name]
    if name not in layers and _prefix(model) + name not in dict(model.named_modules()):
        raise unknown("layer", name, layers)
    fault = "has a map, but no say in the answer" if name in layers else "does not give one map of the image"
    raise UserError(f"layer: {name!r} {fault}; give another, such as {_deepest(model, x, layers).name}")


def _deepest(model: nn.Module, x: Tensor, layers: dict[str, Layer]) -> Layer:
    unheard = None
    for layer in reversed(layers.values()):
        if min(layer.height, layer.width) >= MIN_SIDE:
            carries_all, heard = _reach(model, layer, x)
            if carries_all and heard:
                return layer
            unheard = unheard or (layer if carries_all else None)
    if unheard is not None:  # the same holds for every layer of a model whose head is still zero
        return unheard
    raise UserError(
        f"layer: no layer has a map of {MIN_SIDE} x {MIN_SIDE} or more at {x.shape[-1]} pixels; name one with --layer, "
        "or leave grad-cam out of --maps"
    )


def list_layers(model: nn.Module, x: Tensor) -> dict[str, Layer]:
    """List the layers that give one map per image, by name, in the order in which they finish.

    Shapes do not tell rows, columns and channels apart, (B, H, W, C) from (B, C, H, W). The image is changed at 3 x 3
    places instead: down and across are the axes along which the change of the output moves with the place.
    """
    prefix, found = _prefix(model), {}
    calls: Counter[str] = Counter()
    images = _changed(x[:1])

    def note(path: str, module: nn.Module, inputs: object, output: object) -> None:
        calls[path] += 1
        if isinstance(output, Tensor) and output.is_floating_point() and len(output) == len(images):
            layout = _layout(output, x.shape[2] / x.shape[3])
            if layout is not None:
                found[path] = Layer(path.removeprefix(prefix), path, *layout)

    with ExitStack() as hooks, evaluation_mode(model), torch.no_grad():
        for path, module in model.named_modules():
            if path:
                hooks.enter_context(module.register_forward_hook(partial(note, path)))
        model(images)
    return {layer.name: layer for path, layer in found.items() if calls[path] == 1}


def _changed(x: Tensor) -> Tensor:
    """An image, then nine in which one cell each of a grid of 3 x 3 is changed, every pixel of it `(10, C, H, W)`."""
    images = x.repeat(1 + PLACES**2, 1, 1, 1)
    noise = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    other = (x[0] + 0.25 + noise / 2) % 1
    rows, columns = ([side * k // PLACES for k in range(PLACES + 1)] for side in x.shape[2:])
    for cell, (i, j) in enumerate(product(range(PLACES), repeat=2)):
        place = (..., slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1]))
        images[1 + cell][place] = other[place]
    return images


def _layout(output: Tensor, aspect: float) -> tuple[int, int, tuple[int, ...], int] | None:
    """Find height, width, axes and beginning of the map in what a layer makes of `_changed`, if there is one."""
    change = (output[1:] - output[:1]).float().abs()
    change = (change / change.amax().clamp_min(torch.finfo(torch.float32).tiny)).square()
    change -= change.amin(0)  # what changes wherever the place is, such as a class token
    found: tuple[int, int, tuple[int, ...], int] | None = None
    if output.ndim == 4:
        follows = [_follows(change, axis) for axis in (1, 2, 3)]
        (down, row), (across, column) = (max((pair[k], axis) for axis, pair in enumerate(follows, 1)) for k in (0, 1))
        if min(down, across) >= FOLLOWS and row != column:
            found = (output.shape[row], output.shape[column], (row, column), 0)
    elif output.ndim == 3:
        best = FOLLOWS
        for axis, (height, width) in product((1, 2), _grids(output.shape[1:], aspect)):
            beyond = output.shape[axis] - height * width
            for first in {0, beyond} if 0 <= beyond <= MOST_TOKENS else ():
                spread = Layer("", "", height, width, (axis,), first).as_map(change)
                follow = min(_follows(spread, 2, MOVES)[0], _follows(spread, 3, MOVES)[1])
                if follow > best:
                    best, found = follow, (height, width, (axis,), first)
    return found


def _grids(sizes: Iterable[int], aspect: float) -> set[tuple[int, int]]:
    """Grids `(height, width)` of the image's shape that axes of these sizes may have."""
    counts = {count for size in sizes for count in range(max(1, size - MOST_TOKENS), size + 1)}
    widths = {math.isqrt(int(count / aspect)) for count in counts} - {0}
    return {(round(width * aspect), width) for width in widths}


def _follows(change: Tensor, axis: int, least: float = 0.0) -> tuple[float, float]:
    """Correlation of where a change is found along an axis with the row and the column of its cause.

    It is 0 where the change moves less than `least` of the way of its cause.
    """
    profile = change.movedim(axis, -1).flatten(1, -2).sum(1)
    place = torch.arange(profile.shape[1], device=profile.device, dtype=profile.dtype)
    centre = ((profile * place).sum(1) / profile.sum(1).clamp_min(torch.finfo(profile.dtype).tiny)).cpu()
    cell = torch.arange(PLACES, dtype=centre.dtype) * profile.shape[1] / PLACES
    causes = torch.stack([centre, cell.repeat_interleave(PLACES), cell.repeat(PLACES)])
    moves = torch.cov(causes)[0, 1:] / causes[1].var()
    down, across = torch.where(moves >= least, torch.corrcoef(causes)[0, 1:].nan_to_num(0), 0).tolist()
    return down, across


def _reach(model: nn.Module, layer: Layer, x: Tensor) -> tuple[bool, bool]:
    """Whether the image reaches the logits through this layer only, and whether its map has a say in them."""
    found: list[Tensor] = []

    def cut(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        found.append(output.detach().clone().requires_grad_())
        return found[0].clone()

    hook = model.get_submodule(layer.path).register_forward_hook(cut)
    with hook, evaluation_mode(model), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        logits = model(x)
        if not logits.requires_grad:
            return True, False
        weights = torch.linspace(1, 2, logits.shape[1], device=logits.device)
        of_image, of_output = torch.autograd.grad((logits * weights).sum(), (x, found[0]), allow_unused=True)
    return of_image is None, of_output is not None and bool(layer.as_map(of_output).any())


def _prefix(model: nn.Module) -> str:
    # People know the layers by their names in timm's network, not by those in the wrapper that normalizes.
    return "network." if isinstance(model, Classifier) else ""
