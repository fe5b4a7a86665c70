"""The rules of the methods that give every sample a radius of its own."""

import math

import pytest
import torch

from dpaat.attacks import pgd
from dpaat.attacks.losses import log_odds
from dpaat.methods.base import bisect
from dpaat.methods.baselines.amat import AMAT
from dpaat.methods.baselines.cat import CAT, random_labels, soft_label_excess
from dpaat.methods.baselines.iaat import IAAT, instance_radius
from dpaat.methods.baselines.ima import AME, IMA
from dpaat.methods.baselines.mma import MMA, margin_along
from dpaat.methods.teacher import SelfTeacher
from dpaat.sample_state import EpochRadii, SampleRadii
from method_makers import (
    CLASSES,
    EPS,
    STEPS,
    Network,
    OnePixel,
    assert_clean_images_are_mixed_in,
    batch,
    close,
    context,
    cost,
    ninefold_loss,
    pixels,
    plain_loss,
    step,
    two_classes,
)

METHODS = [IAAT, CAT, MMA, IMA, AME, AMAT]
MIXING = [IAAT, CAT]
MARGINS = [MMA, IMA, AME, AMAT]


def make(method, *, epoch: int = 9, own_context=None, options: dict[str, object] | None = None, **changes):
    made = method(own_context or context(**changes), **(options or {}))
    if method is AMAT and epoch == 9:
        made.perturbation.criterion.fill_(1.0)
    made.begin_epoch(epoch)
    return made


# --- what all have in common


@pytest.mark.parametrize(
    ("method", "epoch", "expected"),
    [
        (IAAT, 0, 2 * STEPS + 3),
        (IAAT, 9, 6 * STEPS + 5),
        (CAT, 9, 2 * STEPS + 3),
        (MMA, 9, 2 * STEPS + 17),
        (IMA, 9, 2 * STEPS + 17),
        (AME, 9, 2 * STEPS + 17),
        (AMAT, 0, 3),
        (AMAT, 9, 2 * STEPS + 17),
    ],
)
def test_cost_of_a_step(method, epoch, expected):
    model = Network()
    step(make(method, epoch=epoch), model).loss.backward()
    assert cost(model) == expected


@pytest.mark.parametrize("method", MIXING)
def test_a_clean_weight_costs_three_passes_more(method):
    model = Network()
    step(make(method, clean_weight=0.5), model).loss.backward()
    assert cost(model) == {IAAT: 6 * STEPS + 8, CAT: 2 * STEPS + 6}[method]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_leaves_nothing_but_loss_and_radii(method, norm):
    model, (index, x, y) = Network(), batch()
    made, before = make(method, norm=norm), x.clone()
    for output in (step(made, model, (index, x, y)), step(made, model, (index, x, y))):
        assert output.logits.shape == (6, CLASSES)
        assert output.rows["eps"].shape == output.rows["loss"].shape == (6,)
        assert not any(values.requires_grad for values in (output.logits, output.rows["eps"], output.rows["loss"]))
        assert torch.allclose(output.rows["loss"], plain_loss(output.logits, y))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert int(model.layers[1].num_batches_tracked) == 2, "attack and search must not move BatchNorm's statistics"
    assert torch.equal(x, before)
    eps = made.perturbation.eps
    assert torch.all((eps >= 0) & (eps <= EPS + 1e-7))
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.ndim > 1)


@pytest.mark.parametrize(("norm", "order", "eps"), [("linf", torch.inf, 0.2), ("l2", 2, 3.0)])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_learned_lies_in_ball_and_box(method, norm, order, eps):
    model, (index, x, y) = Network(confidence=20), batch()
    made = make(method, norm=norm, eps=eps, options={"smoothing": 0.0} if method is CAT else {})
    made.perturbation.eps.fill_(eps)
    made(model, index, x, y)
    x_adv = model.shown[-1][-6:]
    distance = torch.linalg.vector_norm((x_adv - x).flatten(1), ord=order, dim=1)
    assert distance.max() > 0.01 * eps
    assert distance.max() <= eps + 1e-5
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_radii_are_saved_with_the_model(method):
    made = make(method)
    step(made)
    twin = make(method)
    twin.load_state_dict(made.state_dict())
    for one in (made, twin):
        one.begin_epoch(9)
    again, expected = step(twin), step(made)
    assert torch.equal(again.rows["eps"], expected.rows["eps"])
    assert torch.equal(twin.perturbation.visits, torch.full((6,), 2, dtype=torch.uint8))


@pytest.mark.parametrize("method", MIXING)
def test_clean_images_are_mixed_in(method):
    options = {"smoothing": 0.0} if method is CAT else {}
    assert_clean_images_are_mixed_in(make(method, options=options, clean_weight=0.25, learn_loss=ninefold_loss))


@pytest.mark.parametrize("method", MARGINS)
def test_methods_that_mix_by_themselves_take_no_clean_weight(method):
    with pytest.raises(ValueError, match=r"takes no clean weight, so not 0\.5; its balance is options.beta"):
        make(method, clean_weight=0.5)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        (IAAT, "gamma", 0.0),
        (IAAT, "beta", 0.0),
        (IAAT, "warmup", math.nan),
        (CAT, "increment", 0.0),
        (CAT, "smoothing", -1.0),
        (CAT, "smoothing", 40.0),
        (MMA, "beta", -0.1),
        (MMA, "beta", 1.1),
        (MMA, "least", 0.0),
        (IMA, "beta", math.nan),
        (IMA, "increment", 0.0),
        (AME, "increment", 1.5),
        (AMAT, "warmup", -0.1),
    ],
)
def test_options_out_of_range_are_named(method, option, value):
    with pytest.raises(ValueError, match=option):
        make(method, options={option: value})


# --- the radii


def test_radii_are_recorded_once_and_only_where_finite():
    radii = SampleRadii(5, eps=0.1)
    index = torch.tensor([3, 0, 3, 1, 2])
    radii.record(index, torch.tensor([0.3, 0.2, 0.9, math.nan, 0.4]), torch.tensor([1.0, 2.0, 9.0, 3.0, math.inf]))
    assert close(radii.eps, [0.2, 0.1, 0.1, 0.3, 0.1])
    assert close(radii.loss, [2.0, 0.0, 0.0, 1.0, 0.0])
    assert radii.visits.tolist() == [1, 0, 0, 1, 0]
    assert radii.criterion.isnan().tolist() == [True]


def test_radii_of_an_epoch_take_effect_in_the_next():
    radii = EpochRadii(2, eps=0.1)
    for eps in (0.3, 0.2):
        radii.record(torch.tensor([1]), torch.tensor([eps]), torch.tensor([1.0]))
        assert close(radii.eps, [0.1, 0.1])
    resumed = EpochRadii(2)
    resumed.load_state_dict(radii.state_dict())
    for one in (radii, resumed):
        one.begin_epoch()
        one.begin_epoch()
        assert close(one.eps, [0.1, 0.2])


def test_bisection_by_hand():
    border = torch.tensor([0.3, 0.0, 0.9])
    near, far = bisect(lambda value: value > border, torch.tensor([1.0, 1.0, 0.5]))
    assert torch.all(near[:2] <= border[:2])
    assert torch.all(far[:2] > border[:2])
    assert close(far - near, [2**-10, 2**-10, 2**-11], 1e-7)
    assert near[2] > 0.499


# --- IAAT


def test_instance_radius_by_hand():
    yes, no = True, False
    cases = [
        # correct, at eps, beyond -> eps'
        (yes, yes, yes, 0.3),
        (yes, no, yes, 0.3),
        (yes, yes, no, 0.2),
        (yes, no, no, 0.1),
        (no, yes, yes, 0.0),
    ]
    correct, robust, beyond = (torch.tensor([case[k] for case in cases]) for k in range(3))
    found = instance_radius(torch.full((5,), 0.2), correct, robust, beyond, gamma=0.1, beta=0.25)
    assert close(found, [0.15 + 0.25 * case[3] for case in cases])
    lowest = instance_radius(torch.full((5,), 0.02), correct, robust, beyond, gamma=0.1, beta=1.0)
    assert close(lowest, [0.12, 0.12, 0.02, 0.0, 0.0])


def test_iaat_step_by_hand():
    # Right up to 0.65. From 0.3: withstands 0.2 and 0.3; 0.5 but not 0.7; not 0.4. From 0.7: wrong.
    data = pixels(0.3, 0.1, 0.3, 0.7)
    made = make(IAAT, own_context=two_classes(4), options={"gamma": 0.1, "beta": 0.5})
    made.perturbation.eps.copy_(torch.tensor([0.2, 0.5, 0.4, 0.4]))
    model = Recorded(0.65)
    output = step(made, model, data)
    expected = [0.25, 0.5, 0.35, 0.2]
    assert close(made.perturbation.eps, expected)
    assert close(model.last, [0.55, 0.6, 0.65, 0.9]), "learned at the new radii"
    assert close(output.rows["loss"], [math.log1p(math.exp(pixel - 0.65)) for pixel in (0.55, 0.6, 0.65, 0.9)])


@pytest.mark.parametrize(("adv_start", "first", "last"), [(0.0, 0, 0), (0.5, 10, 10), (0.95, 19, 19)])
def test_iaat_warms_up_when_the_attacks_begin(adv_start, first, last):
    made = IAAT(context(epochs=20, adv_start=adv_start))
    warm = []
    for epoch in range(first, 20):
        made.begin_epoch(epoch)
        warm += [epoch] * made.warming
    assert (warm[0], warm[-1]) == (first, last)


def test_iaat_never_passes_the_radius_of_the_run():
    made = make(IAAT, own_context=two_classes(1), options={"gamma": 0.1, "beta": 0.5})
    made.perturbation.eps.fill_(0.48)
    step(made, OnePixel(0.9), pixels(0.0))
    assert close(made.perturbation.eps, [0.5])


def test_iaat_warms_up_with_all_or_nothing():
    made = make(IAAT, own_context=two_classes(2), epoch=0, options={"warmup": 0.2})
    model = Recorded(0.65)
    step(made, model, pixels(0.3, 0.7))
    assert close(made.perturbation.eps, [0.5, 0.0])
    assert close(model.last, [0.8, 0.7])
    made.begin_epoch(1)
    assert made.warming
    made.begin_epoch(2)
    assert not made.warming


class Recorded(OnePixel):
    """Remembers the last images that it was shown."""

    def forward(self, x):
        self.last = x.detach().clone()
        return super().forward(x)


# --- CAT


def test_cat_radii_by_hand():
    # Right up to 0.65 in the training pass, which comes after growth by 0.1.
    made = make(CAT, own_context=two_classes(3), options={"increment": 0.1, "smoothing": 0.0})
    model = Recorded(0.65)
    data = pixels(0.3, 0.1, 0.7)
    for expected, learned in (
        ([0.1, 0.1, 0.0], [0.4, 0.2, 0.8]),
        ([0.2, 0.2, 0.0], [0.5, 0.3, 0.8]),
        ([0.3, 0.3, 0.0], [0.6, 0.4, 0.8]),
        ([0.3, 0.4, 0.0], [0.7, 0.5, 0.8]),
        ([0.3, 0.5, 0.0], [0.7, 0.6, 0.8]),
        ([0.3, 0.5, 0.0], [0.7, 0.6, 0.8]),
    ):
        step(made, model, data)
        assert close(made.perturbation.eps, expected)
        assert close(model.last, learned)


def test_soft_label_excess_by_hand():
    logits, y = torch.tensor([[0.0, math.log(3), 0.0]]), torch.tensor([1])
    noise, share = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0.2])
    losses = [math.log(5), math.log(5 / 3), math.log(5)]
    mixed = 0.8 * losses[1] + 0.2 * (0.5 * losses[0] + 0.25 * losses[1] + 0.25 * losses[2])
    assert close(soft_label_excess(plain_loss, logits, y, noise, share), [mixed - losses[1]])
    soft = 0.8 * torch.tensor([[0.0, 1.0, 0.0]]) + 0.2 * noise
    assert mixed == pytest.approx(float(-(soft * logits.log_softmax(1)).sum()))


def test_cat_softens_labels_with_the_radius():
    index, x, y = batch()
    made = make(CAT, options={"smoothing": 20.0})
    before = torch.linspace(0, EPS, 6)
    made.perturbation.eps.copy_(before)
    torch.manual_seed(5)
    model = Network()
    torch.manual_seed(5)
    output = made(model, index, x, y)
    torch.manual_seed(5)
    noise = random_labels(torch.zeros(6, CLASSES))
    trial = (before + 0.005).clamp(max=EPS)
    x_adv = pgd(Network(), x, y, eps=trial, steps=STEPS)
    logits = Network()(x_adv)
    eps = torch.where(logits.argmax(1) == y, trial, before)
    assert 0 < (eps == before).sum() < 6
    share = (20 * eps)[:, None]
    soft = (1 - share) * torch.eye(CLASSES)[y] + share * noise
    assert torch.allclose(output.loss, -(soft * logits.log_softmax(1)).sum(1).mean(), rtol=1e-5)
    assert torch.allclose(output.rows["eps"], eps)


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("clean_weight", [0.0, 0.25])
def test_cat_softens_a_label_as_far_as_it_is_learned_beside_a_teacher(weight, clean_weight):
    index, x, y = batch()
    teacher = SelfTeacher(Network(confidence=3.0), weight) if weight else None
    made = make(CAT, own_context=context(teacher=teacher, clean_weight=clean_weight), options={"smoothing": 20.0})
    made.perturbation.eps.fill_(EPS)
    model = Network()
    torch.manual_seed(5)
    output = made(model, index, x, y)
    x_adv = pgd(Network(), x, y, eps=torch.full((6,), EPS), steps=STEPS)
    logits = Network()(torch.cat([x, x_adv]) if clean_weight else x_adv)
    torch.manual_seed(5)
    noise, share = random_labels(torch.zeros(6, CLASSES)), 20 * EPS
    soft = (1 - share) * torch.eye(CLASSES)[y] + share * noise
    loss = -(soft * logits[-6:].log_softmax(1)).sum(1)
    if teacher is not None:
        loss = (1 - weight) * loss + weight * teacher.divergence(logits[-6:], x, y)
    loss = (1 - clean_weight) * loss + (clean_weight * plain_loss(logits[:6], y) if clean_weight else 0)
    assert torch.allclose(output.loss, loss.mean(), rtol=1e-5)


def test_cat_noise_is_uniform_on_the_simplex():
    torch.manual_seed(0)
    noise = random_labels(torch.zeros(20_000, 3))
    assert torch.allclose(noise.sum(1), torch.ones(20_000))
    first = noise[:, 0].sort().values
    expected = 1 - (1 - torch.linspace(0, 1, 20_000)).sqrt()  # quantiles of Beta(1, 2)
    assert torch.allclose(first, expected, atol=0.03)


# --- MMA


def test_soft_margin_by_hand():
    logits = torch.tensor([[2.0, 1.0, 5.0], [2.0, 1.0, 5.0]]).log()
    assert close(log_odds(logits, torch.tensor([0, 2])), [math.log(3), math.log(3 / 5)])


def test_margin_along_a_direction_by_hand():
    _, x, y = pixels(0.3, 0.0, 0.7)
    found = margin_along(OnePixel(0.65), x, y, torch.ones_like(x), 0.5)
    assert close(found, [0.35, 0.5, 0.0], 0.5 / 1024)
    assert found[1] == 0.5


def test_mma_step_by_hand():
    # Margins 0.35, beyond 0.5, and none since wrong; the attack's radius only gives the direction.
    made = make(MMA, own_context=two_classes(3), options={"beta": 0.75})
    made.perturbation.eps.copy_(torch.tensor([0.0, 0.2, 0.2]))
    model = Recorded(0.65)
    output = step(made, model, pixels(0.3, 0.0, 0.7))
    assert close(model.last, [0.3, 0.0, 0.7, 0.65, 0.5, 0.7], 0.5 / 1024)
    assert close(made.perturbation.eps, [0.35, 0.5, 0.2], 0.5 / 1024)
    loss = [math.log1p(math.exp(pixel - 0.65)) for pixel in (0.3, 0.0, 0.7, 0.65)]
    expected = (0.25 * (loss[0] + loss[1] + loss[2]) + 0.75 * (loss[3] + loss[2])) / 3
    assert float(output.loss) == pytest.approx(expected, abs=1e-3)


def test_mma_keeps_the_length_of_the_direction_in_both_norms():
    for norm, order in (("linf", torch.inf), ("l2", 2)):
        model, (index, x, y) = Network(confidence=20), batch()
        x = 0.3 + 0.4 * x  # no pixel meets the box
        output = make(MMA, norm=norm, eps=0.05)(model, index, x, y)
        clean, at_margin = model.shown[-1].chunk(2)
        distance = torch.linalg.vector_norm((at_margin - clean).flatten(1), ord=order, dim=1)
        moved = distance > 0
        assert 0 < moved.sum() < 6
        assert torch.allclose(distance[moved], output.rows["eps"][moved], atol=1e-5)


# --- IMA, AME, AMAT


def test_ima_step_by_hand():
    # Right up to 0.65. Radius 0.4: from 0.3 the boundary is met at 0.35, from 0.1 it is not, 0.7 is wrong.
    made = make(IMA, own_context=two_classes(4), options={"beta": 0.75, "increment": 0.4})
    assert close(made.perturbation.eps, [0.2] * 4)
    made.perturbation.eps.copy_(torch.tensor([0.4, 0.2, 0.4, 0.4]))
    made.perturbation.upcoming.copy_(made.perturbation.eps)
    model = Recorded(0.65)
    output = step(made, model, pixels(0.3, 0.1, 0.1, 0.7))
    assert close(model.last[4:], [0.65, 0.1, 0.1, 0.7], 0.4 / 1024)
    assert model.last[4] <= 0.65, "on the right side"
    assert close(made.perturbation.eps, [0.4, 0.2, 0.4, 0.4])
    made.begin_epoch(9)
    assert close(made.perturbation.eps, [0.375, 0.4, 0.5, 0.4], 1e-3)
    loss = [math.log1p(math.exp(pixel - 0.65)) for pixel in (0.3, 0.1, 0.1, 0.7, 0.65)]
    assert float(output.loss) == pytest.approx((0.25 * sum(loss[:4]) + 0.75 * loss[4]) / 4, abs=1e-3)


def test_ame_step_by_hand():
    made = make(AME, own_context=two_classes(3), options={"increment": 0.2})
    eps = torch.tensor([0.4, 0.2, 0.4])
    made.perturbation.eps.copy_(eps)
    output = step(made, OnePixel(0.65), pixels(0.3, 0.1, 0.7))
    slope = 1 / (1 + math.exp(0.65 - 0.1))
    assert close(output.rows["eps"], [0.35, 0.2 + 0.1 * 0.9**2 / (1 + slope), 0.4], 1e-3)


def test_amat_threshold_comes_from_the_clean_epochs():
    made = make(AMAT, own_context=two_classes(3, epochs=10), epoch=0, options={"z": 2.0, "warmup": 0.2})
    data = pixels(0.3, 0.1, 0.7)
    model = Recorded(0.65)
    for epoch in (0, 1):
        made.begin_epoch(epoch)
        output = step(made, model, (data[0][:2], data[1][:2], data[2][:2]))
        assert close(model.last, [0.3, 0.1])
        assert made.perturbation.criterion.isnan()
    loss = [math.log1p(math.exp(pixel - 0.65)) for pixel in (0.3, 0.1)]
    assert float(output.loss) == pytest.approx(sum(loss) / 2)
    made.begin_epoch(2)
    expected = sum(loss) / 2 + 2 * (loss[0] - loss[1]) / 2
    assert float(made.perturbation.criterion) == pytest.approx(expected), "of the samples visited"
    made.perturbation.loss.fill_(7.0)
    made.begin_epoch(3)
    assert float(made.perturbation.criterion) == pytest.approx(expected), "frozen"
    assert close(made.perturbation.eps, [0.05] * 3)


def test_amat_takes_an_epoch_for_its_threshold_where_attacks_begin_late():
    made = make(AMAT, own_context=two_classes(2, epochs=10, adv_start=0.5), epoch=5, options={"warmup": 0.2})
    assert made.warming, "the epochs before showed it nothing"
    step(made, OnePixel(0.65), pixels(0.3, 0.1))
    made.begin_epoch(6)
    assert not made.warming
    assert torch.isfinite(made.perturbation.criterion).all()


def test_amat_step_by_hand():
    # Below the threshold up to 0.5: met at 0.2 from 0.3; not met from 0.1, which grows; 0.6 is above it already.
    made = make(AMAT, own_context=two_classes(3), options={"beta": 0.75, "increment": 0.2})
    made.perturbation.criterion.fill_(math.log1p(math.exp(0.5 - 0.65)))
    made.perturbation.eps.fill_(0.3)
    model = Recorded(0.65)
    output = step(made, model, pixels(0.3, 0.1, 0.6))
    assert close(model.last[3:], [0.5, 0.1, 0.6], 0.3 / 1024)
    assert close(output.rows["eps"], [0.3, 0.4, 0.3])
    loss = [math.log1p(math.exp(pixel - 0.65)) for pixel in (0.3, 0.1, 0.6, 0.5)]
    assert float(output.loss) == pytest.approx((0.25 * sum(loss[:3]) + 0.75 * loss[3]) / 3, abs=1e-3)
