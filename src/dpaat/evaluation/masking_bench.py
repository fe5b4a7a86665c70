"""Measurements for the gradient-masking diagnostics: attacks, gradients and repeated answers, each seeded alone."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import apgd, apgd_targeted, fgsm, on_standing, pgd, square, transfer
from dpaat.attacks.apgd import MAX_TARGETS
from dpaat.attacks.checks import check_logits
from dpaat.attacks.gradient import input_gradient
from dpaat.attacks.losses import cross_entropy, fooled, log_odds, wrong_answers
from dpaat.attacks.norms import make_ball
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.metrics import require_finite
from dpaat.journal import Arrays

Work = Callable[[Tensor, Tensor, torch.Generator], dict[str, Tensor]]
"""Images `(n, C, H, W)`, labels `(n,)` and a source of random numbers to tensors `(n, ...)` by name."""

FRACTIONS = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""Parts of the reference radius, from which the one to compare attacks at is chosen."""
PATH = tuple(k / 8 for k in range(1, 9))  # points along the gradient, in parts of the reference radius
SEARCH_STEPS, START_STEPS = 10, 20  # steps of PGD to choose the radius, and to compare starts
RESTARTS, MORE_STEPS = 3, 2  # the larger budget: so many starts, each of so many times the steps
REPEATS, MEAN_OF = 5, 10  # passes over the same images, and passes averaged where they disagree
_REACH_PASSES, _GRADIENT_PASSES = 2, 2 * 3 + len(PATH)


class BenchAttack(NamedTuple):
    """An attack with its budget, called as `function(model, x, y, eps=, norm=, generator=)`."""

    name: str  # for people, and for the journal
    function: Callable[..., Tensor]
    passes: int  # most forward passes per image, the verdict included


class Bench:
    """Measurements batch by batch, each with its own randomness, kept in the attacker's journal.

    `eps` is the reference radius, `steps` are of APGD, `queries` of Square. `attacks` are by role: "search" to choose a
    radius, "ce", "targeted", "more", "zero", "random", "single", "square", and "transfer" where there is a source.
    """

    def __init__(self, attacker: Attacker, *, norm: str, eps: float, steps: int, queries: int) -> None:
        self.attacker, self.norm, self.eps = attacker, norm, eps
        self.attacks = _attacks(attacker, steps, queries)
        runs = {"search": len(FRACTIONS), "ce": 2}
        self._left = sum(attack.passes * runs.get(role, 1) for role, attack in self.attacks.items())
        self._left += REPEATS + _REACH_PASSES + _GRADIENT_PASSES

    def clean(self, positions: np.ndarray) -> np.ndarray:
        """Logits of several passes over the same images `(n, REPEATS, K)`; UserError where they are not finite."""
        attacker = self.attacker

        def work(x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
            with torch.no_grad():
                passes = [check_logits(attacker.model(x), len(x), attacker.num_classes) for _ in range(REPEATS)]
            return {"logits": torch.stack(passes, 1).float()}

        logits = self._run("clean", positions, work, passes=REPEATS)["logits"]
        require_finite(torch.from_numpy(logits).flatten(1))
        return logits

    def fallen(
        self,
        role: str,
        positions: np.ndarray,
        eps: float,
        *,
        norm: str | None = None,
        in_mean: bool = False,
        by_label: bool = False,
    ) -> np.ndarray:
        """Whether each image is misclassified after an attack `(n,)`, by one pass or by the mean of `MEAN_OF`.

        Of several labels an image: whether any of them is, or `by_label` each, `(n, K)`.
        """
        (name, function, passes), model, norm = self.attacks[role], self.attacker.model, norm or self.norm
        if in_mean:
            name, passes = f"{name}, mean of {MEAN_OF} passes", passes * MEAN_OF
            model = _Mean(model, several=self.attacker.several)

        def work(x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
            x_adv = function(model, x, y, eps=eps, norm=norm, generator=generator)
            with torch.no_grad():
                return {"fallen": (wrong_answers if by_label else fooled)(model(x_adv), y)}

        return self._run(name, positions, work, norm, round(eps, 9), *["by label"] * by_label, passes=passes)["fallen"]

    def gradient(self, positions: np.ndarray) -> Arrays:
        """Probe the gradient at the images, at random points of the ball, and the answers along it.

        Returns "silent": whether the cross-entropy's gives no direction `(n,)`; "ratio": its length at the image over
        that at the random point `(n,)`; "odds": `log_odds` at the image and along the gradient `(n, 1 + T)`;
        "standing": whether the model is right there `(n, 1 + T)`.
        """
        model, norm, eps = self.attacker.model, self.norm, self.eps

        def work(x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
            ball = make_ball(norm, x, eps)
            of_loss, _ = input_gradient(model, x, y, cross_entropy)
            here, clean = input_gradient(model, x, y, log_odds)
            nearby, _ = input_gradient(model, ball.random_start(generator), y, log_odds)
            length, length_nearby = (each.flatten(1).norm(dim=1) for each in (here, nearby))
            step = ball.eps * ball.direction(here)
            with torch.no_grad():
                along = [clean, *(model(ball.project_(x + part * step)) for part in PATH)]
            return {
                # In L2 a gradient that is lost in rounding gives a step that is too short.
                "silent": ball.direction(of_loss).flatten(1).norm(dim=1) < 0.5,
                "ratio": torch.where(length_nearby > 0, length / length_nearby, 0.0),
                "odds": torch.stack([log_odds(logits, y) for logits in along], 1),
                "standing": torch.stack([~fooled(logits, y) for logits in along], 1),
            }

        return self._run("gradient", positions, work, norm, round(eps, 9), passes=_GRADIENT_PASSES)

    def reached(self, positions: np.ndarray) -> np.ndarray:
        """Whether any gradient reaches each image, be it zero `(n,)`."""
        model = self.attacker.model

        def work(x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
            with torch.enable_grad():
                logits = model(x.requires_grad_())
                follows = logits.requires_grad
                reached = follows and torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] is not None
            return {"reached": torch.full((len(x),), reached)}

        return self._run("differentiability", positions, work, passes=_REACH_PASSES)["reached"]

    def _run(self, name: str, positions: np.ndarray, work: Work, *key: object, passes: int) -> Arrays:
        attacker = self.attacker
        attacker.bar.expect(name, max(self._left, passes) * len(positions))
        self._left -= passes

        def on_batch(batch: np.ndarray, unit: str) -> Arrays:
            generator = attacker.generator(unit)
            # A model that draws takes its numbers from the global generators: these are keyed too, and given back.
            with torch.random.fork_rng([attacker.device] if torch.device(attacker.device).type == "cuda" else []):
                torch.manual_seed(generator.initial_seed())
                found = work(*attacker.load(batch), generator)
            return {field: values.detach().cpu().numpy() for field, values in found.items()}

        return attacker.batches(("masking", name, *key), positions, on_batch, passes=passes)


class _Mean(nn.Module):
    """A model that answers at random, made to answer with the mean of its probabilities over several passes."""

    def __init__(self, model: nn.Module, *, several: bool) -> None:
        super().__init__()
        self.model, self.several = model, several

    @override
    def forward(self, x: Tensor) -> Tensor:
        passes = torch.stack([self.model(x).float() for _ in range(MEAN_OF)])
        return passes.sigmoid().mean(0).logit() if self.several else passes.log_softmax(2).logsumexp(0)


def _attacks(attacker: Attacker, steps: int, queries: int) -> dict[str, BenchAttack]:
    source, targets = attacker.source, min(attacker.num_classes - 1, MAX_TARGETS)
    few, many, more, once = SEARCH_STEPS, START_STEPS, MORE_STEPS * steps, 2 * steps + 3
    restarted = partial(_restarted, steps=more)
    attacks: dict[str, tuple[str, Callable[..., Tensor], int]] = {
        "search": (f"PGD-{few} from a random start", partial(pgd, steps=few, start="random"), 2 * few + 1),
        "ce": (f"APGD-CE-{steps}", partial(apgd, steps=steps), once),
        "targeted": (f"APGD-T-{steps}", partial(apgd_targeted, steps=steps), targets * once + 2),
        "more": (f"APGD-CE-{more} from {RESTARTS} starts", restarted, RESTARTS * (2 * more + 3) + 1),
        "zero": (f"PGD-{many} from the image", partial(pgd, steps=many, start="zero"), 2 * many + 1),
        "random": (f"PGD-{many} from a random start", partial(pgd, steps=many, start="random"), 2 * many + 1),
        "single": ("FGSM", fgsm, 3),
        "square": (f"Square-{queries}", partial(square, steps=queries), queries + 1),
    }
    if source is not None:
        attacks["transfer"] = (f"transfer-{steps}", partial(transfer, source=source, steps=steps), once)
    return {role: BenchAttack(*attack) for role, attack in attacks.items()}


def _restarted(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, steps: int, generator: torch.Generator
) -> Tensor:
    def attack(x: Tensor, y: Tensor, eps: Tensor, _: Tensor) -> Tensor:
        return apgd(model, x, y, eps=eps, steps=steps, norm=norm, generator=generator)

    return on_standing(model, x, y, eps=eps, attacks=[attack] * RESTARTS)
