"""Any timm CNN as a classifier of images in [0, 1], with normalization inside and a stem that fits small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpaat.errors import BadValueError, UserError, first_line, unknown
from dpaat.weights import load_pretrained, read_weights

Stem = Literal["auto", "original", "small"]
SMALL_IMAGE = 48
"""Below this many pixels, `--stem auto` takes the small stem."""
_STEM_REDUCTION = 4


class Classifier(nn.Module):
    """A network behind the normalization it was made for.

    Keeping normalization inside lets every attack work on images in [0, 1], whatever the network expects.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` in [0, 1] to logits `(B, K)`."""
        channels = self.mean.shape[1]
        if x.ndim != 4 or x.shape[1] != channels or not x.is_floating_point():
            # Broadcasting would take B grey images (B, H, W) for one image of B channels.
            raise BadValueError(
                f"images must be of shape (B, {channels}, H, W), floating in [0, 1], not {tuple(x.shape)}, {x.dtype}"
            )
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def build_model(
    name: str,
    *,
    num_classes: int,
    channels: int = 3,
    image_size: int,
    stem: Stem = "auto",
    weights: Path | None = None,
    pretrained: bool = False,
) -> Classifier:
    """Make a timm network ready to train.

    Args:
        name: a timm model name, such as "resnet18".
        num_classes: K, at least 2.
        channels: 1 (grey) or 3 (RGB).
        image_size: pixels at the side.
        stem: "small" undoes the first reduction by 4 by changing strides, so that pretrained kernels stay valid;
            "auto" does so below 48 pixels only.
        weights: local file of pretrained weights, `.safetensors`, or `.pth` read without running any code in it.
        pretrained: fetch the weights that timm names for this model.

    Raises:
        UserError: unknown model, image too small for it, weights that do not fit or cannot be had.
    """
    import timm

    check_name(name)
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=channels)
    except Exception as error:
        if not pretrained:
            raise
        raise UserError(f"the pretrained weights of {name!r} could not be had: {first_line(error)}") from None
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    if weights is not None:
        load_pretrained(network, config, weights, channels)
    if stem == "small" or (stem == "auto" and image_size < SMALL_IMAGE):
        _shrink_stem(network, name, channels)
    mean = _channel_statistic(config.get("mean", (0.5,) * 3), channels)
    std = _channel_statistic(config.get("std", (0.5,) * 3), channels)
    model = Classifier(network, mean, std)
    _check_fits(model, name, channels, image_size)
    return model


def check_name(name: str) -> None:
    """Look a model up by name, without building it.

    Raises:
        UserError: no such model; names the nearest ones.
    """
    import timm

    if name not in timm.list_models() and name not in timm.list_pretrained():
        raise unknown("model", name, timm.list_models())


def load_foreign(model: Classifier, path: Path, *, num_classes: int) -> None:
    """Load weights that were trained elsewhere, head included; prefixes such as "module." are taken off.

    Raises:
        UserError: not weights of this network, or with a head for another number of classes.
    """
    state, own = read_weights(path), model.network.state_dict()
    last = next(reversed(own))
    for prefix in {key[: -len(last)] for key in state if key.endswith(last)}:
        stripped = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if own.keys() <= stripped.keys():
            state = {key: stripped[key] for key in own}
            break
    differing = sorted(set(own) ^ set(state))
    if differing:
        raise UserError(f"{path}: not weights of this model ({len(differing)} tensors differ; first: {differing[0]})")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"{path}: {key} has shape {tuple(value.shape)}, but the model for {num_classes} classes needs "
                f"{tuple(own[key].shape)}"
            )
    model.network.load_state_dict(state)


def _shrink_stem(network: nn.Module, name: str, channels: int) -> None:
    """Set strides to 1 until the first reduction by 4 is undone.

    Layers that read maps of the same size go together: where a block reduces, its shortcut does so too.
    """
    probe = 256
    strided: dict[int, list[nn.Module]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        strided.setdefault(inputs[0].shape[-1], []).append(module)

    layers = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and _stride(m) > 1)
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, probe, probe))
    except (RuntimeError, ValueError, AssertionError):
        strided.clear()  # a network for one size of image
    for hook in hooks:
        hook.remove()

    undone = 1
    for size in sorted(strided, reverse=True):
        if undone >= _STEM_REDUCTION:
            return
        undone *= _stride(strided[size][0])
        for layer in strided[size]:
            layer.stride = (1, 1)  # type: ignore[assignment]
            if not isinstance(layer, nn.Conv2d) and layer.kernel_size in (2, (2, 2)):
                # a 2 x 2 pool at stride 1 would shift the map by half a pixel
                layer.kernel_size = (1, 1)  # type: ignore[assignment]
    if undone < _STEM_REDUCTION:
        raise UserError(f"model {name!r} has no stem that could be made small; use --stem original")


def _stride(layer: nn.Module) -> int:
    stride = layer.stride
    return int(stride[0] if isinstance(stride, tuple) else stride)  # type: ignore[arg-type]


def _channel_statistic(values: tuple[float, ...], channels: int) -> Tensor:
    statistic = torch.tensor(values, dtype=torch.float32)
    return statistic if len(statistic) == channels else statistic.mean().repeat(channels)


def _check_fits(model: Classifier, name: str, channels: int, image_size: int) -> None:
    """Run one tiny batch in train mode, where a layer that is left with one value per channel fails too."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        with torch.no_grad():
            logits = model.train()(torch.zeros(2, channels, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"model {name!r} cannot take images of {image_size} x {image_size} pixels ({first_line(error)}); "
            "try a larger --image-size or --stem small"
        ) from None
    finally:
        model.load_state_dict(state)
    if logits.ndim != 2:
        raise UserError(f"model {name!r} does not give one row of logits per image, but {tuple(logits.shape)}")
