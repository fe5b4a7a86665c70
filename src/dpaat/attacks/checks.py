"""Input checks of attacks, once a call, before the first step."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from numbers import Real
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from dpaat.attacks.losses import cross_entropy, dlr, margin
from dpaat.attacks.norms import NORMS, per_sample
from dpaat.errors import BadValueError
from dpaat.radii import check_radius

P = ParamSpec("P")
T = TypeVar("T")
Labels = Literal["classes", "as the loss", "unused"]

OWN_LOSSES = ("ce", "dlr", cross_entropy, dlr, margin)
"""Losses for one class per image; whoever brings another one knows what labels and outputs it takes."""
ROUNDING = 1e-6  #: How far beyond 0 or 1 a pixel may lie: what is left where normalization was undone in float32
MOST = {"eps": 1.0, "step_size": 1.25}
"""Largest values, in parts of the image's range; a step of 1.25 is that of FGSM from a random start."""

_unchecked: ContextVar[bool] = ContextVar("unchecked", default=False)


@contextmanager
def unchecked() -> Iterator[None]:
    """Let attacks take the values of images, labels and radii for granted, for loops that must not wait for the device.

    Shapes, types and plain numbers are checked all the same.
    """
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


def checked(
    labels: Labels = "classes", *, unbounded: bool = False, passes_on: bool = False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make an attack check its arguments, and the first answer of the model; attacks within it look at no value again.

    Labels are "classes" `(B,)`; "as the loss" leaves them, and the model's outputs, to a loss that is not ours;
    "unused" asks for neither. An `unbounded` radius may be infinite. An attack that `passes_on` runs others, which look
    for themselves.
    """

    def decorate(attack: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(attack)

        @functools.wraps(attack)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            values: dict[str, Any] = {**given.arguments}
            if "options" in values:  # those of another attack
                values = {"norm": "linf"} | values | values["options"]
            x, y, loss = values["x"], values["y"], values.get("loss", "ce")
            own = labels == "classes" or (labels == "as the loss" and loss in OWN_LOSSES)
            _check_images(x)
            _check_numbers(values, unbounded=unbounded)
            if own:
                check_labels(x, y)
            if _unchecked.get():
                return attack(*args, **kwargs)
            highest = _check_values(values, y if own else None, unbounded=unbounded)
            watch = _first_answer(values["model"], highest) if own else nullcontext()
            with watch, nullcontext() if passes_on else unchecked():
                return attack(*args, **kwargs)

        return wrapper

    return decorate


def check_logits(logits: object, batch: int, num_classes: int | None = None) -> Tensor:
    """Refuse, as BadValueError, what is not one row of logits `(B, K)` per image of a `batch`, K at least 2."""
    wanted = f"({batch}, {num_classes or 'K'})"
    if not isinstance(logits, Tensor):
        raise BadValueError(f"the model must return logits {wanted}; it returned a {type(logits).__name__}")
    found = f"it returned {tuple(logits.shape)}, {logits.dtype}"
    if num_classes is None and logits.shape in ((batch,), (batch, 1)):
        remedy = "where one logit z stands for two classes, return torch.stack([-z, z], 1) / 2"
        raise BadValueError(f"the model must return logits of shape {wanted}, one for each class; {found}; {remedy}")
    if logits.ndim != 2 or len(logits) != batch or num_classes not in (None, logits.shape[1]):
        classes = "" if num_classes is None else f" and {num_classes} classes"
        raise BadValueError(f"the model must return logits of shape {wanted} for {batch} images{classes}; {found}")
    if not logits.is_floating_point():
        raise BadValueError(f"the model must return logits, which are floating; {found}")
    return logits


def check_labels(x: Tensor, y: object) -> None:
    """Refuse, as BadValueError, labels on another device than the images, or that are no class numbers `(B,)`, int64.

    Where an image has several labels, they are `(B, K)`, int8.
    """
    wanted = f"labels must be class numbers of shape ({len(x)},), int64"
    if not isinstance(y, Tensor):
        raise BadValueError(f"{wanted}, not a {type(y).__name__}")
    several = y.dtype == torch.int8 and y.ndim == 2 and len(y) == len(x)
    if not several and (y.dtype != torch.int64 or y.shape != x.shape[:1]):
        hint = (
            ": several an image are int8 (B, K), -1 unknown; for soft ones give pgd a loss of your own"
            if y.is_floating_point()
            else ""
        )
        raise BadValueError(f"{wanted}, not {tuple(y.shape)}, {y.dtype}{hint}")
    if y.device != x.device:
        raise BadValueError(f"labels are on {y.device}, images on {x.device}; bring them to one device")


def check_batch(x: Tensor, y: object) -> None:
    """Refuse images that are not `(B, C, H, W)` in [0, 1], and labels as `check_labels` does.

    Raises:
        BadValueError: says what they are.
    """
    _check_images(x)
    check_labels(x, y)
    _check_values({"x": x}, y if isinstance(y, Tensor) else None, unbounded=False)


def _check_images(x: object) -> None:
    if not isinstance(x, Tensor):
        raise BadValueError(f"images must be a tensor (B, C, H, W), not a {type(x).__name__}")
    if not x.is_floating_point():
        raise BadValueError(f"images must be floating in [0, 1], not {x.dtype}; divide whole grey levels by 255")
    if x.dtype.itemsize < 4:  # steps of 1/255 are beyond its 8 to 11 bits
        raise BadValueError(f"images must be float32, not {x.dtype}: give float32 images and use torch.autocast")
    if x.ndim != 4:
        hint = "; give grey images an axis for the channel: x[:, None]" if x.ndim == 3 else ""
        raise BadValueError(f"images must be of shape (B, C, H, W), not {tuple(x.shape)}{hint}")
    if x.shape[3] in (1, 3, 4) and min(x.shape[1:3]) >= 8:
        found = f"{tuple(x.shape)} has channels last: x.permute(0, 3, 1, 2)"
        raise BadValueError(f"images must be of shape (B, C, H, W); {found}")


def _check_numbers(values: Mapping[str, Any], *, unbounded: bool) -> None:
    """What can be told without waiting for the device."""
    x, norm = values["x"], values.get("norm", "l2")
    if norm not in NORMS:
        raise BadValueError(f"norm must be one of {sorted(NORMS)}, not {norm!r}")
    for name, most in MOST.items():
        value = values.get(name)
        if isinstance(value, Tensor):
            per_sample(value, x)
        elif not isinstance(value, Real) and not (value is None and name == "step_size"):
            raise BadValueError(f"{name} must be a number, or a tensor of one per image ({len(x)},), not {value!r}")
        elif value is not None and not (unbounded and value == math.inf):
            check_radius(float(value), norm, pixels=x[:1].numel() or None, name=name, most=most)
    for name in ("steps", "targets", "restarts"):
        value = values.get(name, 1)
        if isinstance(value, Tensor):  # of a graded attack
            continue
        if not hasattr(value, "__index__"):
            raise BadValueError(f"{name} must be a whole number, not {value!r}")
        if value < 1:
            raise BadValueError(f"{name} must be at least 1, not {value}")


def _check_values(values: Mapping[str, Any], y: Tensor | None, *, unbounded: bool) -> int | None:
    """Look at images, labels and radii together, so that the device is waited for once; returns the highest label."""
    x = values["x"]
    if not x.numel():
        return None
    parts = {"images": x} | ({} if y is None else {"labels": y})
    radii = {name: values.get(name) for name in MOST}
    parts |= {name: radius.to(x.device) for name, radius in radii.items() if isinstance(radius, Tensor)}
    ends = torch.stack([end.float() for part in parts.values() for end in torch.aminmax(part.detach())]).tolist()
    found = dict(zip(parts, zip(ends[::2], ends[1::2], strict=True), strict=True))
    low, high = found["images"]
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        hint = "did you divide by 255?"
        if low < 0:
            hint = "leave normalization to the model, and clamp what resizing has overshot"
        hint = "they hold NaN" if math.isnan(low) else hint
        raise BadValueError(f"images must lie in [0, 1]; these go from {low:g} to {high:g}; {hint}")
    for name, end in [(radius, end) for radius in MOST for end in found.get(radius, ())]:
        if not (unbounded and end == math.inf):
            check_radius(end, values.get("norm", "l2"), pixels=x[0].numel(), name=name, most=MOST[name])
    if y is None:
        return None
    low, high = found["labels"]
    if y.ndim == 2:
        if low < -1 or high > 1:
            raise BadValueError(f"several labels an image are 1 (yes), 0 (no) and -1 (unknown); these go to {high:g}")
        return y.shape[1] - 1
    if low < 0:
        raise BadValueError(f"labels must be class numbers from 0; the lowest is {low:g}")
    return int(high)


@contextmanager
def _first_answer(model: object, highest: int | None) -> Iterator[None]:
    """Look at the first answer of a model; on CUDA a label beyond its classes would end the process."""
    if not isinstance(model, nn.Module):
        raise BadValueError(f"the model must be a torch.nn.Module, not a {type(model).__name__}")

    def look(module: nn.Module, inputs: tuple[Tensor, ...], answer: object) -> None:
        hook.remove()
        logits = check_logits(answer, len(inputs[0]))
        if inputs[0].requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise BadValueError(
                "the model's answer has no gradient with respect to the images; attack outside torch.inference_mode, "
                "and let the model neither detach nor leave autograd"
            )
        classes = logits.shape[1]
        if highest is not None and highest >= classes:
            found = f"the model tells {classes} classes apart, 0 to {classes - 1}"
            raise BadValueError(f"labels go up to {highest}, but {found}")

    hook = model.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()
