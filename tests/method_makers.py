"""Networks, contexts and batches for the tests of the training methods."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.methods.base import Method, MethodContext

EPS, STEPS, CLASSES = 8 / 255, 3, 3


class Network(nn.Module):
    """A small network with BatchNorm that remembers what it was shown and what came back.

    Args:
        confidence: factor of the logits.
    """

    def __init__(self, confidence: float = 1.0) -> None:
        super().__init__()
        self.confidence = confidence
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES)
        )
        self.shown: list[Tensor] = []
        self.backwards: list[int] = []

    @property
    def forwards(self) -> list[int]:
        return [len(x) for x in self.shown]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.confidence * self.layers(x)
        self.shown.append(x.detach().clone())
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.backwards.append(len(gradient)))
        return logits


class OnePixel(nn.Module):
    """Two classes; the logit of the second is the only pixel minus `border`, that of the first is 0."""

    def __init__(self, border: float) -> None:
        super().__init__()
        self.border = border

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(pixel), pixel - self.border], dim=1)


def plain_loss(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def ninefold_loss(logits: Tensor, y: Tensor) -> Tensor:
    return 9 * plain_loss(logits, y)


def context(**changes) -> MethodContext:
    values = {
        "labels": torch.arange(6) % CLASSES,
        "num_classes": CLASSES,
        "epochs": 10,
        "learn_loss": plain_loss,
        "eps": EPS,
        "steps": STEPS,
        "norm": "linf",
        "clean_weight": 0.0,
    }
    return MethodContext(**{**values, **changes})


def batch() -> tuple[Tensor, Tensor, Tensor]:
    index = torch.arange(6)
    return index, torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)), index % CLASSES


def pixels(*values: float) -> tuple[Tensor, Tensor, Tensor]:
    """Images of one pixel, all of class 0, with their numbers and labels."""
    return torch.arange(len(values)), torch.tensor(values).reshape(-1, 1, 1, 1), torch.zeros(len(values)).long()


def two_classes(count: int, **changes) -> MethodContext:
    """The context for `pixels` and `OnePixel`: radius 0.5, ten steps."""
    return context(labels=torch.zeros(count).long(), num_classes=2, eps=0.5, steps=10, **changes)


def step(method: Method, model: nn.Module | None = None, data: tuple[Tensor, Tensor, Tensor] | None = None):
    """Make one step and let the method's state see it."""
    output = method(model or Network(), *(data or batch()))
    method.after_step(output)
    return output


def assert_clean_images_are_mixed_in(made: Method) -> None:
    """For a method with `ninefold_loss` and a clean weight of 0.25."""
    model, (index, x, y) = Network(), batch()
    output = made(model, index, x, y)
    assert torch.equal(model.shown[-1][:6], x)
    clean, adversarial = Network()(model.shown[-1]).chunk(2)
    expected = 0.75 * ninefold_loss(adversarial, y).mean() + 0.25 * ninefold_loss(clean, y).mean()
    assert torch.allclose(output.loss, expected)
    assert torch.allclose(output.logits, adversarial)


def cost(model: Network, size: int = 6) -> float:
    """Passes per sample in forward passes: an input gradient costs one more, that of the weights two."""
    *attack, learning = model.backwards
    return (sum(model.forwards) + sum(attack) + 2 * learning) / size


def close(found: Tensor, expected: list[float], tolerance: float = 1e-6) -> bool:
    return torch.allclose(found.flatten().float(), torch.tensor(expected), atol=tolerance)
