"""Models and images that attacks are tried on."""

import math

import torch
from torch import Tensor, nn

SHAPE = (3, 5, 4)


class Linear(nn.Module):
    """Two logits whose difference is linear in the image."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(math.prod(SHAPE), generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight
        return torch.stack([score, -score], dim=1)


def image_batch(batch: int, low: float = 0.3, high: float = 0.7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    x = low + (high - low) * torch.rand(batch, *SHAPE, generator=generator)
    return x, torch.randint(0, 2, (batch,), generator=generator)


def closed_form_linf(x: Tensor, y: Tensor, eps: Tensor, weight: Tensor) -> Tensor:
    """The loss of class 0 grows as the score falls: move every pixel against the weight, box included."""
    towards_loss = -weight.sign() * (1 - 2 * y.float())[:, None]
    return (x.flatten(1) + eps[:, None] * towards_loss).clamp(0, 1).reshape(x.shape)


def make_classifier(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A random network in double precision, and images that it classifies correctly by construction."""
    torch.manual_seed(classes)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16 * 3 * 2, 32), nn.Tanh(), nn.Linear(32, classes)
    ).double()
    x = torch.rand(64, *SHAPE, dtype=torch.float64)
    return network, x, network(x).argmax(1)
