"""The rules of the methods for long-tailed data."""

import math

import pytest
import torch

from dpaat.attacks import pgd
from dpaat.methods.baselines.robustlt import RobustLT, class_radii
from dpaat.methods.baselines.taet import TAET, harl
from method_makers import CLASSES, EPS, STEPS, Network, batch, close, context, cost, ninefold_loss, plain_loss

METHODS = [TAET, RobustLT]


def make(method, *, epoch: int = 9, options: dict[str, object] | None = None, **changes):
    made = method(context(**changes), **(options or {}))
    made.begin_epoch(epoch)
    return made


# --- what both have in common


@pytest.mark.parametrize(
    ("method", "epoch", "weight", "expected"),
    [
        (TAET, 0, 0.0, 3),
        (TAET, 0, 0.5, 3),
        (TAET, 9, 0.0, 2 * STEPS + 3),
        (TAET, 9, 0.5, 2 * STEPS + 6),
        (RobustLT, 9, 0.0, 2 * STEPS + 3),
        (RobustLT, 9, 0.5, 2 * STEPS + 6),
    ],
)
def test_cost_of_a_step(method, epoch, weight, expected):
    model = Network()
    make(method, epoch=epoch, clean_weight=weight)(model, *batch()).loss.backward()
    assert cost(model) == expected


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_leaves_nothing_but_the_loss(method, norm):
    model, (index, x, y) = Network(), batch()
    made, before = make(method, norm=norm), x.clone()
    output = made(model, index, x, y)
    made.after_step(output)
    assert not made.state_dict()
    assert not output.rows
    assert torch.equal(output.index, index)
    assert not output.logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert int(model.layers[1].num_batches_tracked) == 1
    assert torch.equal(x, before)
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.ndim > 1)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        (TAET, "first_stage", 1.5),
        (TAET, "mean", -1.0),
        (TAET, "deviation", math.nan),
        (TAET, "emphasis", -1.0),
        (RobustLT, "share", 1.1),
        (RobustLT, "ramp", math.nan),
    ],
)
def test_options_out_of_range_are_named(method, option, value):
    with pytest.raises(ValueError, match=option):
        make(method, options={option: value})


# --- TAET


def test_harl_by_hand():
    loss, y = torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 0, 3])  # class means 2 and 4, two classes absent
    expected = {"mean": 3.0, "deviation": 1.0, "emphasis": (1 / 3) ** 2 + (2 / 3) ** 2}
    for name, value in expected.items():
        weights = dict.fromkeys(expected, 0.0) | {name: 0.1}
        assert float(harl(loss, y, 4, **weights)) == pytest.approx(0.1 * value)
    assert float(harl(loss, y, 4)) == pytest.approx(0.1 * sum(expected.values()))


def test_taet_first_learns_clean_images():
    model, (index, x, y) = Network(), batch()
    output = make(TAET, epoch=2, learn_loss=ninefold_loss)(model, index, x, y)
    assert torch.equal(model.shown[-1], x)
    assert torch.allclose(output.loss, ninefold_loss(Network()(x), y).mean())


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_taet_then_learns_equalized_adversarial_losses(weight):
    model, (index, x, y) = Network(), batch()
    output = make(TAET, epoch=3, clean_weight=weight, learn_loss=ninefold_loss)(model, index, x, y)
    x_adv = pgd(Network(), x, y, eps=EPS, steps=STEPS)
    logits = Network()(torch.cat([x, x_adv]) if weight else x_adv)
    expected = (1 - weight) * harl(ninefold_loss(logits[-6:], y), y, CLASSES)
    if weight:
        expected = expected + weight * harl(ninefold_loss(logits[:6], y), y, CLASSES)
    assert torch.allclose(output.loss, expected)
    assert torch.allclose(output.logits, logits[-6:])


# --- RobustLT


def test_class_radii_by_hand():
    counts = torch.tensor([80, 10, 10])
    root = math.sqrt(math.log(8))
    tau = 0.3 / (0.2 * root)
    found = class_radii(counts, 0.5, 0.3)
    assert close(found, [0.35, 0.5 * (0.7 + tau * root), 0.5 * (0.7 + tau * root)])
    assert float((found * counts).sum() / counts.sum()) == pytest.approx(0.5), "the mean over the images stays"


def test_class_radii_at_the_edges():
    assert close(class_radii(torch.tensor([7, 7]), 0.5, 0.3), [0.5, 0.5])
    assert close(class_radii(torch.tensor([80, 10, 10]), 0.5, 0.0), [0.5, 0.5, 0.5])
    with_empty = class_radii(torch.tensor([80, 10, 0]), 0.5, 0.3)
    assert torch.isfinite(with_empty).all()
    assert with_empty[2] > with_empty[1]


def test_robustlt_ramp():
    made = make(RobustLT, epochs=10)
    reached = []
    for epoch in (0, 4, 8, 9):
        made.begin_epoch(epoch)
        reached.append(made.reached)
    assert reached == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert make(RobustLT, epoch=0, options={"ramp": 0.0}).reached == 1.0


def test_robustlt_attacks_each_class_at_its_radius():
    model, (index, x, y) = Network(), batch()
    labels = torch.tensor([0] * 8 + [1] * 2 + [2])
    made = make(RobustLT, epoch=4, labels=labels)
    output = made(model, index, x, y)
    radii = class_radii(torch.tensor([8, 2, 1]), EPS, 0.3)
    distance = (model.shown[-1] - x).abs().amax((1, 2, 3))
    assert torch.allclose(distance, 0.5 * radii[y], atol=1e-6)
    assert radii[2] > radii[1] > EPS > radii[0]
    assert torch.allclose(output.loss, plain_loss(Network()(model.shown[-1]), y).mean())
