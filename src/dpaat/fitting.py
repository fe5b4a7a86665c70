"""Which tensors of a file are a network's, and how they are put into it."""

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpaat.errors import UserError
from dpaat.weights import WeightsFile

_COUNTERS = ("total_ops", "total_params")  #: Left in a state dict by a tool that counts operations
_STATISTICS = (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"))
"""How modules call the normalization that they do before the network."""
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model|network|net)\.)+")
_INNER_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")
_TRACKED = "num_batches_tracked"
TEACHER = "method.teacher."

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Found:
    """The tensors of one network in a file, those under the same prefix (`inner`) and those beside them (`outer`)."""

    key: str  #: Their place, such as "state_dict.ema_model"; "." for the top level
    prefix: str
    inner: Tensors
    outer: Tensors

    def statistics(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Different pairs of mean and std that are beside the network, not within it."""
        within, place = network.state_dict(), self.prefix.removesuffix("network.")
        beside = self.outer | {name: value for name, value in self.inner.items() if name not in within}
        if self.own:  # others are of its copies, or of networks within them
            beside = {name: self.outer[f"{place}{name}"] for name in ("mean", "std")}
        pairs: list[tuple[Tensor, Tensor]] = []
        for name, mean in beside.items():
            std = next((beside.get(name[: -len(m)] + s) for m, s in _STATISTICS if name.rpartition(".")[2] == m), None)
            if std is not None and mean.numel() == std.numel() in (1, 3):
                pair = mean.flatten().float(), std.flatten().float()
                if not any(torch.equal(pair[0], m) and torch.equal(pair[1], s) for m, s in pairs):
                    pairs.append(pair)
        return pairs

    @property
    def own(self) -> bool:
        """Whether this is the network of a `Classifier`, whose mean and std count in [0, 1]."""
        return self.prefix.endswith("network.") and f"{self.prefix.removesuffix('network.')}std" in self.outer


@dataclass(frozen=True)
class Loaded:
    """How many of the network's `tensors` came from the file, and what was done about the others."""

    key: str
    tensors: int
    loaded: int
    filled: int  #: Counters of batches that the file lacks
    ignored: int  #: Counters in the file that are no part of the network
    head: str  #: "kept", or "new" where it is to be learned
    outputs: int | None  #: Of the head in the file, None where it has none
    adapted_from: int | None  #: Channels that the first layer was adapted from, None where it was not
    dtype: str


def find(source: WeightsFile, network: nn.Module, config: dict[str, Any], key: str | None, channels: int) -> Found:
    """Find a network's tensors in a file, under whatever prefix and in whatever dict they are.

    `config` is timm's, which names head and first layer; `key` says which of several sets is meant.
    """
    own = network.state_dict()
    heads = _names(config, "classifier")
    needed = {n: t for n, t in own.items() if not n.startswith(heads) and not n.endswith(_TRACKED)}
    firsts = _names(config, "first_conv")
    nearest: list[tuple[int, Found]] = []
    anchor = max(needed, key=len)  # no other name of the network ends with it
    for sets in _views(source, network):
        candidates = list(_candidates(sets, anchor))
        ranked = [(len(_misfits(c, needed, firsts, channels)), c) for c in candidates]
        nearest = nearest or ranked
        if complete := [c for misfits, c in ranked if not misfits]:
            return _chosen(source, complete, own, key)
    inner = min(nearest, key=lambda pair: pair[0])[1].inner if nearest else next(iter(source.sets.values()))
    raise not_weights(source, inner, own, needed, heads)


def not_weights(
    source: WeightsFile, inner: Tensors, own: Tensors, needed: Tensors, heads: tuple[str, ...]
) -> UserError:
    """The error that says in one line how tensors differ from those of a network."""
    missing, unknown = [n for n in needed if n not in inner], [n for n in inner if n not in own]
    wrong = [n for n in needed if n in inner and _form(inner[n]) != _form(needed[n]) and not n.startswith(heads)]
    first = next(iter(missing + wrong + unknown), "none")
    shapes = f" is {_form(inner[first])}, not {_form(needed[first])}" if first in wrong else ""
    return UserError(
        f"{source.path}: not weights of this model ({len(missing)} tensors missing, {len(unknown)} unknown, "
        f"{len(wrong)} of another form; first: {first}{shapes})"
    )


def load(
    source: WeightsFile,
    found: Found,
    network: nn.Module,
    config: dict[str, Any],
    *,
    num_classes: int,
    channels: int,
    new_head: bool | None,
) -> Loaded:
    """Put the tensors that were found into the network; UserError for others, and for a head to keep that does not fit.

    `new_head` says whether the head is to be learned anew; None where it does not fit only.
    """
    from timm.models import adapt_input_conv

    own, heads = network.state_dict(), _names(config, "classifier")
    state = {n: t for n, t in found.inner.items() if n in own}
    surplus = {n: t for n, t in found.inner.items() if n not in own and not _is_statistic(n, t)}
    ignored = {n for n, t in surplus.items() if _is_counter(n, t)}
    if surplus.keys() - ignored:
        raise not_weights(source, {n: t for n, t in found.inner.items() if n not in ignored}, own, {}, heads)
    adapted = None
    for first in _names(config, "first_conv"):
        name = f"{first}weight"
        if name in state and state[name].shape != own[name].shape:
            adapted, kernel = int(state[name].shape[1]), state[name].float()
            state[name] = adapt_input_conv(1, kernel) if channels == 1 else kernel.repeat(1, 3, 1, 1) / 3
    head = [n for n in own if n.startswith(heads)]
    weight = next((state[n] for n in head if n.endswith("weight") and n in state), None)
    outputs = None if weight is None else int(weight.shape[0])
    fits = all(n in state and state[n].shape == own[n].shape for n in head)
    if new_head is False and not fits:
        fault = f"its head has {outputs} outputs, but there are {num_classes} classes; name its outputs"
        fault += ", in their order, with --classes"
        if outputs is None:
            fault = f"holds no head ({head[0]} is missing), so it cannot classify; train it first"
        raise UserError(f"{source.path}: {fault}")
    if new_head and not head:
        raise UserError(
            f"{source.path}: is for other classes, and no linear layer is the network's last: no known head"
        )
    fresh = bool(new_head or not fits)
    state |= {n: own[n] for n in head if fresh}
    filled = {n: t for n, t in own.items() if n not in state}
    network.load_state_dict(state | filled)
    return Loaded(
        key=found.key,
        tensors=len(own),
        loaded=len(state) - len(head) * fresh,
        filled=len(filled),
        ignored=len(ignored),
        head="new" if fresh else "kept",
        outputs=outputs,
        adapted_from=adapted,
        dtype=str(next(t.dtype for t in state.values() if t.is_floating_point())).removeprefix("torch."),
    )


def channels_of(source: WeightsFile, model: str) -> int | None:
    """Channels of the images that weights were trained on, 1 or 3; None where their first layer does not tell."""
    import timm

    config = timm.get_pretrained_cfg(model)
    ends = tuple(f".{first}weight" for first in _names(vars(config) if config else {}, "first_conv"))
    kernels = [t for each in source.sets.values() for n, t in each.items() if f".{n}".endswith(ends) and t.ndim == 4]
    counts = {int(kernel.shape[1]) for kernel in kernels}
    return counts.pop() if len(counts) == 1 and counts <= {1, 3} else None


def _names(config: dict[str, Any], field: str) -> tuple[str, ...]:
    names = config.get(field) or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _views(source: WeightsFile, network: nn.Module) -> Iterator[dict[str, Tensors]]:
    """The sets of a file: as they are, without wrappers of inner modules, and as timm translates names."""
    yield source.sets
    yield {place: {_INNER_WRAPPERS.sub("", n): t for n, t in each.items()} for place, each in source.sets.items()}
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is not None:
        translated = {}
        for place, each in source.sets.items():
            with suppress(Exception):  # names that it does not expect
                translated[place] = dict(translate({_WRAPPERS.sub("", n): t for n, t in each.items()}, network))
        yield translated


def _candidates(sets: dict[str, Tensors], anchor: str) -> Iterator[Found]:
    """Sets that have a tensor of the network under some prefix, in the order of the file."""
    for place, tensors in sets.items():
        ends = (n for n in tensors if n == anchor or n.endswith(f".{anchor}"))
        prefixes = [name[: -len(anchor)] for name in ends]
        for prefix in prefixes:
            others = tuple(p for p in prefixes if p != prefix and p.startswith(prefix))
            inside = [n for n in tensors if n.startswith(prefix) and not (others and n.startswith(others))]
            inner = {n[len(prefix) :]: tensors[n] for n in inside}
            outer = {n: t for n, t in tensors.items() if not n.startswith(prefix)}
            yield Found(f"{place}.{prefix}".strip(".") or ".", prefix, inner, outer)


def _misfits(found: Found, needed: Tensors, firsts: tuple[str, ...], channels: int) -> list[str]:
    def fits(name: str, tensor: Tensor) -> bool:
        given = found.inner[name]
        if name.startswith(firsts) and tensor.ndim == 4 == given.ndim and {given.shape[1], channels} == {1, 3}:
            given, tensor = given[:, 0], tensor[:, 0]  # adapted later
        return _form(given) == _form(tensor)

    return [n for n, t in needed.items() if n not in found.inner or not fits(n, t)]


def _chosen(source: WeightsFile, complete: list[Found], own: Tensors, key: str | None) -> Found:
    """The set that is meant; copies of one another are one."""
    kept: list[Found] = []
    if key is None:  # a run's self-teacher is no result of the run
        complete = [each for each in complete if not (each.own and each.prefix.startswith(TEACHER))] or complete
    for each in complete:
        if key is not None or not any(_same(each.inner, other.inner, own) for other in kept):
            kept.append(each)
    names = ", ".join(each.key for each in kept)
    if key is not None:
        wanted = f".{key.strip('.')}."
        exact = [each for each in kept if each.key == (key.strip(".") or ".")]
        kept = exact or [each for each in kept if wanted in f".{each.key}."]
        if len(kept) != 1:
            raise UserError(f"{source.path}: weights_key {key!r} names {len(kept)} of its sets of weights: {names}")
    averaged = [each for each in kept if each.own and each.prefix.endswith("ema.module.network.")]
    kept = averaged if len(averaged) == 1 else kept  # as the run's own evaluation takes them
    if len(kept) > 1:
        sets = f"{len(kept)} sets of weights of this model: {names}"
        raise UserError(f"{source.path}: holds {sets}; choose one with --weights-key")
    return kept[0]


def _same(one: Tensors, other: Tensors, own: Tensors) -> bool:
    return all(n in one and n in other and torch.equal(one[n], other[n]) for n in own if n in one or n in other)


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{kind}"


def _is_counter(name: str, tensor: Tensor) -> bool:
    return name.rpartition(".")[2] in _COUNTERS or (tensor.numel() == 1 and not tensor.is_floating_point())


def _is_statistic(name: str, tensor: Tensor) -> bool:
    return tensor.numel() in (1, 3) and any(name.rpartition(".")[2] in pair for pair in _STATISTICS)
