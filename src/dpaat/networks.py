"""Networks by name: of timm, of a model hub or a folder in timm's layout, or of torchvision."""

from pathlib import Path
from typing import Any

from torch import nn

from dpaat.errors import UserError, first_line, unknown
from dpaat.own_code import is_own

HUB, FOLDER, TORCHVISION = "hf-hub", "local-dir", "torchvision"
_TWO_HEADS = ("googlenet", "inception_v3")
"""Networks of torchvision that give several outputs in training."""


def check_name(name: str) -> None:
    """Raise UserError for an unknown network, with the nearest names."""
    import timm

    kind, _, rest = name.partition(":")
    if kind == TORCHVISION:
        if rest not in (known := torchvision_names()):
            raise unknown("model of torchvision", rest, known)
    elif kind == HUB:
        if not rest:
            raise UserError(f"model: {name!r} names no repository; give one such as {HUB}:timm/resnet18.a1_in1k")
    elif kind == FOLDER:
        if not (Path(rest) / "config.json").is_file():
            raise UserError(f"model: {rest or name!r} is no folder with a config.json, as timm writes it")
    elif not is_own(name) and name not in timm.list_models() and name not in timm.list_pretrained():
        raise unknown("model", name, timm.list_models())


def torchvision_names() -> list[str]:
    """Classifiers of torchvision, without those that give several outputs."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if name not in _TWO_HEADS]


def make_network(
    name: str, *, num_classes: int, channels: int, pretrained: bool, options: dict[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Make a network whose `pretrained_cfg` tells, as timm's do, its head, first layer, normalization and classes.

    Returns the network, and with which `options` its architecture was made, which a hub or a folder may tell too.
    Raises UserError: unknown name, weights that cannot be had, or a network with weights of its own without
    `pretrained`.
    """
    import timm

    check_name(name)
    kind, _, rest = name.partition(":")
    if kind in (HUB, FOLDER) and not pretrained:
        remedy = "train with --pretrained true, or name its architecture"
        raise UserError(f"model: {name} brings weights of its own: {remedy}")
    shape = {"num_classes": num_classes, "in_chans": channels}
    architecture, options, config = name, options or {}, None
    try:
        if kind == TORCHVISION:
            return _of_torchvision(rest, num_classes, channels, pretrained), {}
        if kind in (HUB, FOLDER):
            from timm.models import _hub

            read = _hub.load_model_config_from_hf if kind == HUB else _hub.load_model_config_from_path
            config, architecture, told = read(rest)
            options = {key: value for key, value in told.items() if key not in shape}
        return timm.create_model(architecture, pretrained, config, **shape, **options), options  # type: ignore[arg-type]
    except Exception as error:
        if not pretrained or isinstance(error, UserError):
            raise
        raise UserError(f"the pretrained weights of {name!r} could not be fetched: {first_line(error)}") from None


def head_layers(network: nn.Module, num_classes: int) -> list[nn.Module]:
    """The layers that give the logits, one of each head; those before them are the body.

    Where a network does not say which they are, it is the last linear layer with as many outputs as there are classes;
    none if there is no such layer.
    """
    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    heads = [network.get_submodule(name) for name in ((names,) if isinstance(names, str) else names)]
    if not heads:
        linear = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
        return [*linear[-1:]]
    layers = [[m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)] for head in heads]
    return [found[-1] for found in layers if found]


def _of_torchvision(name: str, num_classes: int, channels: int, pretrained: bool) -> nn.Module:
    from timm.models import adapt_input_conv
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).DEFAULT
    network: nn.Module = get_model(name, weights=weights if pretrained else None)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    first, last = next(iter(layers)), list(layers)[-1]
    head, stem = layers[last], layers[first]
    if isinstance(head, nn.Linear):
        network.set_submodule(last, nn.Linear(head.in_features, num_classes))
    else:
        network.set_submodule(last, nn.Conv2d(head.in_channels, num_classes, head.kernel_size))  # type: ignore[arg-type]
    if channels == 1:
        stem.in_channels, stem.weight = 1, nn.Parameter(adapt_input_conv(1, stem.weight.detach()))
    shown = weights.transforms()
    network.pretrained_cfg = {  # type: ignore[assignment]
        "classifier": last,
        "first_conv": first,
        "mean": tuple(shown.mean),
        "std": tuple(shown.std),
    }
    return network
