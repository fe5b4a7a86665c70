"""DPAAT in a training loop of your own: three lines more than ordinary adversarial training.

    python examples/own_loop.py

The loop needs a loader that also yields the number of each sample; everything else is plain PyTorch. Here the images
are 256 random ones with a stripe that tells the class, so that it runs anywhere in seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from dpaat import AdaptivePerturbation, pgd_with_clean_logits


class Numbered(Dataset[tuple[int, Tensor, int]]):
    """Images with labels, and the number of each sample in front."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[int, Tensor, int]:
        return number, self.images[number], int(self.labels[number])


def stripes(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make noisy 16 x 16 RGB images `(count, 3, 16, 16)` in [0, 1] with a bright row for the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    images = 0.5 * torch.rand(count, 3, 16, 16, generator=generator)
    images[torch.arange(count), :, 2 * labels] += 0.3
    return images, labels


def main(epochs: int = 5) -> AdaptivePerturbation:
    torch.manual_seed(0)
    images, train_labels = stripes(256, classes=7)
    train_set = Numbered(images, train_labels)
    loader = DataLoader(train_set, batch_size=32, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16 * 16, 7)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    state = AdaptivePerturbation(num_samples=len(train_set), eps_max=8 / 255, labels=train_labels, num_classes=7)
    for epoch in range(epochs):
        for index, x, y in loader:
            x_adv, clean_logits = pgd_with_clean_logits(model, x, y, eps=state.eps[index], steps=10)
            adv_loss = cross_entropy(model(x_adv), y, reduction="none")
            adv_loss.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            state.update(index, adv_loss, cross_entropy(clean_logits, y, reduction="none"))
        shares = state.eps.quantile(torch.tensor([0.1, 0.5, 0.9])) * 255
        print(f"epoch {epoch + 1}: eps at 10 / 50 / 90 %: {' / '.join(f'{share:.1f}' for share in shares)} of 255")
    return state


if __name__ == "__main__":
    main()
