"""Attacks against a linear model, whose worst case inside a ball is known in closed form."""

import math
from functools import partial
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from attack_makers import SHAPE, Linear, closed_form_linf, image_batch
from dpaat.attacks import (
    ATTACKS,
    apgd,
    apgd_targeted,
    fgsm,
    find_attack,
    gaussian_noise,
    pgd,
    pgd_graded,
    pgd_restarts,
    pgd_with_clean_logits,
    square,
)
from dpaat.attacks.losses import margin
from dpaat.errors import UserError

ATTACK_CASES = [
    (fgsm, {}),
    (pgd, {"steps": 7}),
    (pgd, {"steps": 7, "start": "random"}),
    (apgd, {"steps": 7, "start": "zero", "loss": margin}),
    (apgd, {"steps": 20, "loss": "dlr", "start": "random"}),
    (apgd_targeted, {"steps": 20, "start": "random"}),
    (pgd_restarts, {"steps": 7, "restarts": 2}),
]
FROM_ZERO = [(fgsm, {}), (pgd, {"steps": 7}), (apgd, {"steps": 7, "start": "zero", "loss": margin})]
NAMES_AND_NORMS = [(name, norm) for name in sorted(ATTACKS) for norm in ATTACKS[name].norms]


def radii(kind: str, batch: int, norm: str) -> float | Tensor:
    return {
        "zero": 0.0,
        "scalar": 0.05,
        "mixed": torch.linspace(0, 0.2, batch),
        "huge": torch.full((batch,), 1.0 if norm == "linf" else math.sqrt(math.prod(SHAPE))),
    }[kind]


@pytest.mark.parametrize(("attack", "options"), ATTACK_CASES)
@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("kind", ["zero", "scalar", "mixed", "huge"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_exact_radius_and_optimum_on_a_linear_model(norm, kind, batch, attack, options):
    model = Linear()
    x, y = image_batch(batch)
    eps = radii(kind, batch, norm)
    x_adv = attack(model, x, y, eps=eps, norm=norm, generator=torch.Generator().manual_seed(1), **options)
    eps_each = eps if isinstance(eps, Tensor) else torch.full((batch,), eps)

    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    delta = (x_adv - x).flatten(1)
    weight = model.weight.detach()
    if norm == "linf":
        assert torch.allclose(x_adv, closed_form_linf(x, y, eps_each, weight), atol=1e-6)
    else:
        assert torch.all(delta.norm(dim=1) <= eps_each + 1e-6)
        unit = -weight / weight.norm() * (1 - 2 * y.float())[:, None]
        inside = (x.flatten(1) + eps_each[:, None] * unit).clamp(0, 1) == x.flatten(1) + eps_each[:, None] * unit
        free = inside.all(dim=1)
        expected = eps_each[:, None] * unit
        tolerance = 1e-6 if (attack, options) in FROM_ZERO else 0.02
        assert torch.allclose(delta[free], expected[free], atol=tolerance)
    if kind == "zero":
        assert torch.equal(x_adv, x)
    if kind == "huge" and norm == "linf":
        assert set(x_adv.unique().tolist()) <= {0.0, 1.0}


def call(name: str, model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 5, **options) -> Tensor:
    """The call that fits every attack of the registry."""
    info = ATTACKS[name]
    if info.steps:
        options["steps"] = steps
    if info.starts:
        options["start"] = "random"
    if info.needs_source:
        options["source"] = model
    return info.function(model, x, y, **options)


@pytest.mark.parametrize(("name", "norm"), NAMES_AND_NORMS)
@pytest.mark.parametrize("shape", [(1, 4, 7), (3, 6, 2)])
def test_every_attack_stays_in_ball_and_box_and_is_keyed(name, norm, shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.rand(12, *shape).mul(1.4).sub(0.2).clamp(0, 1)
    y, eps = model(x).argmax(1), torch.arange(12) / (40 if norm == "linf" else 10)

    def attacked(seed: int) -> Tensor:
        return call(name, model, x, y, eps=eps, norm=norm, generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    with torch.no_grad():
        x_adv = attacked(0)
    delta = (x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert torch.all((x_adv >= 0) & (x_adv <= 1))
    assert torch.all(size <= eps + 1e-6)
    assert torch.equal(x_adv[0], x[0])
    assert (size > 0).sum() >= (3 if ATTACKS[name].minimal else 11)
    assert torch.equal(attacked(0), x_adv)
    assert torch.equal(attacked(1), x_adv) == ATTACKS[name].minimal
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "norm"), NAMES_AND_NORMS)
@pytest.mark.parametrize("classes", [2, 5])
def test_cost_is_as_stated_where_nothing_falls(name, norm, classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), classes))
    nn.init.constant_(model[1].bias[0], 1e3)
    cost = []

    def count(_module: nn.Module, _images: object, logits: Tensor) -> None:
        cost.append(len(logits))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: cost.append(len(gradient)))

    model.register_forward_hook(count)
    x, _ = image_batch(3)
    call(name, model, x, torch.zeros(3, dtype=torch.long), eps=0.1, norm=norm, steps=4)
    assert sum(cost) == 3 * ATTACKS[name].cost.passes(4, classes)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_is_gaussian_before_ball_and_box(norm):
    x = torch.full((4, 1, 50, 50), 0.5)
    delta = gaussian_noise(Linear(), x, torch.zeros(4), eps=0.1, norm=norm).sub(0.5).flatten(1)
    if norm == "linf":
        assert (delta.abs() > 0.1 - 1e-6).float().mean() == pytest.approx(0.317, abs=0.02)
        inner = delta[delta.abs() < 0.1 - 1e-6]
        assert inner.square().mean().sqrt() == pytest.approx(0.1 * 0.5396, rel=0.03)
    else:
        assert torch.allclose(delta.norm(dim=1), torch.tensor(0.1))
        assert (delta / 0.1 * 50).pow(4).mean() == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_per_sample_radii_equal_one_call_per_sample(norm):
    model = Linear()
    x, y = image_batch(4)
    eps = torch.tensor([0.0, 0.01, 0.1, 0.3])
    together = pgd(model, x, y, eps=eps, norm=norm, steps=5)
    alone = [pgd(model, x[i : i + 1], y[i : i + 1], eps=float(eps[i]), norm=norm, steps=5) for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_is_inside_the_ball_and_keyed(norm):
    model, (x, y) = Linear(), image_batch(6)
    eps = torch.linspace(0, 0.2, 6)

    def start(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return pgd(model, x, y, eps=eps, steps=1, step_size=0.0, norm=norm, start="random", generator=generator)

    delta = (start(3) - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert torch.all(size <= eps + 1e-6)
    assert torch.all(size[1:] > 0.3 * eps[1:])
    assert torch.equal(start(3), start(3))
    assert not torch.equal(start(3), start(4))


def make_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 3 * 2, 2)
    )
    network.train()
    network[1].eval()  # a layer frozen on purpose must stay frozen
    return network


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_model_is_left_as_found(name):
    network = make_network()
    network[0].weight.grad = torch.ones_like(network[0].weight)
    network[5].bias.requires_grad_(False)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    x, y = image_batch(8)
    call(name, network, x, y, eps=0.1)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert torch.equal(network[0].weight.grad, torch.ones_like(network[0].weight))
    assert network[5].weight.grad is None
    assert [p.requires_grad for p in network.parameters()] == [True] * 5 + [False]


def test_mode_comes_back_after_an_error():
    network = make_network()
    with pytest.raises(RuntimeError):
        pgd(network, torch.rand(2, 5, 5, 5), torch.zeros(2, dtype=torch.long), eps=0.1)
    assert network[0].training
    assert not network[1].training


def test_works_under_no_grad_and_inference_free_autocast():
    network, (x, y) = make_network(), image_batch(4)
    plain = pgd(network, x, y, eps=0.1, steps=3)
    with torch.no_grad():
        assert torch.equal(pgd(network, x, y, eps=0.1, steps=3), plain)
    with torch.autocast("cpu", torch.bfloat16):
        low = pgd(network, x, y, eps=0.1, steps=3)
    assert low.dtype == torch.float32
    assert (low - x).abs().max() <= 0.1 + 1e-6


def test_zero_start_hands_back_the_clean_logits():
    network, (x, y) = make_network(), image_batch(4)
    x_adv, logits = pgd_with_clean_logits(network, x, y, eps=0.1, steps=2)
    assert torch.equal(x_adv, pgd(network, x, y, eps=0.1, steps=2))
    assert torch.equal(logits, network.eval()(x).detach())
    assert torch.equal(x_adv, pgd_with_clean_logits(network, x, y, eps=0.1, steps=2, start="zero")[0])
    with pytest.raises(UserError, match="start must be 'zero', not 'random'"):
        pgd_with_clean_logits(network, x, y, eps=0.1, steps=2, start="random")


@pytest.mark.parametrize("granule", [1, 2, 16])
def test_graded_steps_are_those_of_each_sample_alone(granule, monkeypatch):
    monkeypatch.setattr(import_module("dpaat.attacks.pgd"), "GRANULE", granule)
    network, (x, y) = make_network(), image_batch(4)
    eps, steps = torch.tensor([0.02, 0.1, 0.05, 0.1]), torch.tensor([1, 3, 0, 2])
    x_adv, logits = pgd_graded(network, x, y, eps=eps, steps=steps)
    for i in (0, 1, 3):
        alone = pgd(network, x[i : i + 1], y[i : i + 1], eps=float(eps[i]), steps=int(steps[i]))
        torch.testing.assert_close(x_adv[i : i + 1], alone)
    assert torch.equal(x_adv[2], x[2])
    clean = network.eval()(x).detach()
    clean[2] = torch.nan
    torch.testing.assert_close(logits, clean, equal_nan=True)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_graded_steps_of_static_shapes_end_alike(norm):
    network, (x, y) = make_network(), image_batch(4)
    options = {"eps": torch.tensor([0.02, 0.1, 0.05, 0.1]), "steps": torch.tensor([1, 3, 0, 2]), "norm": norm}
    sizes = []
    network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for found, wanted in zip(
        pgd_graded(network, x, y, most=4, **options), pgd_graded(network, x, y, **options), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6, equal_nan=True)
    assert sizes[:4] == [4] * 4


def test_graded_attack_of_nobody_asks_nothing():
    x, y = image_batch(4)
    x_adv, logits = pgd_graded(nn.Identity(), x, y, eps=torch.zeros(4), steps=torch.zeros(4, dtype=torch.int32))
    assert torch.equal(x_adv, x)
    assert logits is None


def test_forward_passes_are_exactly_the_steps():
    network, (x, y) = make_network(), image_batch(4)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    pgd(network, x, y, eps=0.1, steps=6)
    assert len(calls) == 6


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"norm": "l7"}, {"start": "warm"}, {"eps": torch.zeros(3)}, {"eps": torch.zeros(4, 1)}]
)
def test_wrong_arguments(wrong):
    x, y = image_batch(4)
    with pytest.raises(ValueError, match=r"must|shape"):
        pgd(Linear(), x, y, **{"eps": 0.1, **wrong})


@pytest.mark.parametrize(("name", "norm"), NAMES_AND_NORMS)
def test_images_may_require_a_gradient_or_be_none(name, norm):
    network, (x, y) = make_network(), image_batch(4)
    options = {"eps": 0.1, "norm": norm}
    plain = call(name, network, x, y, **options, generator=torch.Generator().manual_seed(0))
    wanted = x.clone().requires_grad_()
    found = call(name, network, wanted, y, **options, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, plain)
    assert not found.requires_grad
    assert wanted.grad is None
    assert call(name, network, x[:0], y[:0], **options).shape == x[:0].shape


@pytest.mark.parametrize("name", sorted(ATTACKS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_refused(name, dtype):
    x, y = image_batch(4)
    with pytest.raises(UserError, match=rf"float32, not {dtype}: give float32 images and use torch.autocast"):
        call(name, Linear().to(dtype), x.to(dtype), y, eps=0.1)


@pytest.mark.parametrize("attack", [fgsm, pgd, pgd_with_clean_logits, pgd_restarts, apgd, square, "transfer"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_loss_over_the_whole_batch_is_refused(attack, batch):
    model, (x, y) = Linear(), image_batch(batch)
    named = partial(find_attack(attack).function, source=model) if isinstance(attack, str) else attack
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), lambda logits, y: logits):
        with pytest.raises(UserError, match=rf"^loss must give one value a sample \({batch},\).*reduction"):
            named(model, x, y, eps=0.1, loss=loss)
    named(model, x, y, eps=0.1, loss=nn.CrossEntropyLoss(reduction="none"))


def test_unknown_attack_names_the_nearest():
    with pytest.raises(UserError, match="unknown attack 'pdg'; nearest: pgd"):
        find_attack("pdg")
