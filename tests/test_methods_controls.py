"""The controls: DPAAT's training at other radii than those of the images themselves."""

import pytest
import torch

from dpaat.attacks import pgd, pgd_graded
from dpaat.methods import build_method, find_method
from dpaat.methods.dpaat import PRESETS, permute_within
from method_makers import CLASSES, EPS, STEPS, Network, batch, close, context, cost, plain_loss, step

CONTROLS = ["mean", "class-mean", "permuted", "uniform"]
SIZES = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]) * EPS


def make(radius: str, name: str = "dpaat-half", *, options: dict[str, object] | None = None, **changes):
    return build_method(find_method(name), context(**changes), {"radius": radius, **(options or {})})


def radii_of(model: Network, x: torch.Tensor) -> torch.Tensor:
    return (model.shown[-1][-6:] - x).abs().amax((1, 2, 3))


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("radius", CONTROLS)
def test_cost_of_a_step(radius, weight):
    model = Network()
    step(make(radius, clean_weight=weight), model).loss.backward()
    assert cost(model) == 4 * STEPS + 4 + (3 if weight else 0)


@pytest.mark.parametrize("radius", CONTROLS)
def test_the_objective_is_that_of_dpaat(radius):
    model, (index, x, y) = Network(), batch()
    output = make(radius, clean_weight=0.25)(model, index, x, y)
    assert torch.equal(model.shown[-1][:6], x)
    clean, adversarial = Network()(model.shown[-1]).chunk(2)
    expected = 0.75 * plain_loss(adversarial, y).mean() + 0.25 * plain_loss(clean, y).mean()
    assert torch.allclose(output.loss, expected)
    assert torch.allclose(output.logits, adversarial)
    assert int(model.layers[1].num_batches_tracked) == 1


def test_uniform_radii_are_drawn_anew():
    model, (index, x, y) = Network(), batch()
    made = make("uniform")
    drawn = []
    for _ in range(50):
        made(model, index, x, y)
        drawn.append(radii_of(model, x))
    radii = torch.stack(drawn)
    assert torch.all(radii <= EPS + 1e-6)
    assert radii.unique().numel() > 290
    assert torch.allclose(radii.flatten().sort().values, torch.linspace(0, EPS, 300), atol=0.1 * EPS)


@pytest.mark.parametrize(("radius", "shares"), [("mean", [0.5] * 6), ("class-mean", [0.3, 0.5, 0.7, 0.3, 0.5, 0.7])])
def test_mean_radii_by_hand(radius, shares):
    model, (index, x, y) = Network(), batch()
    made = make(radius)
    made.perturbation.eps.copy_(SIZES)
    made(model, index, x, y)
    assert close(radii_of(model, x) / EPS, shares, 1e-4)


def test_permuted_radii_are_those_of_the_partner():
    model, (index, x, y) = Network(), batch()
    made = make("permuted")
    made.perturbation.eps.copy_(SIZES)
    seen = []
    for epoch in range(8):
        made.begin_epoch(epoch)
        made(model, index, x, y)
        radii = radii_of(model, x)
        given = made.radii(index)
        assert close(radii / EPS, (given / EPS).tolist(), 1e-4)
        assert torch.equal(given.reshape(2, 3).sort(0).values, SIZES.reshape(2, 3)), "another size of the class"
        seen.append(tuple(given.tolist()))
    assert len(set(seen)) > 1, "drawn anew"
    resumed = make("permuted")
    resumed.perturbation.eps.copy_(SIZES)
    resumed.begin_epoch(7)
    assert tuple(resumed.radii(index).tolist()) == seen[-1], "what a resumed run draws"


@pytest.mark.parametrize("radius", ["mean", "permuted"])
def test_radii_of_the_fast_recipe(radius):
    index, x, y = batch()
    options = {"steps_scale": 1.0}
    made, ours = (make(each, "dpaat-fast", options=options, clean_weight=0.5) for each in (radius, "own"))
    epochs = []
    for epoch in range(6):
        outputs = []
        for each in (made, ours):
            model = Network()
            each.perturbation.eps.copy_(SIZES)
            each.begin_epoch(epoch)
            outputs.append(each(model, index, x, y))
            if each is made:
                turn = made.is_adversarial(index)
                given = SIZES.mean().expand(6) if radius == "mean" else made.radii(index)
                assert close(radii_of(model, x) / EPS, (given * turn / EPS).tolist(), 1e-4)
                epochs.append(tuple(given.tolist()))
        reassigned, own = outputs
        rows = turn & (SIZES > 0)
        assert torch.allclose(reassigned.rows["tracked_loss"][rows], own.rows["tracked_loss"][rows], atol=1e-5), (
            "clean losses, in eval mode"
        )
        judge = Network().eval()
        steps = (STEPS * SIZES[rows] / EPS).ceil().int()
        at_own, _ = pgd_graded(judge, x[rows], y[rows], eps=SIZES[rows], steps=steps)
        assert torch.allclose(reassigned.rows["adv_loss"][rows], plain_loss(judge(at_own), y[rows]), atol=1e-5)
    assert len(set(epochs)) == 1 if radius == "mean" else len(set(epochs)) > 1


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


@pytest.mark.parametrize("track", ["clean", "adversarial"])
@pytest.mark.parametrize("radius", CONTROLS)
def test_the_state_sees_losses_at_the_own_sizes(radius, track):
    model, (index, x, y) = Network(), batch()
    made = make(radius, options={"track": track}, clean_weight=0.5)
    made.perturbation.eps.copy_(SIZES)
    output = made(model, index, x, y)
    judge = Network().eval()
    at_own = pgd(judge, x, y, eps=SIZES, steps=STEPS)
    assert torch.allclose(output.rows["adv_loss"], plain_loss(judge(at_own), y), atol=1e-5)
    if track == "clean":
        assert torch.allclose(output.rows["tracked_loss"], plain_loss(judge(x), y), atol=1e-5)
    else:
        assert "tracked_loss" not in output.rows


@pytest.mark.parametrize("radius", CONTROLS)
def test_the_state_is_that_of_dpaat(radius):
    made, ours = make(radius), make("own")
    assert made.state_dict().keys() == ours.state_dict().keys()
    start = made.perturbation.eps.clone()
    for _ in range(2):
        step(made)
    assert torch.all(made.perturbation.eps != start)
    assert len(made.perturbation.criterion) == CLASSES


@pytest.mark.parametrize("radius", CONTROLS)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_every_control(name, radius):
    info = find_method(name)
    made = make(radius, name, clean_weight=info.clean_weight)
    model, moved = Network(), 0
    start = made.perturbation.eps.clone()
    for epoch in range(10):
        made.begin_epoch(epoch)
        output = step(made, model)
        output.loss.backward()
        moved += int((made.perturbation.eps != start).sum())
    assert moved
    assert torch.all(made.perturbation.eps <= EPS)
