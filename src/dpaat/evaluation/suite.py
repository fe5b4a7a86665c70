"""Attack a model at fixed radii, the same for every method, and score what is left."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dpaat.attacks import find_attack
from dpaat.attacks.gradient import evaluation_mode
from dpaat.errors import UserError
from dpaat.evaluation.metrics import Metrics, classification_metrics, require_finite
from dpaat.radii import format_radius


class ImageArray(Protocol):
    """Images `(N, C, H, W)`, uint8: an array, a memory map, or anything that can be sliced like one."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class AttackSpec:
    """An attack and its budget; the radius comes on top.

    Attributes:
        name: a key of `dpaat.attacks.ATTACKS`, or "clean" for no attack.
        steps: iterations, None for an attack without.
        norm: "linf" or "l2".
        start: "random" or "zero".
    """

    name: str
    steps: int | None = None
    norm: str = "linf"
    start: str = "random"

    @property
    def label(self) -> str:
        """The name that people read, such as "PGD-20"."""
        if self.name == "clean":
            return "clean"
        return self.name.upper() + (f"-{self.steps}" if self.steps else "") + (" L2" if self.norm == "l2" else "")

    @property
    def passes(self) -> int:
        """Rough cost per image in forward passes, for the time left."""
        return 1 if self.name == "clean" else 3 * (self.steps or 1) + 1


CLEAN = AttackSpec("clean", start="zero")


def attack_spec(name: str, *, steps: int, norm: str) -> AttackSpec:
    """Make the spec of a named attack; one step starts at the image, more start at random in the ball.

    Raises:
        UserError: unknown attack, or fewer than 1 step.
    """
    iterative = find_attack(name).iterative
    if iterative and steps < 1:
        raise UserError(f"steps: {steps} must be at least 1")
    return AttackSpec(name, steps if iterative else None, norm, "random" if iterative else "zero")


@dataclass(frozen=True, eq=False)
class Result:
    """A model under one attack at one radius.

    Attributes:
        spec: the attack.
        eps: radius in units of a [0, 1] image, 0 for clean images.
        probabilities: `(N, K)`, float64.
        metrics: their scores.
    """

    spec: AttackSpec
    eps: float
    probabilities: Tensor
    metrics: Metrics


def attack_logits(
    model: nn.Module,
    images: ImageArray,
    labels: np.ndarray,
    *,
    num_classes: int,
    spec: AttackSpec,
    eps: float,
    batch_size: int = 128,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Outputs of a model on attacked images, all of them, also those that it misclassified before.

    The result does not depend on what was evaluated before: randomness is keyed by (seed, attack, eps, first row
    of the batch). The model, which must be on `device`, is left in the modes in which it was found.

    Args:
        model: maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        images: `(N, C, H, W)`, uint8.
        labels: `(N,)`, int64.
        num_classes: K.
        spec: the attack; "clean" leaves the images alone.
        eps: radius in units of a [0, 1] image.
        batch_size: images per batch.
        device: where to compute.
        seed: source of random starts.
        progress: called with the forward passes done, about, after every batch.

    Returns:
        Logits `(N, K)`, float32, on the CPU.

    Raises:
        UserError: outputs that are not finite logits `(B, K)`.
    """
    parts = []
    with evaluation_mode(model), _full_precision():
        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            x = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device).float() / 255
            if spec.name != "clean":
                y = torch.from_numpy(np.ascontiguousarray(labels[rows])).to(device)
                generator = torch.Generator(device).manual_seed(_key(seed, spec, eps, first))
                x = _attack(model, x, y, spec=spec, eps=eps, generator=generator)
            with torch.no_grad():
                logits = model(x)
            parts.append(_check_logits(logits, len(x), num_classes).float().cpu())
            if progress is not None:
                progress(spec.passes * len(x))
    outputs = torch.cat(parts)
    require_finite(outputs)
    return outputs


def run_suite(
    model: nn.Module,
    images: ImageArray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    specs: Sequence[AttackSpec],
    radii: Sequence[float],
    batch_size: int = 128,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> Iterator[Result]:
    """Evaluate on clean images, then under every attack at every radius; each result comes as soon as it is done.

    Arguments and errors are those of `attack_logits` and `classification_metrics`; the model is moved to `device`.
    """
    if not len(images):
        raise UserError("there are no images to evaluate")
    model.to(device)
    plan = [(CLEAN, 0.0), *((spec, eps) for spec in specs for eps in radii if eps > 0)]
    with tqdm(
        total=len(images) * sum(spec.passes for spec, _ in plan),
        disable=not progress,
        leave=False,
        dynamic_ncols=True,
        bar_format="{desc:<20} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}",
    ) as bar:
        for spec, eps in plan:
            bar.set_description_str(f"{spec.label} {format_radius(eps)}" if eps else spec.label)
            logits = attack_logits(
                model,
                images,
                labels,
                num_classes=len(classes),
                spec=spec,
                eps=eps,
                batch_size=batch_size,
                device=device,
                seed=seed,
                progress=bar.update,
            )
            probabilities = logits.double().softmax(dim=1)
            metrics = classification_metrics(probabilities, torch.from_numpy(labels), classes)
            yield Result(spec, eps, probabilities, metrics)


def evaluate_model(
    model: nn.Module, images: ImageArray, labels: np.ndarray, *, classes: Sequence[str], **options: Any
) -> list[Result]:
    """`run_suite` at once: robustness of any `nn.Module` that maps [0, 1] images to logits."""
    return list(run_suite(model, images, labels, classes=classes, **options))


def _attack(
    model: nn.Module, x: Tensor, y: Tensor, *, spec: AttackSpec, eps: float, generator: torch.Generator
) -> Tensor:
    options = {} if spec.steps is None else {"steps": spec.steps}
    function = find_attack(spec.name).function
    return function(model, x, y, eps=eps, norm=spec.norm, start=spec.start, generator=generator, **options)


def _check_logits(logits: object, batch: int, num_classes: int) -> Tensor:
    if not isinstance(logits, Tensor):
        raise UserError(f"the model must return logits (batch, {num_classes}); it returned a {type(logits).__name__}")
    if logits.shape != (batch, num_classes) or not logits.is_floating_point():
        raise UserError(
            f"the model must return logits of shape ({batch}, {num_classes}) for {batch} images and {num_classes} "
            f"classes; it returned {tuple(logits.shape)}, {logits.dtype}"
        )
    return logits


def _key(seed: int, spec: AttackSpec, eps: float, first: int) -> int:
    return zlib.crc32(repr((seed, spec.name, spec.steps, spec.norm, round(eps, 9), first)).encode())


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute in float32 throughout: TF32 and autocast would shift verdicts near the decision boundary."""
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    cudnn = torch.backends.cudnn
    try:
        with (
            cudnn.flags(
                enabled=cudnn.enabled,
                benchmark=cudnn.benchmark,
                deterministic=cudnn.deterministic,
                allow_tf32=False,
            ),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(found)
