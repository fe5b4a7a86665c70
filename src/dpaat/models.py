"""Any timm CNN as a classifier of images in [0, 1], with normalization inside and a stem that fits small images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpaat.errors import BadValueError, UserError, first_line, unknown
from dpaat.fitting import find, load
from dpaat.networks import check_name as check_name
from dpaat.networks import head_layers, make_network
from dpaat.normalization import Numbers, normalization, parse_normalization
from dpaat.own_code import is_own
from dpaat.own_models import own_network
from dpaat.weights import WeightsFile, open_weights

Stem = Literal["auto", "original", "small"]
SMALL_IMAGE = 48  #: Below this many pixels, `--stem auto` takes the small stem for weights that are learned anew
_STEM_REDUCTION = 4
_PHRASES = {"key": " of {}", "dtype": " in {}", "filled": ", {} counters filled in", "ignored": ", {} counters ignored"}
_PHRASES |= {"adapted_from": ", first layer adapted from {} channels"}


class Classifier(nn.Module):
    """A network of timm behind the normalization it was made for.

    Keeping normalization inside lets every attack work on images in [0, 1], whatever the network expects. `facts` are
    what its state dict does not tell, ready for JSON: `stem` and the `strides` that were changed for it, `mean`, `std`
    and where they come from, and how `weights` were read, None for new ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, facts: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.network = network
        self.facts = facts or {}
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
        found = self.network((x - self.mean) / self.std)
        return getattr(found, "logits", found)  # type: ignore[no-any-return]


def build_model(
    name: str,
    *,
    num_classes: int,
    channels: int = 3,
    image_size: int,
    stem: Stem = "auto",
    weights: Path | WeightsFile | None = None,
    pretrained: bool = False,
    weights_key: str | None = None,
    mean: Numbers = None,
    std: Numbers = None,
    input_range: str | None = None,
    classes: Sequence[str] | None = None,
    keep_head: bool = False,
    options: dict[str, Any] | None = None,
) -> Classifier:
    """Make a network ready to train.

    Args:
        name: a timm model name, such as "resnet18"; `torchvision:NAME`; `py:PKG.MODULE:NAME`, see
            `dpaat.own_models.own_network`; or, with `pretrained`, `hf-hub:NAME` or `local-dir:DIR` as timm writes them.
        num_classes: K, at least 2.
        channels: 1 (grey) or 3 (RGB).
        image_size: pixels at the side.
        stem: "small" undoes the first reduction by 4 by changing strides, so that pretrained kernels stay valid;
            "auto" keeps that of the weights: the run's for weights of this package, else the original one. Without
            weights it is small below 48 pixels only.
        weights: local file, read without running any code in it; a run folder, or an export.
        pretrained: take the weights that come with the name; they may have to be fetched.
        weights_key: which of several sets in the file is meant, such as "ema_model".
        mean: of the values that the network takes, 1 or one per channel. Default: the file's, else timm's.
        std: likewise.
        input_range: of a pixel before normalization, such as "0-255"; default "0-1". Without mean and std, values in
            another range than 0-1 are taken as they are.
        classes: K class names; a head that is known to be for others is learned anew.
        keep_head: refuse weights whose head does not fit, instead of learning it anew.
        options: of the architecture, for timm. Default: those beside the weights.

    Raises UserError for an unknown model, an image too small for it, weights that do not fit or cannot be had.
    """
    stated = parse_normalization(mean, std, input_range)
    source = open_weights(weights) if isinstance(weights, Path) else weights
    if source is not None:
        _check_architecture(source, name)
        if pretrained:
            raise UserError("weights: give either --weights or --pretrained, not both")
    elif weights_key is not None:
        raise UserError("weights_key: there are no --weights to choose from")
    options = options or (source.record.get("options") if source else None)
    facts: dict[str, Any] = {"weights": None}
    config: dict[str, Any]
    if is_own(name):
        if pretrained:
            raise UserError(f"pretrained: {name} brings its own weights, or takes --weights")
        network, config = own_network(name, num_classes=num_classes, channels=channels, image_size=image_size)
        facts["code"], stem = name, "original" if stem == "auto" else stem
    else:
        shape = {"num_classes": num_classes, "channels": channels}
        network, options = make_network(name, **shape, pretrained=pretrained, options=options)
        config = network.pretrained_cfg  # type: ignore[assignment]
    stored, unit = list[tuple[Tensor, Tensor]](), False
    if source is not None:
        found, record = find(source, network, config, weights_key, channels), source.record
        other_classes = classes is not None and (source.classes or tuple(classes)) != tuple(classes)
        new_head = False if keep_head else other_classes or None
        loaded = load(source, found, network, config, num_classes=num_classes, channels=channels, new_head=new_head)
        unit, stored = found.own or bool(record), found.statistics(network)
        if not stored and "mean" in record:
            stored = [(torch.tensor(record["mean"]), torch.tensor(record["std"]))]
        stem = _stem_of_weights(source, stem, image_size, own=found.own)
        facts["weights"] = {"file": str(source.path), "digest": source.digest, **vars(loaded), "classes": num_classes}
    elif pretrained:
        stem = "original" if stem == "auto" else stem
        told = config.get("label_names") or classes
        kept = config.get("num_classes") == num_classes and (classes is None or list(told or ()) == list(classes))
        place = name if ":" in name else f"timm:{config.get('hf_hub_id') or name}"
        facts["weights"] = {"file": place, "head": "kept" if kept else "new", "classes": num_classes}
        if ":" in name and "architecture" in config:
            facts |= {"architecture": config["architecture"]} | ({"options": options} if options else {})
    head: dict[nn.Parameter, Tensor] = {}
    if facts["weights"] and facts["weights"]["head"] == "new":
        layers = head_layers(network, num_classes)
        head = {each: each.detach().clone() for layer in layers for each in layer.parameters()}
    for parameter in head:
        nn.init.zeros_(parameter)  # all classes are as likely, and the first step leaves the body alone
    facts["stem"] = resolved_stem(stem, image_size)
    facts["strides"] = _shrink_stem(network, name, channels) if facts["stem"] == "small" else []
    default = config.get("mean", (0.5,) * 3), config.get("std", (0.5,) * 3)
    place = "" if source is None else str(source.path)
    means, deviations, origin = normalization(stated, stored, default, channels=channels, unit=unit, place=place)
    origin = "none" if is_own(name) and origin == "of timm" else origin
    facts |= {"mean": means.tolist(), "std": deviations.tolist(), "normalization": origin}
    facts["input_range"] = list(stated.range or (0, 1))
    model = Classifier(network, means, deviations, facts)
    _check_fits(model, name, channels, image_size, num_classes)
    if head and not _learns(model, [*head], channels, image_size):
        with torch.no_grad():
            for parameter, values in head.items():
                parameter.copy_(values)
    return model


def _learns(model: nn.Module, head: Sequence[nn.Parameter], channels: int, image_size: int) -> bool:
    """Whether a head at zero has a gradient; a ReLU after it, as in SqueezeNet, would never let it move."""
    training = model.training
    with torch.enable_grad():
        x = torch.rand(2, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
        loss = nn.functional.cross_entropy(model.eval()(x), torch.zeros(2, dtype=torch.int64))
        gradients = torch.autograd.grad(loss, head, allow_unused=True)
    model.train(training)
    return any(each is not None and each.any() for each in gradients)


def resolved_stem(stem: Stem, image_size: int) -> Stem:
    """The stem that "auto" means where nothing else is known."""
    if stem not in ("auto", "original", "small"):
        raise unknown("stem", stem, ("auto", "original", "small"))
    return ("small" if image_size < SMALL_IMAGE else "original") if stem == "auto" else stem


def describe_weights(facts: dict[str, Any]) -> str | None:
    """One line on how weights were read and what was assumed for them; None for a network that began anew."""
    weights, code = facts.get("weights"), facts.get("code")
    (low, high), kind = facts.get("input_range") or (0, 1), facts.get("normalization")
    if not weights and code:
        return f"network {code}: {'not normalized' if kind == 'none' else f'mean/std {kind}'}; input {low:g}-{high:g}"
    if not weights:
        return None
    text = f"{weights.get('loaded')} of {weights['tensors']} tensors" if weights.get("tensors") else "fetched"
    for name, phrase in _PHRASES.items():
        if weights.get(name) not in (None, 0, ".", "float32"):
            text += phrase.format(weights[name])
    parts = [f"{text}, head {weights['head']} for {weights['classes']} classes", weights.get("outputs_are")]
    parts += [f"stem {facts['stem']}", "not normalized" if kind == "none" else f"mean/std {kind}"]
    return f"weights {weights['file']}: {'; '.join(filter(None, parts))}; input {low:g}-{high:g}"


def _stem_of_weights(source: WeightsFile, stem: Stem, image_size: int, *, own: bool) -> Stem:
    if stem != "auto":
        return stem
    known: Stem | None = source.record.get("stem")
    if known is None and (own or source.record) and image_size < SMALL_IMAGE:
        remedy = "give --stem small or --stem original, or the file in its run folder"
        raise UserError(f"{source.path}: a network of dpaat without a record of its stem; {remedy}")
    return known or "original"


def _check_architecture(source: WeightsFile, name: str) -> None:
    """Networks may differ in nothing that a state dict shows; some files tell which one they are of."""
    import timm

    told = name
    if not is_own(name):
        told = (source.architecture or name.removeprefix("torchvision:")).partition(".")[0]
    if told != name.removeprefix("torchvision:").partition(".")[0] and told in timm.list_models():
        found = f"{source.path}: holds weights of {told!r}, as the file says"
        raise UserError(f"{found}, not of {name!r}; give --model {told}")


def _shrink_stem(network: nn.Module, name: str, channels: int) -> list[dict[str, Any]]:
    """Set strides to 1 until the first reduction by 4 is undone; returns the new attributes of each `module` changed.

    Layers that read maps of the same size go together: where a block reduces, its shortcut does so too.
    """
    strided: dict[int, list[nn.Module]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        strided.setdefault(inputs[0].shape[-1], []).append(module)

    layers = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and _stride(m) > 1)
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, 256, 256))
    except (RuntimeError, ValueError, AssertionError):
        strided.clear()  # a network for one size of image
    for hook in hooks:
        hook.remove()

    undone, changes = 1, list[dict[str, Any]]()
    names = {module: name for name, module in network.named_modules()}
    for size in sorted(strided, reverse=True):
        if undone >= _STEM_REDUCTION:
            break
        undone *= _stride(strided[size][0])
        for layer in strided[size]:
            layer.stride = (1, 1)  # type: ignore[assignment]
            changes.append({"module": names[layer], "stride": [1, 1]})
            if not isinstance(layer, nn.Conv2d) and layer.kernel_size in (2, (2, 2)):
                # a 2 x 2 pool at stride 1 would shift the map by half a pixel
                layer.kernel_size = (1, 1)  # type: ignore[assignment]
                changes[-1]["kernel_size"] = [1, 1]
    if undone < _STEM_REDUCTION:
        raise UserError(f"model {name!r} has no stem that could be made small; use --stem original")
    return changes


def _stride(layer: nn.Module) -> int:
    stride = layer.stride
    return int(stride[0] if isinstance(stride, tuple) else stride)  # type: ignore[arg-type]


def _check_fits(model: Classifier, name: str, channels: int, image_size: int, num_classes: int) -> None:
    """Run one tiny batch in train mode, where a layer that is left with one value per channel fails too."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        with torch.no_grad():
            logits = model.train()(torch.zeros(2, channels, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        size = f"images of {image_size} x {image_size} pixels ({first_line(error)})"
        raise UserError(f"model {name!r} cannot take {size}; try a larger --image-size or --stem small") from None
    finally:
        model.load_state_dict(state)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model {name!r} does not give one row of logits per image, but {found}")
    if (outputs := logits.shape[1]) != num_classes:
        raise UserError(f"model {name!r} gives {outputs} logits, not one for each of {num_classes} classes")
