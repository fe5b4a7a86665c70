"""Attacks in turn: who is attacked, with which radius, and which image comes back."""

import pytest
import torch
from torch import Tensor, nn

from attack_makers import make_classifier
from dpaat.attacks import apgd, apgd_targeted, on_standing, pgd, pgd_restarts, transfer
from dpaat.attacks.losses import margin, targeted_dlr


class Pixel(nn.Module):
    """One pixel decides: above 0.5 is class 1. Counts the images it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        score = x.flatten(1)[:, 0] - 0.5
        return torch.stack([-score, score], dim=1)


class Decoy(nn.Module):
    """One more class, always just behind the best of the others: the likeliest wrong one, and out of reach."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return torch.cat([logits, logits.amax(1, keepdim=True) - 1e-3], dim=1)


def setting(*values: float):
    """An attack for each value, which sets every image to it, and what each was called with."""
    calls = []

    def make(value: float):
        def attack(x: Tensor, y: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            calls.append((index.tolist(), eps.tolist(), x.flatten(1)[:, 0].tolist(), y.tolist()))
            return (x.sign() * value).abs()

        return attack

    return (make(value) for value in values), calls


@pytest.mark.parametrize(("keep", "kept"), [("first", 0.1), ("best", 0.4)])
def test_the_first_image_that_fools_is_kept_and_radii_stay_with_their_samples(keep, kept):
    model = Pixel()
    x = torch.arange(1, 5).reshape(4, 1, 1, 1) / 10
    y = torch.tensor([1, 0, 1, 0])  # the attacks fool class 1 at once, class 0 by the third only
    eps = torch.tensor([0.1, 0.2, 0.3, 0.4])
    attacks, calls = setting(0.1, 0.4, 0.3)
    x_adv = on_standing(model, x, y, eps=eps, attacks=attacks, keep=keep)
    assert x_adv.flatten().tolist() == pytest.approx([0.1, kept, 0.1, kept])
    assert [index for index, *_ in calls] == [[0, 1, 2, 3], [1, 3], [1, 3]]
    for index, radii, pixels, labels in calls:
        assert radii == eps[index].tolist()
        assert pixels == x[index].flatten().tolist()
        assert labels == y[index].tolist()
    assert model.seen == 4 + 2 + 2


def test_no_attack_is_run_when_none_stands():
    attacks, calls = setting(0.9, 0.2, 0.8, 0.7)
    x_adv = on_standing(Pixel(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), eps=0.5, attacks=attacks)
    assert [index for index, *_ in calls] == [[0, 1], [1]]
    assert calls[1][1] == [0.5]
    assert x_adv[:, 0, 0, 0].tolist() == pytest.approx([0.9, 0.2])


def test_without_attacks_the_images_come_back():
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(on_standing(Pixel(), x, torch.tensor([0, 1]), eps=0.1, attacks=[]), x)
    with pytest.raises(ValueError, match="shape"):
        on_standing(Pixel(), x, torch.tensor([0, 1]), eps=torch.ones(3), attacks=[])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_restarts_are_never_weaker_than_one_run(norm):
    network, x, y = make_classifier(3)
    eps = torch.linspace(0, 0.1 if norm == "linf" else 0.5, len(x), dtype=x.dtype)

    def margins(restarts: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"eps": eps, "steps": 2, "norm": norm, "generator": generator}
        return margin(network(pgd_restarts(network, x, y, restarts=restarts, **options)), y)

    one, many = margins(1), margins(8)
    options = {"steps": 2, "norm": norm, "start": "random", "loss": margin}
    plain = pgd(network, x, y, eps=eps, generator=torch.Generator().manual_seed(0), **options)
    assert torch.equal(one, margin(network(plain), y))
    fooled = one > 0
    assert 0 < fooled.sum() < len(x) / 2
    assert torch.equal(one[fooled], many[fooled])
    assert torch.all(many >= one)
    assert (many > one).sum() > len(x) / 4


def test_targets_are_tried_on_what_stands_without_changing_the_result():
    network, x, y = make_classifier(7)
    network = Decoy(network)
    seen = []
    hook = network.register_forward_hook(lambda _module, images, _logits: seen.append(len(images[0])))
    x_adv = apgd_targeted(network, x, y, eps=0.04, steps=10, start="zero")
    hook.remove()

    ranked = network(x).scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
    expected, standing, attacked = x, torch.ones(len(x), dtype=torch.bool), []
    for rank in range(7):
        attacked += [int(standing.sum())] * 12  # 1 + 10 forward passes of the attack, 1 of the verdict
        candidate = apgd(network, x, y, eps=0.04, steps=10, start="zero", loss=targeted_dlr(ranked[:, rank]))
        fooled = network(candidate).argmax(1) != y
        take = standing & fooled if rank else standing
        expected = torch.where(take[:, None, None, None], candidate, expected)
        standing = standing & ~fooled
    assert torch.allclose(x_adv, expected, atol=1e-6)
    assert seen == [len(x), *attacked]
    assert len(set(attacked)) > 2
    assert attacked[-1] > 0


def test_transfer_asks_the_source_alone():
    network, x, y = make_classifier(3)
    other = Pixel()
    x_adv = transfer(other, x, y, source=network, eps=0.05, steps=5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(x_adv, apgd(network, x, y, eps=0.05, steps=5, generator=torch.Generator().manual_seed(2)))
    assert other.seen == 0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="restarts must be at least 1"):
        pgd_restarts(Pixel(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), eps=0.1, restarts=0)
