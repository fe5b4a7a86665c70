"""What the attacks of every library are tried on, and the one rule that judges all of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.attacks import pgd

IMAGES, SIZE = 1000, 16
EPOCHS, BATCH, TRAINING_EPS, TRAINING_STEPS = 25, 64, 0.1, 3
MARGIN = 1.0
"""Points by which our robust accuracy may lie above the counterpart's without further question."""
LEVEL = 0.05
"""What p of the paired test must exceed where it lies further above."""
TOLERANCE = 1e-6
"""How far outside ball and box an image may be, for rounding."""


@dataclass(frozen=True)
class Subject:
    """A trained network and the images that it is attacked on."""

    model: nn.Module
    x: Tensor
    y: Tensor
    classes: int
    seed: int


def make_subject(classes: int, seed: int) -> Subject:
    """Train a small network on handwritten digits, lightly against PGD, and keep the first `IMAGES` to attack.

    The attacked images are among those trained on: how robust the network is does not matter here, only how far the
    attacks get. The empty frame of the digits is cut off and the network reads every pixel alike, so that an attack
    that never tries the last row and column gains nothing by it, as it would not on photographs.
    """
    digits = load_digits()
    images = torch.tensor(digits.images[:, 1:-1, 1:-1] / 16, dtype=torch.float32)[:, None]
    images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False).clamp_(0, 1)
    labels = torch.tensor(digits.target)
    x, y = images[labels < classes], labels[labels < classes]
    seed_everything(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (SIZE // 4) ** 2, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x)).split(BATCH):
            x_adv = pgd(model, x[index], y[index], eps=TRAINING_EPS, steps=TRAINING_STEPS)
            optimizer.zero_grad()
            F.cross_entropy(model(x_adv), y[index]).backward()
            optimizer.step()
    return Subject(model.eval(), x[:IMAGES], y[:IMAGES], classes, seed)


def seed_everything(seed: int) -> None:
    """Seed every generator that a library may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what the libraries draw from)
    torch.manual_seed(seed)


def standing(subject: Subject, x_adv: Tensor, eps: float, norm: str) -> Tensor:
    """Which samples an attack leaves standing `(B,)`: those it has no misclassified image for in ball and box."""
    with torch.no_grad():
        fooled = subject.model(x_adv.float()).argmax(1) != subject.y
    delta = (x_adv - subject.x).flatten(1)
    length = torch.linalg.vector_norm(delta, ord=inf if norm == "linf" else 2, dim=1)
    inside = (x_adv.flatten(1).amin(1) >= -TOLERANCE) & (x_adv.flatten(1).amax(1) <= 1 + TOLERANCE)
    fallen: Tensor = fooled & inside & (length <= eps + TOLERANCE)
    return ~fallen


def compare(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """Judge two verdicts on the same samples by the exact McNemar test.

    Returns:
        Robust accuracies and their difference in points, p, and whether ours is weaker than the rule allows.
    """
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    discordant = only_ours + only_theirs
    p = float(binomtest(only_ours, discordant).pvalue) if discordant else 1.0
    difference = 100 * (only_ours - only_theirs) / len(ours)
    return {
        "ours": 100 * ours.float().mean().item(),
        "theirs": 100 * theirs.float().mean().item(),
        "difference": difference,
        "discordant": [only_ours, only_theirs],
        "p": p,
        "violation": difference > MARGIN and p <= LEVEL,
    }
