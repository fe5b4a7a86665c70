"""Code of a user's own, as `py:own_code_makers:NAME` names it."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset


class Net(nn.Module):
    """A small network of the plainest kind."""

    def __init__(self, num_classes: int = 3, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Normed(Net):
    """Normalizes by buffers of its own."""

    def __init__(self, num_classes: int = 3, in_channels: int = 3) -> None:
        super().__init__(num_classes, in_channels)
        self.register_buffer("mean", torch.full((1, in_channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, in_channels, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - self.mean) / self.std)


class ConvHead(nn.Module):
    """Has no linear layer, and two layers of one weight."""

    def __init__(self, num_classes: int = 3, in_channels: int = 3) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in range(2))
        self.two.weight = self.one.weight
        self.head = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)).relu()).mean((2, 3))


def monai_densenet(num_classes: int, channels: int) -> nn.Module:
    from monai.networks.nets import DenseNet121

    return DenseNet121(2, channels, num_classes, init_features=8, growth_rate=4, block_config=(1, 1, 1, 1))


class Shapes(Dataset):
    """48 noisy images of 3 classes, told apart by a tint, two images a patient."""

    classes = ("a", "b", "c")

    def __init__(self, count: int = 48, first: int = 0) -> None:
        rng = np.random.default_rng(first)
        self.pixels = rng.integers(0, 200, (count, 20, 24, 3), dtype=np.uint8)
        self.targets = [number // 2 % 3 for number in range(count)]
        for number, label in enumerate(self.targets):
            self.pixels[number, ..., label] += 50
        self.groups = [f"patient{first}-{number // 2}" for number in range(count)]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return self.pixels[number], self.targets[number]


class Plain(Dataset):
    """The same as tensors in dictionaries, with nothing but items."""

    def __init__(self) -> None:
        self.inner = Shapes()

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, number: int) -> dict:
        pixels, label = self.inner[number]
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1) / 255, "label": "abc"[label]}


def shapes() -> Shapes:
    return Shapes()


def in_splits() -> dict:
    return {"train": Shapes(), "validation": Shapes(12, 1), "test": Shapes(12, 2)}


def wrapped() -> ConcatDataset:
    return ConcatDataset([Subset(Shapes(), range(24, 48)), Subset(Shapes(), range(24))])


class Changed(Shapes):
    """Items that fail in one way."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def __getitem__(self, number: int):
        return self.change(*super().__getitem__(number))


def random_items() -> Changed:
    rng = np.random.default_rng(0)
    return Changed(lambda x, y: (rng.integers(0, 255, x.shape, dtype=np.uint8), y))


def normalized() -> Changed:
    return Changed(lambda x, y: ((x / 255 - 0.5) / 0.2, y))


def wrong_targets() -> Changed:
    return Changed(lambda x, y: (x, (y + 1) % 3))


def no_pair() -> Changed:
    return Changed(lambda x, y: x)


def broken() -> Changed:
    return Changed(lambda x, y: 1 // 0)


def multi_label() -> list:
    return [(pixels, [1, 0, 1]) for pixels in Shapes().pixels]


def not_a_dataset() -> int:
    return 3


def darker(x: Tensor) -> Tensor:
    return x * torch.rand(len(x), 1, 1, 1)


class Noise:
    """A transform that draws from NumPy."""

    def __call__(self, x: Tensor) -> Tensor:
        return (x + float(np.random.uniform(0, 0.1))).clamp(0, 1)  # noqa: NPY002


def brighter(x: Tensor) -> Tensor:
    return x + 1


def fails(x: Tensor) -> Tensor:
    return x * (1 // 0)


def halved(x: Tensor) -> Tensor:
    return x[..., ::2]


def needs_more(num_classes: int, depth: int) -> nn.Module:
    return Net(num_classes)


def wrong_outputs() -> nn.Module:
    return Net(num_classes=5)


ready = Net()
