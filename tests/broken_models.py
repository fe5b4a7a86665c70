"""Small models trained in seconds: sound ones, and ones whose robustness is not to be believed."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.attacks import fgsm, pgd
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.masking import run_masking
from dpaat.evaluation.masking_verdicts import Check

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
EPS = 0.2
"""Radius of training and checks: digits of 8 x 8 pixels withstand 8/255 without being trained to."""
OVERFITTING_EPS = 0.4
TRAINED_ON = 1000


def digits(classes: int = 10, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits 0 to `classes` - 1 in a fixed random order: images `(N, C, 8, 8)`, uint8, and labels."""
    content = load_digits()
    order = np.random.default_rng(0).permutation(len(content.target))
    order = order[content.target[order] < classes]
    images = (content.images[order] * (255 / 16)).astype(np.uint8)[:, None]
    return np.repeat(images, channels, axis=1), content.target[order].astype(np.int64)


def split(
    images: np.ndarray, labels: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The images to train on, and the others."""
    n = min(TRAINED_ON, len(labels) * 2 // 3)
    return (images[:n], labels[:n]), (images[n:], labels[n:])


def training(
    images: np.ndarray, labels: np.ndarray, *, attack: Attack | None = None, lr: float = 0.01, seed: int = 0
) -> Iterator[nn.Module]:
    """Train a small network on these images, or on what an attack makes of them; yields it after every epoch."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(images.shape[1], 16, 3, padding=1, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, int(labels.max()) + 1),
    )
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    while True:
        network.train()
        for rows in torch.randperm(len(x)).split(50):
            batch = x[rows] if attack is None else attack(network, x[rows], y[rows])
            optimizer.zero_grad()
            F.cross_entropy(network(batch), y[rows]).backward()
            optimizer.step()
        yield network.eval()


def standard(images: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> nn.Module:
    return _after(10, training(images, labels, seed=seed))


def adversarial(images: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> nn.Module:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, eps=EPS, steps=5)

    return _after(10, training(images, labels, attack=attack, seed=seed))


def catastrophically_overfitted(images: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> nn.Module:
    """Single-step adversarial training, until the network withstands the single step and nothing else."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return fgsm(model, x, y, eps=OVERFITTING_EPS)

    images, labels = images[:600], labels[:600]
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    for _, network in zip(range(100), training(images, labels, attack=attack, seed=seed), strict=False):
        stands_one = accuracy(network, attack(network, x, y), y) > 0.75
        if stands_one and accuracy(network, pgd(network, x, y, eps=OVERFITTING_EPS, steps=10), y) < 0.05:
            return network
    raise RuntimeError("this training does not overfit")


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def _after(epochs: int, networks: Iterator[nn.Module]) -> nn.Module:
    return next(network for number, network in enumerate(networks, 1) if number == epochs)


class Wrapper(nn.Module):
    """A model around another one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Scaled(Wrapper):
    """Logits so far apart that the softmax saturates, and the cross-entropy's gradient is zero in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.model(x)


class Quantizer(Wrapper):
    """Eight grey levels; rounding has a gradient of zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 7).round() / 7)


class IntegerQuantizer(Wrapper):
    """Eight grey levels through integers, which have no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 7).round().byte().float() / 7)


class StraightThrough(Wrapper):
    """Eight grey levels with the gradient of the identity: it quantizes, and hides nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + ((x * 7).round() / 7 - x).detach())


class Noisy(Wrapper):
    """Gaussian noise on the input, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.1 * torch.randn_like(x))


class Shifted(Wrapper):
    """A random shift by one pixel, the same for the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (int(torch.randint(-1, 2, ())) for _ in range(2))
        return self.model(x.roll((rows, columns), (-2, -1)))


class FlatAtImages(Wrapper):
    """Almost the identity, with a derivative of zero at every grey level of 8 bits, where attacks from images start."""

    def forward(self, x: Tensor) -> Tensor:
        frequency = 2 * math.pi * 255
        return self.model(x - torch.sin(frequency * x) / frequency)


class Constant(nn.Module):
    """One answer whatever the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(0, 1, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def masking_checks(
    model: nn.Module, images: np.ndarray, labels: np.ndarray, *, classes: Sequence[str], eps: float, **options: Any
) -> list[Check]:
    """`run_masking` with an `Attacker` of its own, whose options the rest are."""
    own = {name: options.pop(name) for name in ("norm", "steps", "queries", "max_samples") if name in options}
    with Attacker(model, images, labels, num_classes=len(classes), **options) as attacker:
        return run_masking(attacker, eps=eps, **own)
