"""Auto-PGD against random networks, where it must do better than PGD, and its losses by hand."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from attack_makers import make_classifier
from dpaat.attacks import apgd, apgd_targeted, pgd
from dpaat.attacks.losses import dlr, margin, targeted_dlr


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.network(x)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_apgd_is_at_least_as_strong_as_pgd_for_any_number_of_classes(classes):
    network, x, y = make_classifier(classes)
    eps = 0.08

    def robust(attack, **options) -> float:
        generator = torch.Generator().manual_seed(0)
        x_adv = attack(network, x, y, eps=eps, generator=generator, **options)
        assert (x_adv - x).abs().max() <= eps + 1e-9
        return (network(x_adv).argmax(1) == y).double().mean().item()

    by_pgd = robust(pgd, steps=40, start="random")
    assert 0.1 < by_pgd < 0.95
    assert robust(apgd, steps=40) <= by_pgd
    by_ratio = robust(apgd, steps=40, loss="dlr")
    assert by_ratio < by_pgd or classes == 2
    assert robust(apgd_targeted, steps=40) <= by_ratio


def test_scaled_logits_mask_the_cross_entropy_but_not_the_ratio():
    network, x, y = make_classifier(7)
    network.float()
    x = x.float()
    masked = Scaled(network, 1e5)

    def robust(model, loss) -> float:
        x_adv = apgd(model, x, y, eps=0.02, steps=40, loss=loss, generator=torch.Generator().manual_seed(0))
        return (network(x_adv).argmax(1) == y).float().mean().item()

    assert robust(masked, "ce") > robust(network, "ce") + 0.1
    assert robust(masked, "dlr") == pytest.approx(robust(network, "dlr"), abs=0.05)


def test_apgd_never_loses_ground():
    network, x, y = make_classifier(7)
    values = []
    for steps in (1, 5, 20, 80):
        x_adv = apgd(network, x, y, eps=0.004, steps=steps, start="zero", loss=margin)
        values.append(margin(network(x_adv), y))
    for fewer, more in pairwise(values):
        assert torch.all(more >= fewer - 1e-6)


def test_losses_by_hand():
    logits, y = torch.tensor([[5.0, 3.0, 2.0, 1.0], [0.0, 4.0, 2.0, 1.0]]), torch.tensor([0, 0])
    assert margin(logits, y).tolist() == [-2.0, 4.0]
    assert torch.allclose(dlr(logits, y), torch.tensor([-2 / 3, 4 / 3]))
    towards_last = targeted_dlr(torch.tensor([3, 3]))
    assert torch.allclose(towards_last(logits, y), torch.tensor([-4 / 3.5, 1 / 3.5]))
    assert dlr(logits[:, :3], y).tolist() == [-2.0, 4.0]
    assert targeted_dlr(torch.tensor([1, 2]))(logits[:, :3], y).tolist() == [-2.0, 2.0]
