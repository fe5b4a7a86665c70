"""Measurements of an explanation, batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode
from dpaat.errors import UserError
from dpaat.evaluation.attacking import Attacker, full_precision
from dpaat.evaluation.metrics import require_finite
from dpaat.evaluation.specs import AttackSpec
from dpaat.interpret.layers import Layer
from dpaat.interpret.maps import REFERENCES, Attribution, logit_gradient
from dpaat.interpret.metrics import STEPS, alignment_chance, deletion_insertion, gradient_alignment
from dpaat.interpret.similarity import randomize
from dpaat.radii import format_radius

RANDOM_ORDER = "random order"


@dataclass(eq=False)
class Measured:
    """Outputs and maps of a model on N images by radius, 0 for clean ones; maps `(N, H, W)`, float32, on the CPU."""

    predicted: dict[float, np.ndarray] = field(default_factory=dict)  # classes `(N,)`
    maps: dict[tuple[str, float], Tensor] = field(default_factory=dict)  # by kind; references at radius 0 only
    randomized: dict[str, Tensor] = field(default_factory=dict)  # clean maps of the randomized model by kind
    # Areas of deletion and insertion `(2, N)`, clean, by kind of map or `RANDOM_ORDER`.
    faithfulness: dict[str, np.ndarray] = field(default_factory=dict)
    alignment: dict[float, np.ndarray] = field(default_factory=dict)  # of input gradient and image `(N,)`
    alignment_chance: float = 0.0  # what a random direction would give
    # Adversarial less clean image of those kept, `(n, C, H, W)` int8 and scale `(n,)`.
    perturbation: dict[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def measure(
    attacker: Attacker,
    labels: np.ndarray,
    kinds: Sequence[Attribution],
    *,
    layer: Layer | None,
    spec: AttackSpec,
    radii: Sequence[float],
    keep: np.ndarray,
) -> Measured:
    """Explain the logit of every image's class in `labels` `(N,)`, clean and under an attack at radii above 0.

    `keep` are positions of the images whose perturbations are wanted. Raises UserError for outputs or gradients that
    are not finite.
    """
    maps = sum(kind.passes for kind in kinds)
    clean = 3 + 2 * maps + 2 * (STEPS + 1) * (len(kinds) + 1)
    passes = clean + len(radii) * (spec.passes(attacker.num_classes) + 3 + maps)  # forward, per image
    batches = np.split(np.arange(len(attacker)), range(attacker.batch_size, len(attacker), attacker.batch_size))
    parts = []
    with evaluation_mode(attacker.model), full_precision():
        random = randomize(attacker.model, attacker.load(batches[0])[0], seed=attacker.seed)
        for batch in batches:
            attacker.bar.expect("explaining", (len(attacker) - int(batch[0])) * passes)
            parts.append(_measure_batch(attacker, labels, batch, kinds, layer, random, spec, radii, keep))
    return _joined(parts)


def _measure_batch(
    attacker: Attacker,
    labels: np.ndarray,
    batch: np.ndarray,
    kinds: Sequence[Attribution],
    layer: Layer | None,
    random: nn.Module,
    spec: AttackSpec,
    radii: Sequence[float],
    keep: np.ndarray,
) -> Measured:
    """One batch of images under the model and its randomized copy."""
    model, bar, first = attacker.model, attacker.bar, int(batch[0])
    x, y = attacker.load(batch)
    of = torch.from_numpy(labels[batch]).to(x.device)
    found = Measured(alignment_chance=alignment_chance(*x.shape[1:]))

    def done(passes: int) -> None:
        bar.done(passes * len(batch))

    def map_of(kind: Attribution, network: nn.Module, images: Tensor) -> Tensor:
        bar.name(kind.name)
        maps = kind.function(network, images, of, layer).float().cpu()
        if not bool(torch.isfinite(maps).all()):
            raise UserError(
                f"{kind.name}: the gradient of the model is NaN or infinite; its images cannot be explained"
            )
        done(kind.passes)
        return maps

    def look(images: Tensor, eps: float) -> None:
        with torch.no_grad():
            logits = model(images)
        require_finite(logits)
        if attacker.several:  # the label in question where the answer is yes, else none
            found.predicted[eps] = (
                torch.where(logits.gather(1, of[:, None])[:, 0] > 0, of, logits.shape[1]).cpu().numpy()
            )
        else:
            found.predicted[eps] = logits.argmax(1).cpu().numpy()
        found.alignment[eps] = gradient_alignment(logit_gradient(model, images, of), images)
        done(3)
        for kind in kinds:
            found.maps[kind.name, eps] = map_of(kind, model, images)

    look(x, 0.0)
    # What tells maps that mean something from others: references, the randomized model, faithfulness.
    for name, reference in REFERENCES.items():
        found.maps[name, 0.0] = reference(x).cpu()
    for kind in kinds:
        found.randomized[kind.name] = map_of(kind, random, x)
    orders = {kind.name: found.maps[kind.name, 0.0].to(x.device) for kind in kinds}
    for name, maps in (orders | {RANDOM_ORDER: torch.ones_like(x[:, 0])}).items():
        bar.name(f"deletion by {name}")
        generator = attacker.generator("deletion", name, first)
        found.faithfulness[name] = np.stack(
            deletion_insertion(model, x, of, maps, generator=generator, several=attacker.several)
        )
        done(2 * (STEPS + 1))
    for eps in radii:
        bar.name(f"{spec.label} {format_radius(eps)}")
        x_adv = attacker.attack(spec, eps, x, y, key=first)
        done(spec.passes(attacker.num_classes))
        look(x_adv, eps)
        moved = (x_adv - x).cpu()[torch.from_numpy(np.isin(batch, keep))]
        scale = moved.abs().amax(dim=(1, 2, 3)) / 127
        steps = moved / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None, None]
        found.perturbation[eps] = steps.round().to(torch.int8).numpy(), scale.numpy()
    return found


def _joined(parts: Sequence[Measured]) -> Measured:
    """Put what batches gave one after the other along the images, the last axis of an array of scores."""

    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(map(np.concatenate, zip(*values, strict=True)))
        return torch.cat([*values]) if isinstance(values[0], Tensor) else np.concatenate(values, axis=-1)

    return Measured(
        **{
            name: {key: join([vars(part)[name][key] for part in parts]) for key in values}
            for name, values in vars(parts[0]).items()
            if isinstance(values, dict)
        },
        alignment_chance=parts[0].alignment_chance,
    )
