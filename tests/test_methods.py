import dataclasses
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.attacks import pgd
from dpaat.attacks.losses import margin
from dpaat.errors import UserError
from dpaat.methods import METHODS, MethodContext, build_method, complete_options, find_method
from dpaat.methods.base import mixed_loss
from dpaat.methods.dpaat import MIN_RAMP
from method_makers import Network

SIZE, CLASSES = 12, 3
LABELS = torch.arange(SIZE) % CLASSES


def plain_loss(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def setting(**changes) -> MethodContext:
    values = {
        "labels": LABELS,
        "num_classes": CLASSES,
        "epochs": 10,
        "learn_loss": plain_loss,
        "eps": 8 / 255,
        "steps": 3,
        "norm": "linf",
        "clean_weight": 0.0,
    }
    return MethodContext(**{**values, **changes})


class Counting(nn.Module):
    """A small network with BatchNorm that counts its forward and backward passes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES)
        )
        self.forwards: list[int] = []
        self.backwards: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        self.forwards.append(len(x))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.backwards.append(len(gradient)))
        return logits


def batch(size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    index = torch.randperm(SIZE, generator=generator)[:size]
    return index, torch.rand(size, 3, 8, 8, generator=generator), LABELS[index]


def make(name: str, options: dict[str, object] | None = None, **changes):
    return build_method(find_method(name), setting(**changes), options or {})


def step(name: str, model: Counting, **changes):
    visit = make(name, **changes)(model, *batch())
    visit.loss.backward()
    return visit


# --- registry and options


def test_registry():
    assert {"standard", "pgd", "dpaat", "dpaat-fast", "dpaat-half", "dpaat-paper"} <= set(METHODS)
    for name, info in METHODS.items():
        assert info.name == name
        assert info.description
        assert info.adversarial == (info.eps > 0)
    with pytest.raises(UserError, match="unknown method 'dpat'; nearest: dpaat"):
        find_method("dpat")


def test_options_are_completed_and_converted():
    info = find_method("dpaat")
    options = complete_options(info, {"ramp": "0.25", "warmup": "2", "statistic": "median", "momentum": 0})
    assert list(options) == [field.name for field in dataclasses.fields(info.options)]
    assert (options["ramp"], options["warmup"], options["statistic"]) == (0.25, 2, "median")
    assert isinstance(options["momentum"], float)
    assert complete_options(info, options) == options
    assert complete_options(find_method("dpaat-paper"), {})["scope"] == "global"
    assert complete_options(find_method("pgd"), {}) == {}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dpaat", {"statistics": "mean"}, "unknown option of method 'dpaat' 'statistics'; nearest: statistic"),
        ("pgd", {"ramp": 1}, "method 'pgd' takes no further options, so not 'ramp'"),
        ("dpaat", {"statistic": "medain"}, "statistic must be one of mean, median"),
        ("dpaat", {"update": "x"}, "update must be one of"),
        ("dpaat", {"schedule": "x"}, "schedule must be one of"),
        ("dpaat", {"scope": "classes"}, "options.scope 'classes'; nearest: class"),
        ("dpaat", {"signal": "logits"}, "options.rows["adv_loss"]"),
        ("dpaat", {"collect": "both"}, "options.rows["tracked_loss"]"),
        ("dpaat", {"ramp": 0}, r"ramp must lie in \(0, 1\]"),
        ("dpaat", {"ramp": -1}, "ramp must lie"),
        ("dpaat", {"ramp": "nan"}, "ramp must lie"),
        ("dpaat-fast", {"graded": 1.5}, r"graded must lie in \(0, 1\]"),
        ("dpaat-fast", {"graded": 0}, r"graded must lie in \(0, 1\]"),
        ("dpaat-fast", {"least": 0}, "least must be at least 1"),
        ("dpaat-fast", {"start": 1.0}, r"start must lie in \[0, 1\)"),
        ("dpaat-fast", {"attacked": 1.5}, r"attacked must lie in \[0, 1\]"),
        ("dpaat", {"ramp": "steep"}, "options.ramp: 'steep' is not a number"),
        ("dpaat", {"warmup": 1.5}, "options.warmup: 1.5 is not a whole number"),
        ("dpaat", {"warmup": True}, "not a whole number"),
        ("dpaat", {"warmup": -1}, "warmup must be at least 0"),
        ("dpaat", {"eps_init": 2}, "eps_init must lie in"),
        ("dpaat", {"floor": 1.1}, r"floor must lie in \[0, 1\]"),
        ("dpaat", {"loss_decay": 1}, "loss_decay must lie in"),
        ("dpaat", {"momentum": "nan"}, "momentum must lie in"),
    ],
)
def test_wrong_options_are_one_line(method, options, message):
    with pytest.raises(UserError, match=message) as error:
        make(method, options)
    assert "\n" not in str(error.value)


# --- cost


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
@pytest.mark.parametrize("name", ["dpaat-half", "dpaat-paper"])
def test_a_dpaat_step_costs_what_a_pgd_step_costs(name, clean_weight):
    ours, theirs = Counting(), Counting()
    step(name, ours, clean_weight=clean_weight)
    step("pgd", theirs, clean_weight=clean_weight)
    assert ours.forwards == theirs.forwards
    assert ours.backwards == theirs.backwards
    learned = 12 if clean_weight else 6
    assert theirs.forwards == [6, 6, 6, learned]
    assert theirs.backwards == [6, 6, 6, learned]


def test_a_standard_step_is_one_pass():
    model = Counting()
    step("standard", model)
    assert (model.forwards, model.backwards) == ([6], [6])


# --- objective


@pytest.mark.parametrize("clean_weight", [0.0, 0.3])
def test_pgd_objective_is_the_mixture_of_losses_at_both_views(clean_weight):
    model, (index, x, y) = Counting(), batch()
    x_adv = pgd(model, x, y, eps=8 / 255, steps=3)
    visit = make("pgd", clean_weight=clean_weight)(model, index, x, y)
    twin = Counting()
    if clean_weight:
        clean, adversarial = twin(torch.cat([x, x_adv])).chunk(2)
        expected = 0.7 * plain_loss(adversarial, y).mean() + 0.3 * plain_loss(clean, y).mean()
    else:
        adversarial = twin(x_adv)
        expected = plain_loss(adversarial, y).mean()
    assert torch.allclose(visit.loss, expected)
    assert torch.allclose(visit.logits, adversarial)


def test_learn_by_hand():
    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    x, x_adv = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    y = torch.tensor([0])
    loss, logits, clean = mixed_loss(Identity(), x, x_adv, y, setting(clean_weight=0.25))
    at_clean, at_adversarial = torch.log(torch.tensor(2.0)), torch.log1p(torch.tensor(1.0).exp())
    assert float(loss) == pytest.approx(float(0.75 * at_adversarial + 0.25 * at_clean))
    assert torch.equal(logits, x_adv)
    assert torch.equal(clean, x)
    assert mixed_loss(Identity(), x, x_adv, y, setting())[2] is None


def test_margin_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 1.0, 0.0]])
    assert margin(logits, torch.tensor([0, 2, 0])).tolist() == [-1.0, 4.0, 0.0]


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
@pytest.mark.parametrize(("collect", "signal"), [("clean", "loss"), ("adversarial", "loss"), ("clean", "margin")])
def test_dpaat_visit_holds_plain_unweighted_values(collect, signal, clean_weight):
    model, (index, x, y) = Counting(), batch()
    method = make(
        "dpaat-half",
        {"collect": collect, "signal": signal},
        clean_weight=clean_weight,
        learn_loss=lambda z, y: 9 * plain_loss(z, y),
    )
    visit = method(model, index, x, y)
    measure = plain_loss if signal == "loss" else margin
    assert torch.equal(visit.index, index)
    assert visit.rows["adv_loss"].shape == (6,)
    assert not visit.rows["adv_loss"].requires_grad
    assert torch.allclose(visit.rows["adv_loss"], measure(visit.logits, y))
    if collect == "adversarial":
        assert visit.rows["tracked_loss"] is None
    else:
        assert visit.rows["tracked_loss"].shape == (6,)
        assert not visit.rows["tracked_loss"].requires_grad
        if not clean_weight:
            assert torch.allclose(visit.rows["tracked_loss"], measure(Counting().eval()(x).detach(), y)), "of the first pass of PGD"


@pytest.mark.parametrize("name", ["standard", "pgd"])
def test_methods_without_state_have_nothing_to_save(name):
    method = make(name)
    visit = method(Counting(), *batch())
    method.after_step(visit)
    assert visit.rows["adv_loss"] is None
    assert visit.rows["tracked_loss"] is None
    assert not method.state_dict()


# --- state


@pytest.mark.parametrize("name", ["dpaat-half", "dpaat-paper"])
def test_sizes_move_after_the_warm_up_and_only_of_visited_samples(name):
    model, method = Counting(), make(name, eps=8 / 255, epochs=10)
    index, x, y = batch()
    start = method.perturbation.eps.clone()
    assert torch.allclose(start, torch.full((SIZE,), 1 / 255))
    method.after_step(method(model, index, x, y))
    assert torch.equal(method.perturbation.eps, start), "the first visit only collects"
    method.after_step(method(model, index, x, y))
    moved = method.perturbation.eps - start
    others = torch.ones(SIZE, dtype=torch.bool).index_fill(0, index, False)
    assert torch.all(moved[index] != 0)
    assert torch.all(moved[others] == 0)
    increment = 8 / 255 / (0.5 * 10)
    grown = moved[index][moved[index] > 0]
    assert torch.allclose(grown, torch.full_like(grown, increment))


@pytest.mark.parametrize(("epochs", "visits"), [(2, MIN_RAMP), (40, 20)])
def test_ramp_is_a_share_of_the_epochs(epochs, visits):
    assert make("dpaat-half", epochs=epochs).perturbation.increment == pytest.approx(8 / 255 / visits)


def test_samples_are_attacked_at_their_own_radius():
    seen: list[Tensor] = []

    class Spy(Counting):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return super().forward(x)

    method = make("dpaat-half", clean_weight=0.5)
    index, x, y = batch()
    method.perturbation.eps[index] = torch.linspace(0, 8 / 255, 6)
    method(Spy(), index, x, y)
    clean, adversarial = seen[-1].chunk(2)
    assert torch.equal(clean, x)
    assert torch.allclose((adversarial - x).abs().amax((1, 2, 3)), torch.linspace(0, 8 / 255, 6), atol=1e-6)


def test_fast_attacks_in_turn_and_in_proportion_to_the_ball(monkeypatch):
    monkeypatch.setattr(import_module("dpaat.attacks.pgd"), "GRANULE", 1)
    method, model = make("dpaat-fast", steps=10, clean_weight=0.5), Counting()
    index, x, y = torch.arange(SIZE), *batch(SIZE)[1:]
    method.perturbation.eps.copy_(torch.tensor([0, 1, 4, 8, 8, 8, 0, 1, 4, 8, 8, 8]) / 255)
    asked = []
    for epoch in (0, 1):
        method.begin_epoch(epoch)
        model.forwards.clear()
        method(model, index, x, y)
        assert model.forwards.pop() == SIZE
        asked.append(sum(model.forwards))
    # Every sample once in the two epochs, ceil(0.5 * 10 * eps / eps_max) steps long.
    assert sum(asked) == 2 * (0 + 1 + 3 + 5 + 5 + 5)
    assert min(asked) > 0


@pytest.mark.parametrize(("steps", "expected"), [(8, [0, 5, 5, 8]), (3, [0, 3, 3, 3])])
def test_fast_takes_a_least_number_of_steps_in_every_ball(steps, expected):
    method = make("dpaat-fast", {"graded": 1.0, "least": 5}, steps=steps, clean_weight=0.0)
    index, x, y = torch.arange(4), *(values[:4] for values in batch(SIZE)[1:])
    _, taken, _ = method.attack(Network(), index, x, y, torch.tensor([0, 1, 4, 8]) / 255)
    assert taken.tolist() == expected


@pytest.mark.parametrize(("clean_weight", "attacked"), [(0.0, 0.0), (0.3, 1.0), (0.9, 1.0)])
def test_fast_is_dpaat_half_where_all_are_attacked_in_the_largest_ball(clean_weight, attacked):
    index, x, y = batch()
    visits = []
    for name in ("dpaat-half", "dpaat-fast"):
        options = {"graded": 1.0, "attacked": attacked} if name == "dpaat-fast" else {}
        method, model = make(name, options, clean_weight=clean_weight), Network()
        method.perturbation.eps.fill_(8 / 255)
        visit = method(model, index, x, y)
        visit.loss.backward()
        method.after_step(visit)
        gradients = [p.grad for p in model.parameters()]
        visits.append([visit.loss, visit.logits, visit.rows["adv_loss"], visit.rows["tracked_loss"], method.perturbation.loss, *gradients])
    for one, other in zip(*visits, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 0.5, 1.0])
def test_fast_shows_the_clean_view_in_its_share_of_the_epochs(clean_weight):
    method, index, turns = make("dpaat-fast", clean_weight=clean_weight), torch.arange(1000), []
    for epoch in range(20):
        method.begin_epoch(epoch)
        turns.append(method.is_adversarial(index))
    share = torch.stack(turns).double()
    assert torch.all((share.mean(0) - (1 - clean_weight)).abs() <= 1 / 20)
    assert torch.all((share.mean(1) - (1 - clean_weight)).abs() <= 3 / 1000)


def test_fast_may_start_with_clean_epochs():
    method, index = make("dpaat-fast", {"start": 0.3}, clean_weight=0.5), torch.arange(SIZE)
    assert method.visits() == 7 * 0.5
    for epoch in range(10):
        method.begin_epoch(epoch)
        assert method.is_adversarial(index).any() == (epoch >= 3)


def test_fast_shows_some_adversarial_views_beside_all_clean_ones():
    method, model = make("dpaat-fast", {"attacked": 0.5, "start": 0.5}, epochs=4, clean_weight=0.9), Network()
    index, x, y = torch.arange(SIZE), *batch(SIZE)[1:]
    assert method.visits() == 2 * 0.5
    shown = []
    for epoch in range(4):
        method.begin_epoch(epoch)
        model.shown.clear()
        visit = method(model, index, x, y)
        views, rows = model.shown[-1], method.is_adversarial(index)
        assert torch.equal(views[:SIZE], x)
        assert torch.equal(views[SIZE:].ne(x[rows]).flatten(1).any(1), method.perturbation.eps[index][rows] > 0)
        logits = model(views)
        losses = F.cross_entropy(logits, torch.cat([y, y[rows]]), reduction="none")
        assert torch.allclose(visit.logits[rows], logits[SIZE:], atol=1e-5)
        assert torch.allclose(visit.rows["tracked_loss"], losses[:SIZE], atol=1e-5), "clean losses of the same pass"
        clean, adversarial = losses[:SIZE].mean(), losses[SIZE:].sum() / SIZE
        expected = clean if epoch < 2 else 0.9 * clean + 0.1 / 0.5 * adversarial
        assert torch.isclose(visit.loss, expected, atol=1e-5)
        shown.append(rows)
    assert not torch.stack(shown[:2]).any()
    assert torch.all(torch.stack(shown[2:]).sum(0) == 1), "each sample once in the two epochs"


@pytest.mark.parametrize("attacked", [0.0, 0.5])
def test_fast_moves_only_the_state_of_what_it_attacks(attacked):
    method, model = make("dpaat-fast", {"attacked": attacked}, clean_weight=0.5), Network()
    index, x, y = torch.arange(SIZE), *batch(SIZE)[1:]
    method.begin_epoch(0)
    turn = method.is_adversarial(index)
    clean = F.cross_entropy(model.eval()(x), y, reduction="none").detach()
    method.after_step(method(model.train(), index, x, y))
    assert torch.equal(method.perturbation.visits > 0, turn)
    if not attacked:
        assert torch.allclose(method.perturbation.loss[turn], clean[turn], atol=1e-5)


def test_global_scope_keeps_no_labels():
    assert make("dpaat-paper").perturbation.labels is None
    assert len(make("dpaat").perturbation.criterion) == CLASSES
