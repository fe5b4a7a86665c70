"""Certified accuracy by randomized smoothing: what no attack can break, beside what an attack does break.

The smoothed classifier answers with the class that the network gives most often to an image with Gaussian noise.

Source:
    Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, arXiv
    1902.02918, algorithms and theorem 1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import torch
from scipy.stats import beta, binom, norm
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd
from dpaat.evaluation.attacking import Attacker
from dpaat.journal import Arrays

SELECTING = 100  #: Noise draws that choose the class which the others then count
PIECE = 1000  #: Draws of one piece of work, which an interruption loses
ATTACK_STEPS, ATTACK_DRAWS = 20, 8  #: Of the attack on the smoothed classifier
ALPHA = 0.001  #: Chance of a wrong certificate, an image
ABSTAINS = -1


def certify(
    chosen: np.ndarray, counts: np.ndarray, draws: int, *, sigma: float, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Decide on answers and certified radii from counts of noise draws; `alpha` is the chance of one too large.

    `chosen` is the class that draws of their own chose for each image `(N,)`, `counts` how often further `draws`, of
    standard deviation `sigma`, gave it `(N,)`; the lower Clopper-Pearson limit of its share counts. Returns the answer,
    `ABSTAINS` where the limit is not above one half, and the L2 radius `(N,)` within which the smoothed classifier does
    not change it, 0 where it abstains.
    """
    lower = np.where(counts > 0, beta.ppf(alpha, np.maximum(counts, 1), draws - counts + 1), 0.0)
    sure = lower > 0.5
    return np.where(sure, chosen, ABSTAINS), np.where(sure, sigma * norm.ppf(np.where(sure, lower, 0.5)), 0.0)


def outvoted(votes: np.ndarray, labels: np.ndarray, alpha: float) -> np.ndarray:
    """Where another class than the true one is the more frequent answer `(N,)`, bool, by counts of draws `(N, K)`.

    By a one-sided binomial test of the two counts, at level `alpha` over all K - 1 other classes.
    """
    rows = np.arange(len(labels))
    true, others = votes[rows, labels], votes.copy()
    others[rows, labels] = -1
    most = others.max(1)
    return np.asarray(binom.cdf(true, true + most, 0.5) < alpha / (votes.shape[1] - 1))


class Smoothed(nn.Module):
    """Log of the mean probabilities over noise draws, which are the same at every call: what the attack climbs."""

    def __init__(self, model: nn.Module, sigma: float, seed: int, draws: int = ATTACK_DRAWS) -> None:
        super().__init__()
        self.model, self.sigma, self.seed, self.draws = model, sigma, seed, draws

    @override
    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator(x.device).manual_seed(self.seed)
        noise = torch.randn((self.draws, *x.shape), generator=generator, device=x.device)
        logits = self.model((x + self.sigma * noise).flatten(0, 1)).float()
        mean: Tensor = logits.log_softmax(1).unflatten(0, (self.draws, len(x))).logsumexp(0)
        return mean


def run_certified(
    attacker: Attacker, radii: Sequence[float], *, norm: str, sigmas: Sequence[float], draws: int, alpha: float = ALPHA
) -> list[dict[str, Any]]:
    """Certify every image for every noise, and attack the smoothed classifiers at the same radii.

    A ball of radius r in Linf lies within one of r * sqrt(d) in L2, for d values an image: so an L2 radius R certifies
    R / sqrt(d) in Linf. The attack succeeds on an image where another class has more of the draws on the attacked image
    than the true one, by an exact test of both counts; so an image that withstands it counts as misclassified with a
    chance of at most alpha.

    `radii` of `norm`, "linf" or "l2", ascend above 0; `sigmas` are standard deviations of the noise, with `draws` an
    image. Returns for each sigma shares of images, in [0, 1]: `accuracy`, `abstains`, `voted` (right by most draws,
    sure or not), and by radius `certified` and `attacked`; and of every image the `answer` and the certified `radius`.
    """
    everything, labels = np.arange(len(attacker)), attacker.labels
    values = attacker.load(everything[:1])[0].numel()
    found = []
    for sigma in sigmas:
        first = _votes(attacker, f"choose {sigma:g}", everything, SELECTING, sigma)
        votes = _votes(attacker, f"count {sigma:g}", everything, draws, sigma)
        chosen = first.argmax(1)
        answer, radius = certify(chosen, votes[everything, chosen], draws, sigma=sigma, alpha=alpha)
        radius = radius / (sqrt(values) if norm == "linf" else 1.0)
        right, standing, attacked = answer == labels, votes.argmax(1) == labels, []
        for eps in radii:
            where = np.flatnonzero(standing)
            if len(where):
                attack = partial(_attack, attacker, sigma, eps, norm)
                several = _votes(attacker, f"attack {sigma:g} {norm} {eps:.9g}", where, draws, sigma, attack)
                standing[where[outvoted(several, labels[where], alpha)]] = False
            attacked.append(float(standing.mean()))
        found.append(
            {
                "sigma": sigma,
                "accuracy": float(right.mean()),
                "voted": float((votes.argmax(1) == labels).mean()),
                "abstains": float((answer == ABSTAINS).mean()),
                "certified": [float((right & (radius >= eps)).mean()) for eps in radii],
                "attacked": attacked,
                "answer": answer.tolist(),
                "radius": [round(float(r), 6) for r in radius],
            }
        )
    return found


def _votes(
    attacker: Attacker,
    name: str,
    positions: np.ndarray,
    draws: int,
    sigma: float,
    change: Callable[[Tensor, Tensor, str], Tensor] = lambda x, y, unit: x,
) -> np.ndarray:
    """How often each class is the answer to an image with noise `(n, K)`, piece by piece."""
    votes = np.zeros((len(positions), attacker.num_classes), np.int64)
    for start in range(0, draws, PIECE):
        number = min(PIECE, draws - start)

        def work(batch: np.ndarray, unit: str, number: int = number) -> Arrays:
            x, y = attacker.load(batch)
            x = change(x, y, name)
            generator, counts = attacker.generator(unit), torch.zeros(len(x), attacker.num_classes, dtype=torch.int64)
            at_once = max(1, attacker.batch_size // len(x))
            for first in range(0, number, at_once):
                times = min(at_once, number - first)
                noise = torch.randn((times, *x.shape), generator=generator, device=x.device)
                with torch.no_grad():
                    answers = attacker.model((x + sigma * noise).flatten(0, 1)).argmax(1).unflatten(0, (times, -1))
                counts += nn.functional.one_hot(answers.cpu(), attacker.num_classes).sum(0)
            return {"votes": counts.numpy()}

        attacker.bar.expect(name, len(positions) * (draws - start))
        votes += attacker.batches(("certified", name, draws, start), positions, work, passes=number)["votes"]
    return votes


def _attack(attacker: Attacker, sigma: float, eps: float, norm: str, x: Tensor, y: Tensor, unit: str) -> Tensor:
    """PGD on the smoothed classifier."""
    seed = attacker.generator("smoothed", unit, sigma, eps).initial_seed()
    return pgd(Smoothed(attacker.model, sigma, seed), x, y, eps=eps, steps=ATTACK_STEPS, norm=norm)
