"""Measurements of an explanation, batch by batch."""

from __future__ import annotations

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
from dpaat.interpret.alignment import alignment_chance, gradient_alignment
from dpaat.interpret.faithfulness import STEPS, deletion_insertion
from dpaat.interpret.layers import Layer
from dpaat.interpret.maps import REFERENCES, Attribution, logit_gradient
from dpaat.interpret.randomization import randomize
from dpaat.radii import format_radius

RANDOM_ORDER = "random order"


@dataclass(eq=False)
class Measured:
    """What a model showed on N images; maps are `(N, H, W)`, float32, on the CPU.

    Attributes:
        predicted: radius to predicted classes `(N,)`; 0 for clean images.
        maps: kind of map and radius to maps; the references, which know no model, at radius 0 only.
        randomized: kind of map to the clean maps of the randomized model.
        faithfulness: kind of map, or `RANDOM_ORDER`, to the areas of deletion and insertion `(2, N)`, clean.
        alignment: radius to alignment of input gradient and image `(N,)`.
        alignment_chance: what a random direction would give.
        perturbation: radius to adversarial less clean image, `(n, C, H, W)` int8 and scale `(n,)`, of those kept.
    """

    predicted: dict[float, np.ndarray] = field(default_factory=dict)
    maps: dict[tuple[str, float], Tensor] = field(default_factory=dict)
    randomized: dict[str, Tensor] = field(default_factory=dict)
    faithfulness: dict[str, np.ndarray] = field(default_factory=dict)
    alignment: dict[float, np.ndarray] = field(default_factory=dict)
    alignment_chance: float = 0.0
    perturbation: dict[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def measure(
    attacker: Attacker,
    kinds: Sequence[Attribution],
    *,
    layer: Layer | None,
    spec: AttackSpec,
    radii: Sequence[float],
    keep: np.ndarray,
) -> Measured:
    """Explain the logit of every image's true class, clean and under an attack at radii above 0.

    `keep` are positions of the images whose perturbations are wanted. Raises UserError for outputs or gradients that
    are not finite.
    """
    batches = np.split(np.arange(len(attacker)), range(attacker.batch_size, len(attacker), attacker.batch_size))
    with evaluation_mode(attacker.model), full_precision():
        random = randomize(attacker.model, attacker.load(batches[0])[0], seed=attacker.seed)
        parts = []
        for number, batch in enumerate(batches):
            left = len(attacker) - number * attacker.batch_size
            attacker.bar.expect("explaining", left * _passes(kinds, spec, radii, attacker.num_classes))
            parts.append(_Batch(attacker, batch, kinds, layer, random).run(spec, radii, keep))
    return _joined(parts)


class _Batch:
    """One batch of images under the model and its randomized copy."""

    def __init__(
        self,
        attacker: Attacker,
        batch: np.ndarray,
        kinds: Sequence[Attribution],
        layer: Layer | None,
        random: nn.Module,
    ) -> None:
        self.attacker, self.batch, self.kinds, self.layer, self.random = attacker, batch, kinds, layer, random
        self.x, self.y = attacker.load(batch)
        self.found = Measured(alignment_chance=alignment_chance(*self.x.shape[1:]))

    def run(self, spec: AttackSpec, radii: Sequence[float], keep: np.ndarray) -> Measured:
        """Do all there is to do."""
        self._look(self.x, 0.0)
        self._doubt()
        for eps in radii:
            self.attacker.bar.name(f"{spec.label} {format_radius(eps)}")
            x_adv = self.attacker.attack(spec, eps, self.x, self.y, key=int(self.batch[0]))
            self._done(spec.passes(self.attacker.num_classes))
            self._look(x_adv, eps)
            kept = torch.from_numpy(np.isin(self.batch, keep))
            self.found.perturbation[eps] = _quantized((x_adv - self.x).cpu()[kept])
        return self.found

    def _look(self, x: Tensor, eps: float) -> None:
        """Predictions, alignment and maps."""
        model, found = self.attacker.model, self.found
        with torch.no_grad():
            logits = model(x)
        require_finite(logits)
        found.predicted[eps] = logits.argmax(1).cpu().numpy()
        found.alignment[eps] = gradient_alignment(logit_gradient(model, x, self.y), x)
        self._done(3)
        for kind in self.kinds:
            found.maps[kind.name, eps] = self._map(kind, model, x)

    def _doubt(self) -> None:
        """What tells maps that mean something from others: references, the randomized model, faithfulness."""
        found, x, y = self.found, self.x, self.y
        for name, reference in REFERENCES.items():
            found.maps[name, 0.0] = reference(x).cpu()
        for kind in self.kinds:
            found.randomized[kind.name] = self._map(kind, self.random, x)
        orders = {kind.name: found.maps[kind.name, 0.0].to(x.device) for kind in self.kinds}
        orders[RANDOM_ORDER] = torch.ones_like(x[:, 0])
        for name, maps in orders.items():
            self.attacker.bar.name(f"deletion by {name}")
            generator = self.attacker.generator("deletion", name, int(self.batch[0]))
            areas = deletion_insertion(self.attacker.model, x, y, maps, generator=generator)
            found.faithfulness[name] = np.stack(areas)
            self._done(2 * (STEPS + 1))

    def _map(self, kind: Attribution, model: nn.Module, x: Tensor) -> Tensor:
        self.attacker.bar.name(kind.name)
        maps = kind.function(model, x, self.y, self.layer).float().cpu()
        if not bool(torch.isfinite(maps).all()):
            raise UserError(
                f"{kind.name}: the gradient of the model is NaN or infinite; its images cannot be explained"
            )
        self._done(kind.passes)
        return maps

    def _done(self, passes: int) -> None:
        self.attacker.bar.done(passes * len(self.batch))


def _passes(kinds: Sequence[Attribution], spec: AttackSpec, radii: Sequence[float], num_classes: int) -> int:
    """Forward passes per image."""
    maps = sum(kind.passes for kind in kinds)
    clean = 3 + 2 * maps + 2 * (STEPS + 1) * (len(kinds) + 1)
    return clean + len(radii) * (spec.passes(num_classes) + 3 + maps)


def _quantized(perturbation: Tensor) -> tuple[np.ndarray, np.ndarray]:
    scale = perturbation.abs().amax(dim=(1, 2, 3)) / 127
    steps = perturbation / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None, None]
    return steps.round().to(torch.int8).numpy(), scale.numpy()


def _joined(parts: Sequence[Measured]) -> Measured:
    first = vars(parts[0])
    return Measured(
        **{
            name: {key: _join([vars(part)[name][key] for part in parts]) for key in values}
            for name, values in first.items()
            if name != "alignment_chance"
        },
        alignment_chance=first["alignment_chance"],
    )


def _join(values: Sequence[Any]) -> Any:
    """Put what batches gave one after the other along the images, the last axis of an array of scores."""
    if isinstance(values[0], tuple):
        return tuple(np.concatenate(each) for each in zip(*values, strict=True))
    return torch.cat([*values]) if isinstance(values[0], Tensor) else np.concatenate(values, axis=-1)
