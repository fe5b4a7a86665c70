"""DPAAT in a training loop of your own.

    python examples/own_loop.py

The images are 256 random ones with a stripe that tells the class, so that it runs anywhere in seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dpaat import AdversarialLoss, Indexed


def stripes(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make noisy 16 x 16 RGB images `(count, 3, 16, 16)` in [0, 1] with a bright row for the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    images = 0.5 * torch.rand(count, 3, 16, 16, generator=generator)
    images[torch.arange(count), :, 2 * labels] += 0.3
    return images, labels


def small_network(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16 * 16, classes)
    )


def main(epochs: int = 6) -> AdversarialLoss:
    torch.manual_seed(0)
    images, train_labels = stripes(256, classes=7)
    train_set = TensorDataset(images, train_labels)
    model = small_network(7)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    loader = DataLoader(Indexed(train_set), batch_size=32, shuffle=True)
    adversarial_loss = AdversarialLoss(model, train_labels, epochs=epochs)
    for epoch in range(epochs):
        for index, x, y in loader:
            loss = adversarial_loss(model, index, x, y, epoch=epoch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: {adversarial_loss.perturbation}")
    return adversarial_loss


if __name__ == "__main__":
    main()
