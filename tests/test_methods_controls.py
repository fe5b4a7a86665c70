"""The controls: DPAAT's training with its radii taken from elsewhere."""

import pytest
import torch

from dpaat.attacks import pgd, pgd_graded
from dpaat.methods.controls import (
    ClassMeanRadius,
    MeanFast,
    MeanRadius,
    PermutedFast,
    PermutedRadius,
    UniformRadius,
    permute_within,
)
from dpaat.methods.dpaat import DPAAT, DPAATOptions
from dpaat.methods.dpaat_fast import DPAATFast, FastOptions
from method_makers import CLASSES, EPS, STEPS, Network, batch, close, cost, plain_loss, context, step

REASSIGNED = [MeanRadius, ClassMeanRadius, PermutedRadius]
SIZES = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]) * EPS


def make(method, *, collect: str = "clean", **changes):
    own = context(**changes)
    return method(own) if method is UniformRadius else method(own, DPAATOptions(collect=collect))


def radii_of(model: Network, x: torch.Tensor) -> torch.Tensor:
    return (model.shown[-1][-6:] - x).abs().amax((1, 2, 3))


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize(
    ("method", "expected"), [(UniformRadius, 2 * STEPS + 3), *((method, 4 * STEPS + 4) for method in REASSIGNED)]
)
def test_cost_of_a_step(method, expected, weight):
    model = Network()
    step(make(method, clean_weight=weight), model).loss.backward()
    assert cost(model) == expected + (3 if weight else 0)


@pytest.mark.parametrize("method", [UniformRadius, *REASSIGNED])
def test_the_objective_is_that_of_dpaat(method):
    model, (index, x, y) = Network(), batch()
    output = make(method, clean_weight=0.25)(model, index, x, y)
    assert torch.equal(model.shown[-1][:6], x)
    clean, adversarial = Network()(model.shown[-1]).chunk(2)
    expected = 0.75 * plain_loss(adversarial, y).mean() + 0.25 * plain_loss(clean, y).mean()
    assert torch.allclose(output.loss, expected)
    assert torch.allclose(output.logits, adversarial)
    assert int(model.layers[1].num_batches_tracked) == 1


def test_uniform_radii_are_drawn_anew():
    model, (index, x, y) = Network(), batch()
    made = make(UniformRadius)
    drawn = []
    for _ in range(50):
        made(model, index, x, y)
        drawn.append(radii_of(model, x))
    radii = torch.stack(drawn)
    assert torch.all(radii <= EPS + 1e-6)
    assert radii.unique().numel() > 290
    assert torch.allclose(radii.flatten().sort().values, torch.linspace(0, EPS, 300), atol=0.1 * EPS)
    assert not made.state_dict()


@pytest.mark.parametrize(
    ("method", "shares"), [(MeanRadius, [0.5] * 6), (ClassMeanRadius, [0.3, 0.5, 0.7, 0.3, 0.5, 0.7])]
)
def test_mean_radii_by_hand(method, shares):
    model, (index, x, y) = Network(), batch()
    made = make(method)
    made.perturbation.eps.copy_(SIZES)
    made(model, index, x, y)
    assert close(radii_of(model, x) / EPS, shares, 1e-4)


def test_permuted_radii_are_those_of_the_partner():
    model, (index, x, y) = Network(), batch()
    made = make(PermutedRadius)
    made.perturbation.eps.copy_(SIZES)
    seen = []
    for epoch in range(8):
        made.begin_epoch(epoch)
        made(model, index, x, y)
        radii = radii_of(model, x)
        assert close(radii / EPS, (SIZES[made.partner] / EPS).tolist(), 1e-4)
        seen.append(tuple(made.partner.tolist()))
    assert len(set(seen)) > 1, "drawn anew"
    resumed = make(PermutedRadius)
    resumed.begin_epoch(7)
    assert tuple(resumed.partner.tolist()) == seen[-1], "what a resumed run draws"


@pytest.mark.parametrize("method", [MeanFast, PermutedFast])
def test_radii_of_the_fast_recipe(method):
    options, (index, x, y) = FastOptions(graded=1.0), batch()
    made, ours = (each(context(clean_weight=0.5), options) for each in (method, DPAATFast))
    epochs = []
    for epoch in range(6):
        visits = []
        for each in (made, ours):
            model = Network()
            each.perturbation.eps.copy_(SIZES)
            each.begin_epoch(epoch)
            visits.append(each(model, index, x, y))
            if each is made:
                turn = made.is_adversarial(index)
                given = SIZES.mean().expand(6) if method is MeanFast else SIZES[made.partner]
                assert close(radii_of(model, x) / EPS, (given * turn / EPS).tolist(), 1e-4)
                epochs.append(tuple(given.tolist()))
        reassigned, own = visits
        rows = turn & (SIZES > 0)
        assert torch.allclose(reassigned.rows["tracked_loss"][rows], own.rows["tracked_loss"][rows], atol=1e-5), (
            "clean losses, in eval mode"
        )
        judge = Network().eval()
        steps = (STEPS * SIZES[rows] / EPS).ceil().int()
        at_own, _ = pgd_graded(judge, x[rows], y[rows], eps=SIZES[rows], steps=steps)
        assert torch.allclose(reassigned.rows["adv_loss"][rows], plain_loss(judge(at_own), y[rows]), atol=1e-5)
    assert len(set(epochs)) == 1 if method is MeanFast else len(set(epochs)) > 1


def test_permutations_within_classes():
    labels = torch.tensor([2, 0, 2, 1, 2, 0])
    generator = torch.Generator().manual_seed(0)
    drawn = [permute_within(labels, generator) for _ in range(600)]
    for partner in drawn[:20]:
        assert torch.equal(partner.sort().values, torch.arange(6))
        assert torch.equal(labels[partner], labels)
    kinds, counts = torch.unique(torch.stack(drawn), dim=0, return_counts=True)
    assert len(kinds) == 12, "3! of class 2 times 2! of class 0"
    assert counts.min() > 25


@pytest.mark.parametrize("collect", ["clean", "adversarial"])
@pytest.mark.parametrize("method", REASSIGNED)
def test_the_state_sees_losses_at_the_own_sizes(method, collect):
    model, (index, x, y) = Network(), batch()
    made = make(method, collect=collect, clean_weight=0.5)
    made.perturbation.eps.copy_(SIZES)
    output = made(model, index, x, y)
    judge = Network().eval()
    at_own = pgd(judge, x, y, eps=SIZES, steps=STEPS)
    assert torch.allclose(output.rows["adv_loss"], plain_loss(judge(at_own), y), atol=1e-5)
    if collect == "clean":
        assert torch.allclose(output.rows["tracked_loss"], plain_loss(judge(x), y), atol=1e-5)
    else:
        assert output.rows["tracked_loss"] is None


@pytest.mark.parametrize("method", REASSIGNED)
def test_the_state_is_that_of_dpaat(method):
    made, ours = make(method), make(DPAAT)
    assert made.state_dict().keys() == ours.state_dict().keys()
    start = made.perturbation.eps.clone()
    for _ in range(2):
        step(made)
    assert torch.all(made.perturbation.eps != start)
    assert len(made.perturbation.criterion) == CLASSES
