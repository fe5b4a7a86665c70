"""Square Attack on linear models, whose optimum is known, and the pieces of its search by hand."""

import math
import sys

import pytest
import torch
from torch import Tensor, nn

from attack_makers import Linear, closed_form_linf, image_batch
from dpaat.attacks import square

parts = sys.modules["dpaat.attacks.square"]  # `dpaat.attacks.square` itself is the function


class Counting(nn.Module):
    """Counts the images of every forward pass, and allows no gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.counts: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.counts.append(len(x))
        return self.network(x)


class Quantized(nn.Module):
    """A linear model that sees eight grey levels, hence has no useful gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((x * 7).round() / 7)


class Towards(nn.Module):
    """Two logits: agreement of the perturbation of grey with a pattern, and a bound out of reach."""

    def __init__(self, pattern: Tensor) -> None:
        super().__init__()
        self.pattern = pattern

    def forward(self, x: Tensor) -> Tensor:
        agreement = ((x - 0.5) * self.pattern).flatten(1).sum(1)
        return torch.stack([agreement, torch.full_like(agreement, 1e3)], dim=1)


def keyed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nearly_all_that_can_be_fooled_in_linf_are():
    model, (x, y) = Linear(), image_batch(100)
    eps = torch.full((100,), 0.05)
    best = closed_form_linf(x, y, eps, model.weight.detach())
    can_fall = (model(x).argmax(1) == y) & (model(best).argmax(1) != y)
    assert can_fall.sum() > 20
    fallen = model(square(model, x, y, eps=0.05, steps=2000, generator=keyed())).argmax(1) != y
    assert fallen[can_fall].float().mean() >= 0.95
    few = model(square(model, x, y, eps=0.05, steps=20, generator=keyed())).argmax(1) != y
    assert few[can_fall].float().mean() < 0.8


def test_the_l2_search_finds_a_smooth_pattern_and_spends_the_whole_radius():
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(10), indexing="ij")
    pattern = sum(
        sign * torch.exp(-((rows - row).square() + (columns - column).square()) / 4)
        for sign, row, column in ((1, 2.4, 4.0), (-1, 5.6, 6.0))
    )
    x, y = torch.full((8, 1, 8, 10), 0.5), torch.ones(8, dtype=torch.long)
    x_adv = square(Towards(pattern), x, y, eps=0.4, norm="l2", steps=800, generator=keyed())
    delta = x_adv - x
    assert torch.allclose(delta.flatten(1).norm(dim=1), torch.tensor(0.4))
    reached = (delta * pattern).flatten(1).sum(1) / (0.4 * pattern.norm())
    assert torch.all(reached > 0.7)


def test_every_linf_pixel_is_at_an_edge_of_ball_or_box():
    x = torch.rand(6, 3, 5, 9, generator=keyed())
    eps = torch.linspace(0, 0.5, 6)
    wide = eps[:, None, None, None]
    for steps in (1, 40):
        x_adv = square(Towards(torch.ones(3, 5, 9)), x, torch.ones(6).long(), eps=eps, steps=steps, generator=keyed())
        edges = torch.stack([(x - wide).clamp(min=0), (x + wide).clamp(max=1)])
        assert torch.all((x_adv == edges).any(dim=0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (2, 9, 2), (3, 2, 2), (1, 30, 11)])
def test_any_image_shape(shape, norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4))
    x = torch.rand(5, *shape)
    y, eps = model(x).argmax(1), torch.tensor([0.0, 1e-3, 0.01, 0.1, 1.0])
    x_adv = square(model, x, y, eps=eps, norm=norm, steps=60, generator=keyed())
    delta = (x_adv - x).flatten(1)
    assert torch.isfinite(x_adv).all()
    assert torch.all((x_adv >= 0) & (x_adv <= 1))
    assert torch.all((delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)) <= eps + 1e-6)
    assert torch.equal(x_adv[0], x[0])


def test_a_quantized_model_is_fooled():
    model, (x, y) = Counting(Quantized()), image_batch(60)
    with torch.no_grad():
        correct = model(x).argmax(1) == y
        fallen = model(square(model, x, y, eps=0.2, steps=300, generator=keyed())).argmax(1) != y
    assert fallen[correct].float().mean() > 0.95


def test_what_fell_is_not_queried_again():
    model, (x, y) = Counting(Linear()), image_batch(60)
    eps = torch.cat([torch.full((50,), 0.1), torch.zeros(10)])
    with torch.no_grad():
        y[50:] = model(x[50:]).argmax(1)
        model.counts.clear()
        x_adv = square(model, x, y, eps=eps, steps=100, generator=keyed())
        counts = model.counts.copy()
        standing = int((model(x_adv).argmax(1) == y).sum())
    assert len(counts) == 100
    assert counts[0] == 60
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 30
    assert 10 <= standing <= counts[-1]

    model.counts.clear()
    square(model, x[:50], y[:50], eps=1.0, steps=5000, generator=keyed())
    assert len(model.counts) < 500


def test_more_queries_never_lose_ground():
    network = Towards(torch.randn(3, 6, 5, generator=keyed(1)))
    x, y = torch.full((4, 3, 6, 5), 0.5), torch.ones(4, dtype=torch.long)
    clean = network(x)[:, 0]
    for norm in ("linf", "l2"):
        reached = network(square(network, x, y, eps=0.1, norm=norm, steps=200, generator=keyed()))[:, 0]
        first = network(square(network, x, y, eps=0.1, norm=norm, steps=1, generator=keyed()))[:, 0]
        assert torch.all(reached > first)
        assert torch.all(reached > clean)


def test_outputs_that_are_not_numbers_come_out():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            changed = (x != 0.5).flatten(1).any(1)
            return torch.stack([torch.where(changed, torch.nan, 1.0), torch.zeros(len(x))], dim=1)

    x = torch.full((3, 1, 4, 4), 0.5)
    assert Broken()(square(Broken(), x, torch.zeros(3).long(), eps=0.1, steps=5))[:, 0].isnan().all()


def test_window_share_by_hand():
    def share(query: int, queries: int) -> float:
        return 0.8 / parts._share(0.8, query, queries)

    assert [share(query, 10_000) for query in (0, 10, 11, 50, 51, 201, 501, 2001, 8001, 9999)] == [
        *(1, 1, 2, 2, 4, 8, 16, 64, 512, 512)
    ]
    assert [share(query, 100) for query in (0, 1, 2, 3, 99)] == [1, 4, 4, 8, 512]
    x = torch.zeros(1, 1, 10, 40)
    assert [parts._side(x, p) for p in (1.0, 0.16, 0.04, 1e-4)] == [10, 8, 4, 1]
    assert [parts._odd_side(x, p) for p in (1.0, 0.16, 0.04, 1e-4)] == [9, 9, 5, 3]
    assert parts._odd_side(x[:, :, :2], 1.0) == 1


def test_bump_by_hand():
    up = torch.tensor([0.25, 1.25, 0.25])
    bump = torch.stack([up, torch.full((3,), -0.25), -up], dim=1)
    assert torch.allclose(parts._bump(3, bump), bump / bump.norm())
    for side in (1, 2, 7, 8):
        assert parts._bump(side, bump).norm() == pytest.approx(1)


def test_mass_moves_within_its_channel_and_what_the_box_took_is_spent():
    x = torch.full((40, 2, 9, 7), 0.5)
    delta = 0.01 * torch.randn(x.shape, generator=keyed())
    energy = delta.square().sum((2, 3))
    length = energy.sum(1).sqrt()
    for unused in (0.0, 0.09):
        ball = parts.make_ball("l2", x, (length.square() + unused).sqrt())
        moved = parts._shift_mass(ball, x + delta, 3, keyed()) - x
        assert torch.allclose(moved.square().sum((2, 3)), energy + unused / 2, atol=1e-5)
        emptied = (moved == 0).flatten(2).sum(2)
        assert torch.all(emptied <= 9)
        assert emptied.float().mean() > 4
        assert ((moved - delta).abs() > 1e-6).flatten(2).sum(2).max() <= 18


def test_a_draw_that_changes_nothing_is_turned_round():
    x = torch.full((50, 1, 1, 1), 0.5)
    ball = parts.make_ball("linf", x, 0.1)
    current = ball.project_(x + 0.1)
    assert torch.equal(parts._recolour(ball, current, 1, keyed()), x - 0.1)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"norm": "l7"}, {"p_init": 0.0}, {"p_init": 1.5}, {"eps": torch.ones(3)}]
)
def test_wrong_arguments(wrong):
    x, y = image_batch(4)
    with pytest.raises(ValueError, match=r"must"):
        square(Linear(), x, y, **{"eps": 0.1, **wrong})
