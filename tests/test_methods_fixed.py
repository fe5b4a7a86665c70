"""The rules of the methods that attack every sample at the same radius."""

import math

import pytest
import torch
from torch import Tensor, nn

from dpaat.attacks import pgd
from dpaat.attacks.norms import make_ball
from dpaat.methods.base import MethodContext
from dpaat.methods.baselines.dart import DART, stationarity
from dpaat.methods.baselines.fast import FGSMRS, NFGSM
from dpaat.methods.baselines.fat import FAT
from dpaat.methods.baselines.gairat import GAIRAT, geometry_weight
from dpaat.methods.baselines.mart import MART, margin_term
from dpaat.methods.baselines.pgd import PGDTraining
from dpaat.methods.baselines.trades import TRADES, kl_divergence
from method_makers import (
    CLASSES,
    EPS,
    STEPS,
    Network,
    assert_clean_images_are_mixed_in,
    batch,
    close,
    context,
    ninefold_loss,
    pixels,
    plain_loss,
)

METHODS = [FGSMRS, NFGSM, TRADES, MART, FAT, GAIRAT, DART]
TIED = [TRADES, MART]
MIXING = [method for method in METHODS if method not in TIED]


def make(method, *, epoch: int = 0, loss=plain_loss, norm: str = "linf", clean_weight: float = 0.0, **options):
    made = method(context(learn_loss=loss, norm=norm, clean_weight=clean_weight), **options)
    made.begin_epoch(epoch)
    return made


def far(method, model, x: Tensor, y: Tensor, *, eps: float, **state) -> Tensor:
    """What a method's attack of ten steps makes of images in a large ball, with attributes as given."""
    made = method(MethodContext(y, 2, 1, plain_loss, eps, 10, "linf", 0.0))
    vars(made).update(state)
    return made.attack(model, x, y)


class OnePixel(nn.Module):
    """Two classes; the logit of the second is a function of the only pixel, that of the first is 0."""

    def __init__(self, second) -> None:
        super().__init__()
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(pixel), self.second(pixel)], dim=1)


# --- what all have in common


@pytest.mark.parametrize(
    ("method", "forwards", "backwards"),
    [
        (FGSMRS, [6, 6], [6, 6]),
        (NFGSM, [6, 6], [6, 6]),
        (TRADES, [6, 6, 6, 6, 12], [6, 6, 6, 12]),
        (MART, [6, 6, 6, 12], [6, 6, 6, 12]),
        (FAT, [6, 6, 6, 6], [6, 6, 6, 6]),
        (GAIRAT, [6, 6, 6, 6], [6, 6, 6, 6]),
        (DART, [6, 6, 6, 6], [6, 6, 6, 6]),
    ],
)
def test_passes_of_a_step(method, forwards, backwards):
    model = Network()
    make(method)(model, *batch()).loss.backward()
    assert [len(x) for x in model.shown] == forwards
    assert model.backwards == backwards


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_leaves_nothing_but_the_loss(method, norm):
    model, (index, x, y) = Network(), batch()
    made, before = make(method, epoch=9, norm=norm), x.clone()
    output = made(model, index, x, y)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert int(model.layers[1].num_batches_tracked) == 1, "the attack must not move BatchNorm's statistics"
    assert torch.equal(x, before)
    assert not made.state_dict()
    assert output.logits.shape == (6, CLASSES)
    assert not output.logits.requires_grad
    assert torch.equal(output.index, index)
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.ndim > 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_learned_lies_in_ball_and_box(method, norm):
    model, (index, x, y) = Network(), batch()
    make(method, epoch=9, norm=norm)(model, index, x, y)
    x_adv = model.shown[-1][-6:]
    order = torch.inf if norm == "linf" else 2
    radius = 3 * EPS if method is NFGSM else EPS
    distance = torch.linalg.vector_norm((x_adv - x).flatten(1), ord=order, dim=1)
    assert torch.all(distance > 0.5 * EPS)
    assert torch.all(distance <= radius + 1e-6)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_unknown_norm_is_refused(method):
    with pytest.raises(ValueError, match="norm must be one of"):
        make(method, norm="l1")(Network(), *batch())


@pytest.mark.parametrize("method", MIXING)
def test_clean_images_are_mixed_in(method):
    assert_clean_images_are_mixed_in(make(method, clean_weight=0.25, loss=ninefold_loss))


@pytest.mark.parametrize("method", TIED)
def test_tied_views_take_no_clean_weight(method):
    with pytest.raises(ValueError, match=r"takes no clean weight, so not 0\.5"):
        make(method, clean_weight=0.5)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        (NFGSM, "noise", -1.0),
        (TRADES, "beta", -1.0),
        (MART, "beta", math.nan),
        (FAT, "first_rise", 1.5),
        (FAT, "second_rise", math.nan),
        (GAIRAT, "start", -0.5),
        (DART, "c_max", -1.0),
        (DART, "ramp", 0.0),
    ],
)
def test_options_out_of_range_are_named(method, option, value):
    with pytest.raises(ValueError, match=option):
        make(method, **{option: value})


# --- single-step methods


def test_fgsm_rs_steps_from_noise_and_back_into_the_ball():
    model, (index, x, y) = Network(), batch()
    make(FGSMRS)(model, index, x, y)
    start, x_adv = model.shown
    noise = start - x
    assert torch.all(noise.abs() <= EPS + 1e-6)
    assert noise.abs().median() == pytest.approx(EPS / 2, rel=0.15), "uniform in the ball"
    stepped = start + 1.25 * EPS * gradient_at(start, y).sign()
    assert torch.allclose(x_adv, stepped.clamp(x - EPS, x + EPS).clamp(0, 1), atol=1e-6)


def test_n_fgsm_leaves_the_ball_but_not_the_box():
    model, (index, x, y) = Network(), batch()
    make(NFGSM)(model, index, x, y)
    noisy, x_adv = model.shown
    assert (noisy - x).abs().max() == pytest.approx(2 * EPS, rel=0.01)
    assert torch.allclose(x_adv, (noisy + EPS * gradient_at(noisy, y).sign()).clamp(0, 1), atol=1e-6)
    assert (x_adv - x).abs().max() > 2.5 * EPS
    assert x_adv.min() == 0
    assert x_adv.max() == 1


def test_n_fgsm_without_noise_is_fgsm():
    model, (index, x, y) = Network(), batch()
    make(NFGSM, noise=0.0)(model, index, x, y)
    assert torch.allclose(model.shown[1], (x + EPS * gradient_at(x, y).sign()).clamp(0, 1))


def gradient_at(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain_loss(Network().eval()(x), y).sum(), x)
    return gradient


# --- TRADES and MART


def test_kl_divergence_by_hand():
    uniform, skewed = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    assert float(kl_divergence(uniform, skewed)) == pytest.approx(0.5 * math.log(4 / 3))
    assert float(kl_divergence(skewed, uniform)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(kl_divergence(skewed, skewed)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_trades_objective_and_attack(beta):
    index, x, y = batch()
    torch.manual_seed(3)
    noise = torch.randn_like(x)
    torch.manual_seed(3)
    model = Network()
    torch.manual_seed(3)
    output = make(TRADES, beta=beta, loss=ninefold_loss)(model, index, x, y)

    attacked = Network().eval()
    target = attacked(x).softmax(1).detach()
    x_adv = (x + 0.001 * noise).clamp(x - EPS, x + EPS).clamp(0, 1)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        divergence = (target * (target.log() - attacked(x_adv).log_softmax(1))).sum()
        (gradient,) = torch.autograd.grad(divergence, x_adv)
        x_adv = (x_adv + 2.5 * EPS / STEPS * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1).detach()
    assert torch.allclose(model.shown[-1], torch.cat([x, x_adv]), atol=1e-6)

    twin = Network()
    clean, adversarial = twin(torch.cat([x, x_adv])).chunk(2)
    p = clean.softmax(1)
    divergence = (p * (p.log() - adversarial.log_softmax(1))).sum(1)
    expected = (ninefold_loss(clean, y) + beta * divergence).mean()
    assert torch.allclose(output.loss, expected, rtol=1e-4)
    assert torch.allclose(output.logits, adversarial, atol=1e-5)
    gradient, wanted = (
        torch.autograd.grad(loss, network.layers[4].weight)[0]
        for loss, network in ((output.loss, model), (expected, twin))
    )
    assert torch.allclose(gradient, wanted, atol=1e-4), "through both views"


def test_margin_term_by_hand():
    logits = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]).log()
    expected = [-math.log(3 / 8), -math.log(6 / 8)]
    assert close(margin_term(logits, torch.tensor([0, 2])), expected)


def test_margin_term_of_a_confident_mistake_is_finite():
    logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
    term = margin_term(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(term.sum(), logits)
    assert close(term, [200.0])
    assert close(gradient, [-1.0, 1.0])


def test_mart_objective():
    model, (index, x, y) = Network(), batch()
    output = make(MART, beta=4.0, loss=ninefold_loss)(model, index, x, y)
    x_adv = pgd(Network(), x, y, eps=EPS, steps=STEPS)
    assert torch.equal(model.shown[-1], torch.cat([x, x_adv]))
    clean, adversarial = Network()(model.shown[-1]).softmax(1).chunk(2)
    expected = []
    for p, q, label in zip(clean, adversarial, y, strict=True):
        rival = max(q[k] for k in range(CLASSES) if k != label)
        divergence = sum(p[k] * (p[k] / q[k]).log() for k in range(CLASSES))
        expected.append(-9 * q[label].log() - (1 - rival).log() + 4 * divergence * (1 - p[label]))
    assert torch.allclose(output.loss, torch.stack(expected).mean(), rtol=1e-4)
    gradient = torch.autograd.grad(output.loss, model.layers[4].weight)[0]
    twin = Network()
    clean, adversarial = twin(model.shown[-1]).chunk(2)
    doubt = 1 - clean.softmax(1)[index, y]
    loss = ninefold_loss(adversarial, y) + margin_term(adversarial, y) + 4 * kl_divergence(clean, adversarial) * doubt
    assert torch.allclose(gradient, torch.autograd.grad(loss.mean(), twin.layers[4].weight)[0], atol=1e-5)


# --- FAT: ten steps of 0.125 inside a radius of 0.5; wrong above 0.65


BEYOND = OnePixel(lambda pixel: pixel - 0.65)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0, [0.5, 0.675, 0.7]),
        (1, [0.5, 0.8, 0.825]),
        (2, [0.5, 0.8, 0.95]),
        (10, [0.5, 0.8, 1.0]),
    ],
)
def test_fat_stops_after_tau_steps_from_misclassified_iterates(tau, expected):
    _, x, y = pixels(0.0, 0.3, 0.7)
    assert close(far(FAT, BEYOND, x, y, eps=0.5, tau=tau), expected)


@pytest.mark.parametrize(("tau", "expected"), [(0, 0.425), (1, 0.425), (4, 0.425), (10, 0.55)])
def test_fat_counts_misclassified_iterates_only(tau, expected):
    _, x, y = pixels(0.3)
    bump = OnePixel(lambda pixel: 0.05 - (pixel - 0.45).abs())  # to and fro: 0.425, where it is wrong, and 0.55
    assert close(far(FAT, bump, x, y, eps=0.5, tau=tau), [expected])


def test_fat_grows_more_patient():
    made = FAT(MethodContext(torch.zeros(1), 2, 120, plain_loss, EPS, STEPS, "linf", 0.0))
    assert made.tau == 0
    taus = []
    for epoch in (0, 49, 50, 89, 90, 119):
        made.begin_epoch(epoch)
        taus.append(made.tau)
    assert taus == [0, 0, 1, 1, 2, 2]


def test_fat_learns_from_the_stopped_images():
    model, (index, x, y) = Network(), batch()
    make(FAT, epoch=0)(model, index, x, y)
    early = model.shown[-1]
    wrong = Network().eval()(x).argmax(1) != y
    assert 0 < wrong.sum() < 6
    assert torch.equal(early[wrong], x[wrong]), "misclassified from the start, and tau is 0"
    assert not torch.any((early == x).flatten(1).all(1)[~wrong])


# --- GAIRAT


def test_kappa_counts_correct_iterates():
    _, x, y = pixels(0.0, 0.3, 0.7)
    made = GAIRAT(MethodContext(y, 2, 1, plain_loss, 0.5, 10, "linf", 0.0))
    made.weighting = True
    assert close(made.attack(BEYOND, x, y), [0.5, 0.8, 1.0])
    assert torch.equal(made._weight, geometry_weight(torch.tensor([10, 3, 0]), 10, -1.0))


def test_geometry_weight_by_hand():
    raw = [(1 + math.tanh(-1 + 5 * share)) / 2 for share in (1, 0, -1)]
    found = geometry_weight(torch.tensor([0, 5, 10]), 10, -1.0)
    assert close(found, [value / sum(raw) * 3 for value in raw])
    assert close(geometry_weight(torch.tensor([10, 10]), 10, -20.0), [1.0, 1.0]), "not 0 / 0"


def test_gairat_weighs_from_half_of_the_epochs_on():
    index, x, y = batch()
    before, after = (make(GAIRAT, epoch=epoch)(Network(), index, x, y) for epoch in (4, 5))
    model = Network()
    kappa, x_adv = torch.zeros_like(y), x
    for steps in range(1, STEPS + 1):
        kappa += model.eval()(x_adv).argmax(1) == y
        x_adv = pgd(model, x, y, eps=EPS, steps=steps, step_size=2.5 * EPS / STEPS)
    losses = plain_loss(model.train()(x_adv), y)
    assert torch.allclose(before.loss, losses.mean())
    assert torch.allclose(before.loss, PGDTraining(make(GAIRAT).context)(Network(), index, x, y).loss)
    weight = torch.tensor([(1 + math.tanh(-1 + 5 * (1 - 2 * float(k) / STEPS))) / 2 for k in kappa])
    assert len(kappa.unique()) > 1
    assert torch.allclose(after.loss, (weight * losses).sum() / weight.sum(), rtol=1e-4)


# --- DART


@pytest.mark.parametrize(("norm", "dual"), [("linf", 3.0), ("l2", math.sqrt(5))])
def test_stationarity_by_hand(norm, dual):
    x = torch.full((2, 1, 1, 2), 0.5)
    x_adv = torch.tensor([[0.6, 0.45], [0.5, 0.5]]).reshape(2, 1, 1, 2)
    gradient = torch.tensor([2.0, -1.0]).expand(2, 2).reshape(2, 1, 1, 2)
    ball = make_ball(norm, x, 0.2)
    assert close(stationarity(ball, x_adv, gradient), [0.2 * dual - 0.25, 0.2 * dual])
    corner = x + 0.2 * ball.direction(gradient)
    assert close(stationarity(ball, corner, gradient), [0.0, 0.0])


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (9.0, [0.1, 0.65, 0.35]),  # the first step is always taken
        (0.25, [0.2, 0.95, 0.45]),  # the last stays at 0.45, although the slope is steeper ahead
        (0.0, [0.4, 0.95, 0.65]),
    ],
)
def test_dart_stops_where_stationary_enough(threshold, expected):
    # The loss is 100 + pixel below 0.5 and rises 4 times as fast above; steps of 0.1 inside a radius of 0.4.
    model = OnePixel(lambda pixel: 100 + torch.where(pixel < 0.5, pixel, 4 * pixel))
    _, x, y = pixels(0.0, 0.55, 0.25)
    assert close(far(DART, model, x, y, eps=0.4, threshold=threshold), expected)


def test_dart_threshold_falls_to_zero():
    made = DART(MethodContext(torch.zeros(1), 2, 12, plain_loss, EPS, STEPS, "linf", 0.0))
    thresholds = []
    for epoch in (0, 5, 10, 11):
        made.begin_epoch(epoch)
        thresholds.append(made.threshold)
    assert thresholds == pytest.approx([0.5, 0.25, 0.0, 0.0])


def test_dart_learns_from_unfinished_attacks_at_first():
    index, x, y = batch()
    first, last = Network(), Network()
    make(DART, epoch=0, c_max=9.0)(first, index, x, y)
    make(DART, epoch=9, c_max=9.0)(last, index, x, y)
    one_step = (x + 2.5 * EPS / STEPS * gradient_at(x, y).sign()).clamp(0, 1)
    assert torch.allclose(first.shown[-1], one_step)
    assert torch.allclose(last.shown[-1], pgd(Network(), x, y, eps=EPS, steps=STEPS), atol=1e-6)


def test_dart_weighting_by_the_own_loss():
    model, (index, x, y) = Network(), batch()
    output = make(DART, epoch=9, weighting="own-loss")(model, index, x, y)
    losses = plain_loss(Network()(model.shown[-1]), y)
    assert torch.allclose(output.loss, losses.square().mean())
    gradient = torch.autograd.grad(output.loss, model.layers[4].weight)[0]
    twin = Network()
    losses = plain_loss(twin(model.shown[-1]), y)
    expected = torch.autograd.grad((losses.detach() * losses).mean(), twin.layers[4].weight)[0]
    assert torch.allclose(gradient, expected, atol=1e-6)
