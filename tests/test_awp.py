"""Adversarial weight perturbation: the gradient it leaves, and all that it must leave alone."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.config import complete
from dpaat.errors import UserError
from dpaat.methods import METHODS, build_method, find_method
from dpaat.methods.baselines.trades import kl_divergence
from dpaat.methods.teacher import SelfTeacher
from dpaat.training import module as training_module
from dpaat.training import train
from dpaat.training.awp import perturbed_step, perturbed_weights
from method_makers import Network, batch, context, plain_loss
from training_makers import assert_equal, assert_same_run, checkpoint, metrics, tiny_config

GAMMA = 0.1
CONTROLS = ["mean", "class-mean", "permuted", "uniform"]


def make(name: str, *, options: dict[str, object] | None = None, **changes):
    """A method in its last epoch, in which all attack, after a step in its first; with its own clean weight."""
    info = find_method(name)
    method = build_method(info, context(**{"clean_weight": info.clean_weight, **changes}), options or {})
    method.after_step(method(Network().train(), *batch()))
    method.begin_epoch(9)
    return method


def steps(name: str, **changes):
    """The same step twice, plain and with the perturbation, and the two networks."""
    plain, perturbed = Network().train(), Network().train()
    torch.manual_seed(3)
    expected = make(name, **changes)(plain, *batch())
    torch.manual_seed(3)
    found = perturbed_step(make(name, **changes), perturbed, *batch(), gamma=GAMMA)
    return expected, plain, found, perturbed


def moved(model: nn.Module, gradients: dict[str, Tensor]) -> nn.Module:
    """A copy of a model at w + v, with its gradients cleared."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, w in model.named_parameters():
            if w.ndim > 1:
                g = gradients[name]
                w += GAMMA * w.norm() * g / g.norm()
    model.zero_grad()
    return model


def gradients_of(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


# --- the gradient


def test_gradient_of_a_linear_model_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    w, b = (parameter.detach().clone() for parameter in model[1].parameters())
    x, y = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1])

    def gradient(w: Tensor) -> tuple[Tensor, Tensor]:
        error = ((x.flatten(1) @ w.T + b).softmax(1) - F.one_hot(y, 3)) / 5
        return error.T @ x.flatten(1), error.sum(0)

    g, _ = gradient(w)
    of_weight, of_bias = gradient(w + GAMMA * w.norm() * g / g.norm())
    perturbed_step(make("standard"), model, torch.arange(5), x, y, gamma=GAMMA).loss.backward()
    assert torch.allclose(model[1].weight.grad, of_weight, atol=1e-6)
    assert torch.allclose(model[1].bias.grad, of_bias, atol=1e-6)
    assert not torch.allclose(of_weight, g, atol=1e-3), "the perturbation matters"
    assert torch.equal(model[1].weight, w)
    assert torch.equal(model[1].bias, b)


def half_clean(clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
    return (plain_loss(clean, y) / 2 + plain_loss(adversarial, y) / 2).mean()


def trades(clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
    return (plain_loss(clean, y) + 6 * kl_divergence(clean, adversarial)).mean()


@pytest.mark.parametrize(
    ("name", "changes", "objective"), [("pgd", {"clean_weight": 0.5}, half_clean), ("trades", {}, trades)]
)
def test_gradient_is_that_of_the_methods_own_objective(name, changes, objective):
    _, plain, found, perturbed = steps(name, **changes)
    views, y = plain.shown[-1], batch()[2]
    at_w = copy.deepcopy(perturbed)
    at_v = moved(at_w, gradients_of(at_w, objective(*at_w(views).chunk(2), y)))
    loss = objective(*at_v(views).chunk(2), y)
    expected = gradients_of(at_v, loss)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for weight, parameter in perturbed.named_parameters():
        assert torch.allclose(parameter.grad, expected[weight], rtol=1e-4, atol=1e-6), weight


def test_loss_rises_as_the_perturbation_grows():
    losses = [
        perturbed_step(make("pgd"), Network().train(), *batch(), gamma=gamma).loss.item()
        for gamma in (1e-6, 0.01, 0.05)
    ]
    assert losses[0] < losses[1] < losses[2]
    assert losses[0] == pytest.approx(make("pgd")(Network().train(), *batch()).loss.item(), abs=1e-4)


def test_norms_biases_frozen_and_unused_weights_stay():
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("used", "frozen", "unused", "flat")})
    model["frozen"].requires_grad_(False)
    x = torch.ones(1, 2)
    loss = (model["frozen"](model["used"](x)) + 0 * model["flat"](x)).sum()
    found = perturbed_weights(model, loss, GAMMA)
    assert set(found) == {"used.weight", "unused.weight", "flat.weight"}
    change = found["used.weight"] - model["used"].weight
    assert (change.norm() / model["used"].weight.norm()).item() == pytest.approx(GAMMA, rel=1e-5)
    for name in ("unused", "flat"):
        assert torch.equal(found[f"{name}.weight"], model[name].weight), name


# --- what it leaves alone, for every method


CASES = [*((name, {}) for name in sorted(METHODS)), *(("dpaat-half", {"radius": radius}) for radius in CONTROLS)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_attack_state_and_statistics_are_those_of_the_unperturbed_network(name, options, norm):
    check_all_but_the_loss(*steps(name, norm=norm, options=options))


@pytest.mark.parametrize("name", ["dpaat-half", "pgd", "trades"])
def test_a_teacher_is_asked_twice_and_learns_nothing(name):
    teacher = SelfTeacher(Network(), 0.5)
    before = copy.deepcopy(teacher.state_dict())
    check_all_but_the_loss(*steps(name, teacher=teacher))
    assert_equal(dict(teacher.state_dict()), dict(before))


def check_all_but_the_loss(expected, plain, found, perturbed):
    assert found.loss > expected.loss
    assert found.rows.keys() == expected.rows.keys()
    for one, other in zip(
        (found.logits, found.index, *found.rows.values()),
        (expected.logits, expected.index, *expected.rows.values()),
        strict=True,
    ):
        assert torch.equal(one, other)
    # No second attack: one pass more, and it sees what the learning pass saw.
    assert len(perturbed.shown) == len(plain.shown) + 1
    for one, other in zip(perturbed.shown, [*plain.shown, plain.shown[-1]], strict=True):
        assert torch.equal(one, other)
    assert perturbed.backwards == [*plain.backwards, len(plain.shown[-1])]
    assert plain.state_dict().keys() == perturbed.state_dict().keys()
    for weight, value in plain.state_dict().items():
        assert torch.equal(perturbed.state_dict()[weight], value), weight
    assert int(perturbed.layers[1].num_batches_tracked) == 1
    assert all(module.training for module in perturbed.modules())
    found.loss.backward()
    assert all(parameter.grad is not None for parameter in perturbed.parameters())


def test_both_passes_drop_the_same():
    masks = []
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(192, 3)).train()
    model[0].register_forward_hook(lambda _, __, output: masks.append(output != 0))
    perturbed_step(make("pgd", steps=1), model, *batch(), gamma=GAMMA)
    _, first, second = masks
    assert torch.equal(first, second)
    assert 0.3 < first.double().mean() < 0.7


# --- training


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_size_out_of_range_is_refused(tiny_images, value):
    with pytest.raises(UserError, match=r"^awp: .*at least 0 and below 1$"):
        complete(tiny_config(tiny_images, awp=value))


def never(*_, **__):
    raise AssertionError


def test_resumed_run_equals_an_unbroken_one_and_differs_from_one_without(tiny_images, tmp_path, monkeypatch):
    config = tiny_config(tiny_images, awp=0.01, ema_decay=0.9, val_eps="0")
    whole = train(config, tmp_path / "whole")
    broken = train(config, tmp_path / "broken", stop_after=1)
    torch.manual_seed(99)  # a new process starts with other random numbers
    train(config, broken, resume=True)
    assert_same_run(broken, whole)
    monkeypatch.setattr(training_module, "perturbed_step", never)
    without = train(tiny_config(tiny_images, ema_decay=0.9, val_eps="0"), tmp_path / "without")
    found, expected = checkpoint(whole)["state_dict"], checkpoint(without)["state_dict"]
    assert found.keys() == expected.keys()
    assert not torch.equal(found["model.network.fc.weight"], expected["model.network.fc.weight"])
    steps = {name: value for name, value in found.items() if name.endswith("num_batches_tracked")}
    assert steps
    assert all(torch.equal(value, expected[name]) for name, value in steps.items())


def test_a_frozen_body_is_not_perturbed(tiny_images, tmp_path, monkeypatch):
    epochs = []
    genuine = training_module.perturbed_step

    def noted(*args, **options):
        epochs.append(len(metrics(tmp_path / "run")) if (tmp_path / "run" / "metrics.csv").is_file() else 0)
        return genuine(*args, **options)

    monkeypatch.setattr(training_module, "perturbed_step", noted)
    first = train(tiny_config(tiny_images, epochs=1, val_eps="0"), tmp_path / "first")
    changes = {"weights": str(first), "awp": 0.01, "freeze_until": 1, "epochs": 2, "val_eps": "0"}
    train(tiny_config(tiny_images, **changes), tmp_path / "run")
    assert set(epochs) == {1}
