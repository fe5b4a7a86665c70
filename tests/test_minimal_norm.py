"""Attacks that look for the nearest adversarial image: exact on linear models, as strong as Auto-PGD on networks."""

import math

import pytest
import torch
from torch import Tensor, nn

from attack_makers import SHAPE, make_classifier
from dpaat.attacks.apgd import apgd_targeted
from dpaat.attacks.ddn import ddn
from dpaat.attacks.fab import fab_targeted, way_to_plane

CASES = [(fab_targeted, "linf"), (fab_targeted, "l2"), (ddn, "l2")]


class Affine(nn.Module):
    """Logits `score` and `-score`, with the score linear in the image and, but for the shift, 0 at plain grey."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(math.prod(SHAPE), generator=torch.Generator().manual_seed(0)))
        self.bias = shift - 0.5 * self.weight.detach().sum()

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack([score, -score], dim=1)


class Spoilt(nn.Module):
    """Confident in class 0, with a made-up gradient."""

    def __init__(self, gradient: float) -> None:
        super().__init__()
        self.gradient = gradient

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        score = 1 + self.gradient * (mean - mean.detach())
        return torch.stack([score, -score], dim=1)


class SquareRoot(Affine):
    """Its gradient for a first pixel of 0 is not a number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * x[:, 0, 0, :1].sqrt()


class Ellipse(nn.Module):
    """Class 0 within half axes of 0.2 and 0.05 around plain grey, for images of two pixels."""

    def forward(self, x: Tensor) -> Tensor:
        score = 1 - ((x.flatten(1) - 0.5) / torch.tensor([0.2, 0.05])).square().sum(1)
        return torch.stack([score, -score], dim=1)


def image_batch(batch: int, spread: float) -> Tensor:
    """Images around 0.5; a spread above 0.5 gives pixels that are black or white."""
    noise = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(1))
    return (0.5 + spread * (2 * noise - 1)).clamp(0, 1)


def distances(x_adv: Tensor, x: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm((x_adv - x).flatten(1), ord=2 if norm == "l2" else math.inf, dim=1)


def nearest_in_box(x: Tensor, weight: Tensor, score: Tensor, norm: str) -> Tensor:
    """Distances to the plane inside the box, by bisecting how far every pixel goes at most."""
    x, weight, score = x.flatten(1).double(), weight.double(), score.double()
    direction = -score.sign()[:, None] * (weight if norm == "l2" else weight.sign())
    low, high = torch.zeros_like(score), torch.full_like(score, 1e6)
    for _ in range(100):
        middle = (low + high) / 2
        moved = (x + middle[:, None] * direction).clamp(0, 1) - x
        short = (moved @ weight).abs() < score.abs()
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return distances((x + high[:, None] * direction).clamp(0, 1), x, norm)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_way_to_plane_is_the_shortest_inside_the_box(norm, share):
    x = image_batch(8, 0.7)
    weight = Affine().weight.detach()
    side = torch.tensor([1.0, -1.0]).repeat(4)
    corner = (-side[:, None] * weight > 0).float()
    offset = -share * ((corner - x.flatten(1)) @ weight)
    way = way_to_plane(x, weight.reshape(1, *SHAPE).expand_as(x), offset, norm)
    assert torch.all((x + way >= -1e-7) & (x + way <= 1 + 1e-7))
    assert torch.allclose(way.flatten(1) @ weight, -offset, rtol=1e-4)
    assert torch.allclose(distances(x + way, x, norm).double(), nearest_in_box(x, weight, offset, norm), rtol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_way_to_plane_by_hand(norm):
    x = torch.tensor([0.5, 0.9]).reshape(1, 1, 1, 2)
    normal = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)

    def way(offset: float, scale: float = 1.0) -> list[float]:
        return way_to_plane(x, scale * normal, torch.tensor([offset]), norm).flatten().tolist()

    free = [0.05, 0.05] if norm == "linf" else [0.042, 0.056]
    assert way(-0.35) == pytest.approx(free)
    assert way(0.35) == pytest.approx([-step for step in free])
    assert way(-0.35e-30, scale=1e-30) == pytest.approx(free)
    assert way(-1.0) == pytest.approx([0.2, 0.1])
    assert way(-100.0) == pytest.approx([0.5, 0.1])
    assert way(-1.0, scale=0.0) == [0.0, 0.0]


@pytest.mark.parametrize(("attack", "norm"), CASES)
@pytest.mark.parametrize("spread", [0.2, 0.7])
def test_nearest_on_a_linear_model(attack, norm, spread):
    model, x = Affine(), image_batch(16, spread)
    with torch.no_grad():
        logits = model(x)
    y, score, weight = logits.argmax(1), logits[:, 0], model.weight.detach()
    x_adv = attack(model, x, y, norm=norm, steps=60 if attack is fab_targeted else 200)
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.all(model(x_adv).argmax(1) != y)
    found, bound = distances(x_adv, x, norm), nearest_in_box(x, weight, score, norm)
    free = score.abs() / (weight.norm() if norm == "l2" else weight.abs().sum())
    if spread < 0.5:
        assert torch.allclose(bound.float(), free, rtol=1e-4)
    else:
        assert (bound > 1.1 * free).any()
    assert torch.all(found >= (1 - 1e-4) * bound)
    assert torch.all(found <= (1.005 if attack is fab_targeted else 1.01) * bound)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_nearest_point_of_an_ellipse(attack, norm):
    def points(angle: Tensor, share: Tensor | float) -> Tensor:
        return 0.5 + (share * torch.stack([0.2 * angle.cos(), 0.05 * angle.sin()])).T.reshape(-1, 1, 1, 2)

    x = points(torch.tensor([0.3, 0.8, 1.2, 2.0]), torch.tensor([0.3, 0.6, 0.8, 0.5]))
    edge = points(torch.linspace(0, 2 * math.pi, 100_000), 1.0)
    expected = torch.stack([distances(edge, image, norm).amin() for image in x])
    x_adv = attack(
        Ellipse(), x, torch.zeros(4, dtype=torch.long), norm=norm, steps=30 if attack is fab_targeted else 300
    )
    found = distances(x_adv, x, norm)
    assert torch.all(found >= expected - 1e-5)
    assert torch.all(found <= 1.01 * expected)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_only_what_lies_within_its_own_radius_is_returned(attack, norm):
    model, x = Affine(), image_batch(16, 0.4)
    y = model(x).argmax(1)
    y[:4] = 1 - y[:4]
    everything = attack(model, x, y, norm=norm, steps=60)
    found = distances(everything, x, norm)
    factor = torch.tensor([0.5, 0.999, 1.0, 2.0]).repeat(4)
    within = (factor >= 1)[:, None, None, None]
    assert torch.equal(attack(model, x, y, eps=factor * found, norm=norm, steps=60), torch.where(within, everything, x))
    middle = found.median().item()
    one = attack(model, x, y, eps=middle, norm=norm, steps=60)
    assert torch.equal(one, torch.where((found <= middle)[:, None, None, None], everything, x))


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("norm", "radii"), [("linf", (0.03, 0.05, 0.08)), ("l2", (0.2, 0.3, 0.5))])
def test_fab_agrees_with_auto_pgd_at_every_radius(classes, norm, radii):
    network, x, y = make_classifier(classes)
    x_adv = fab_targeted(network, x, y, norm=norm, steps=20)
    fooled = network(x_adv).argmax(1) != y
    assert fooled.all()
    found, between = distances(x_adv, x, norm), 0
    for eps in radii:
        by_apgd = apgd_targeted(network, x, y, eps=eps, steps=20, norm=norm, generator=torch.Generator().manual_seed(0))
        robust = (network(by_apgd).argmax(1) == y).float().mean().item()
        between += 0.05 < robust < 0.95
        assert (found > eps).float().mean().item() == pytest.approx(robust, abs=0.06)
    assert between


class TwoWaysOut(nn.Module):
    """Class 1 is the likelier, but a change of one pixel by 0.2 away; class 2 is 0.05 away, by another pixel."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) - 0.5
        return torch.stack([torch.zeros_like(x[:, 0]), 0.5 * x[:, 0] - 0.1, 10 * x[:, 1] - 0.5], dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_tries_the_likeliest_targets_first_and_keeps_the_nearest_image(norm):
    x, y = torch.full((2, *SHAPE), 0.5), torch.tensor([0, 0])
    for targets, expected in ((1, 0.2), (2, 0.05), (9, 0.05)):
        x_adv = fab_targeted(TwoWaysOut(), x, y, norm=norm, steps=10, targets=targets)
        assert distances(x_adv, x, norm).tolist() == pytest.approx([expected] * 2, rel=1e-3)


def test_ddn_is_near_fab_on_a_network():
    network, x, y = make_classifier(2)
    by_fab = distances(fab_targeted(network, x, y, norm="l2", steps=20), x, "l2")
    assert torch.allclose(distances(ddn(network, x, y), x, "l2"), by_fab, rtol=0.02)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_misclassified_and_unreachable_samples_stay_clean(attack, norm):
    model, x = Affine(), image_batch(8, 0.4)
    y = model(x).argmax(1)
    half = torch.arange(8) < 4
    x_adv = attack(model, x, torch.where(half, y, 1 - y), norm=norm, steps=20)
    assert torch.equal(x_adv[4:], x[4:])
    assert torch.all(distances(x_adv, x, norm)[:4] > 0)
    sure = Affine(shift=100.0)
    assert torch.equal(attack(sure, x, torch.zeros(8, dtype=torch.long), norm=norm, steps=20), x)


@pytest.mark.parametrize(("attack", "norm"), CASES)
@pytest.mark.parametrize("gradient", [0.0, math.nan, math.inf])
def test_a_gradient_that_says_nothing_leaves_the_images_clean(attack, norm, gradient):
    x = image_batch(4, 0.7)
    x_adv = attack(Spoilt(gradient), x, torch.zeros(4, dtype=torch.long), norm=norm, steps=3)
    assert torch.equal(x_adv, x)


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (fab_targeted, {"norm": "l7"}),
        (fab_targeted, {"steps": 0}),
        (fab_targeted, {"targets": 0}),
        (fab_targeted, {"eps": torch.zeros(3)}),
        (ddn, {"norm": "linf"}),
        (ddn, {"steps": 0}),
        (ddn, {"init": 0.0}),
        (ddn, {"gamma": 1.0}),
        (ddn, {"eps": torch.zeros(4, 1)}),
    ],
)
def test_wrong_arguments(attack, wrong):
    x = image_batch(4, 0.2)
    with pytest.raises(ValueError, match=r"must"):
        attack(Affine(), x, torch.zeros(4, dtype=torch.long), **wrong)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_a_pixel_without_a_gradient_does_not_stop_the_others(attack, norm):
    x = image_batch(4, 0.4)
    x[:, 0, 0, 0] = 0
    y = Affine()(x).argmax(1)
    x_adv = attack(SquareRoot(), x, y, norm=norm, steps=60)
    assert torch.all(Affine()(x_adv).argmax(1) != y)
