from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpaat.methods.dpaat as dpaat_module
from dpaat.attacks import pgd
from dpaat.attacks.losses import margin
from dpaat.errors import UserError
from dpaat.methods import METHODS, build_method, complete_options, find_method
from dpaat.methods.base import mixed_loss
from dpaat.methods.dpaat import MIN_RAMP
from method_makers import CLASSES, Network, context, ninefold_loss, plain_loss

SIZE = 12
LABELS = torch.arange(SIZE) % CLASSES


def batch(size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    index = torch.randperm(SIZE, generator=generator)[:size]
    return index, torch.rand(size, 3, 8, 8, generator=generator), LABELS[index]


def make(name: str, options: dict[str, object] | None = None, **changes):
    return build_method(find_method(name), context(**{"labels": LABELS, **changes}), options or {})


def step(name: str, model: Network, **changes):
    output = make(name, **changes)(model, *batch())
    output.loss.backward()
    return output


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
    options = complete_options(info, {"ramp": "0.25", "min_steps": "2", "statistic": "median", "damping": 0})
    assert list(options) == list(info.build.declared())
    assert (options["ramp"], options["min_steps"], options["statistic"]) == (0.25, 2, "median")
    assert isinstance(options["damping"], float)
    assert complete_options(info, options) == options
    assert complete_options(find_method("dpaat-paper"), {})["scope"] == "global"
    assert complete_options(find_method("pgd"), {}) == {}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dpaat", {"statistics": "mean"}, "unknown option of method 'dpaat' 'statistics'; nearest: statistic"),
        ("pgd", {"ramp": 1}, "method 'pgd' takes no further options, so not 'ramp'"),
        ("dpaat", {"statistic": "medain"}, "statistic must be one of mean, median"),
        ("dpaat", {"rule": "solved"}, "options.rule 'solved'; nearest: solve"),
        ("dpaat", {"scope": "classes"}, "options.scope 'classes'; nearest: class"),
        ("dpaat", {"track": "both"}, "options.track 'both'"),
        ("dpaat", {"views": "one"}, "options.views 'one'"),
        ("dpaat", {"radius": "average"}, "options.radius 'average'"),
        ("dpaat", {"eps_min": 0.0}, "eps_min must be above 0 with the rule solve"),
        ("dpaat", {"eps_min": 0, "radius": "mean"}, "eps_min must be above 0 with the rule solve"),
        ("dpaat-half", {"rule": "solve"}, "eps_min must be above 0 with the rule solve"),
        ("dpaat", {"track": "adversarial"}, "track must be clean with the rule solve, not adversarial"),
        ("dpaat", {"ramp": 0}, r"ramp must lie in \(0, 1\]"),
        ("dpaat", {"ramp": -1}, "ramp must lie"),
        ("dpaat", {"ramp": "nan"}, "ramp must lie"),
        ("dpaat-fast", {"steps_scale": 1.5}, r"steps_scale must lie in \(0, 1\]"),
        ("dpaat-fast", {"steps_scale": 0}, r"steps_scale must lie in \(0, 1\]"),
        ("dpaat-fast", {"min_steps": -1}, r"min_steps must lie in \[0, inf\)"),
        ("dpaat-fast", {"adv_fraction": 0}, r"adv_fraction must lie in \(0, 1\]"),
        ("dpaat-fast", {"adv_fraction": 1.5}, r"adv_fraction must lie in \(0, 1\]"),
        ("dpaat", {"ramp": "steep"}, "options.ramp: 'steep' is not a number"),
        ("dpaat", {"min_steps": 1.5}, "options.min_steps: 1.5 is not a whole number"),
        ("dpaat", {"min_steps": True}, "not a whole number"),
        ("dpaat", {"eps_init": 2}, "eps_init must lie in"),
        ("dpaat", {"eps_min": 1.1}, r"eps_min must lie in \[0, 1\]"),
        ("dpaat", {"damping": 1}, r"damping must lie in \[0, 1\)"),
        ("dpaat-half", {"damping": 1}, r"damping must lie in \[0, 1\)"),
        ("dpaat", {"damping": "nan"}, "damping must lie in"),
    ],
)
def test_wrong_options_are_one_line(method, options, message):
    with pytest.raises(UserError, match=message) as error:
        make(method, options)
    assert "\n" not in str(error.value)


# --- cost


@pytest.mark.parametrize(("name", "clean_weight"), [("dpaat-half", 0.0), ("dpaat-half", 0.5), ("dpaat-paper", 0.0)])
def test_a_dpaat_step_costs_what_a_pgd_step_costs(name, clean_weight):
    ours, theirs = Network(), Network()
    step(name, ours, clean_weight=clean_weight)
    step("pgd", theirs, clean_weight=clean_weight)
    assert ours.forwards == theirs.forwards
    assert ours.backwards == theirs.backwards
    learned = 12 if clean_weight else 6
    assert theirs.forwards == [6, 6, 6, learned]
    assert theirs.backwards == [6, 6, 6, learned]


def test_a_standard_step_is_one_pass():
    model = Network()
    step("standard", model)
    assert (model.forwards, model.backwards) == ([6], [6])


# --- objective


@pytest.mark.parametrize("clean_weight", [0.0, 0.3])
def test_pgd_objective_is_the_mixture_of_losses_at_both_views(clean_weight):
    model, (index, x, y) = Network(), batch()
    x_adv = pgd(model, x, y, eps=8 / 255, steps=3)
    output = make("pgd", clean_weight=clean_weight)(model, index, x, y)
    twin = Network()
    if clean_weight:
        clean, adversarial = twin(torch.cat([x, x_adv])).chunk(2)
        expected = 0.7 * plain_loss(adversarial, y).mean() + 0.3 * plain_loss(clean, y).mean()
    else:
        adversarial = twin(x_adv)
        expected = plain_loss(adversarial, y).mean()
    assert torch.allclose(output.loss, expected)
    assert torch.allclose(output.logits, adversarial)


def test_mixed_loss_by_hand():
    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    x, x_adv = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    y = torch.tensor([0])
    loss, logits, clean = mixed_loss(Identity(), x, x_adv, y, context(clean_weight=0.25))
    at_clean, at_adversarial = torch.log(torch.tensor(2.0)), torch.log1p(torch.tensor(1.0).exp())
    assert float(loss) == pytest.approx(float(0.75 * at_adversarial + 0.25 * at_clean))
    assert torch.equal(logits, x_adv)
    assert torch.equal(clean, x)
    assert mixed_loss(Identity(), x, x_adv, y, context())[2] is None


def test_margin_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 1.0, 0.0]])
    assert margin(logits, torch.tensor([0, 2, 0])).tolist() == [-1.0, 4.0, 0.0]


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
@pytest.mark.parametrize("track", ["clean", "adversarial"])
def test_dpaat_rows_hold_plain_unweighted_losses(track, clean_weight):
    model, (index, x, y) = Network(), batch()
    method = make("dpaat-half", {"track": track}, clean_weight=clean_weight, learn_loss=ninefold_loss)
    output = method(model, index, x, y)
    assert torch.equal(output.index, index)
    assert output.rows["adv_loss"].shape == (6,)
    assert not output.rows["adv_loss"].requires_grad
    assert torch.allclose(output.rows["adv_loss"], plain_loss(output.logits, y))
    if track == "adversarial":
        assert "tracked_loss" not in output.rows
    else:
        assert output.rows["tracked_loss"].shape == (6,)
        assert not output.rows["tracked_loss"].requires_grad
        if not clean_weight:
            first = plain_loss(Network().eval()(x).detach(), y)
            assert torch.allclose(output.rows["tracked_loss"], first), "of the first pass of PGD"


@pytest.mark.parametrize("name", ["standard", "pgd"])
def test_methods_without_state_have_nothing_to_save(name):
    method = make(name)
    output = method(Network(), *batch())
    method.after_step(output)
    assert not output.rows
    assert not method.state_dict()


# --- state


@pytest.mark.parametrize("name", ["dpaat-half", "dpaat-paper"])
def test_sizes_move_after_the_warm_up_and_only_of_visited_samples(name):
    model, method = Network(), make(name, eps=8 / 255, epochs=10)
    index, x, y = batch()
    start = method.perturbation.eps.clone()
    assert torch.allclose(start, torch.full((SIZE,), 1 / 255))
    method.after_step(method(model, index, x, y))
    assert torch.equal(method.perturbation.eps, start), "the first visit is only tracked"
    method.after_step(method(model, index, x, y))
    moved = method.perturbation.eps - start
    others = torch.ones(SIZE, dtype=torch.bool).index_fill(0, index, False)
    assert torch.all(moved[index] != 0)
    assert torch.all(moved[others] == 0)
    increment = 8 / 255 / (0.5 * 10)
    grown = moved[index][moved[index] > 0]
    assert torch.allclose(grown, torch.full_like(grown, increment))


@pytest.mark.parametrize(
    ("changes", "attacks"),
    [
        ({"epochs": 2}, MIN_RAMP),
        ({"epochs": 40}, 20),
        ({"epochs": 40, "adv_start": 0.5}, 10),
        ({"epochs": 40, "adv_start": 0.5, "clean_weight": 0.5, "options": {"views": "alternate"}}, 5),
    ],
)
def test_ramp_is_a_share_of_the_attacks(changes, attacks):
    method, index = make("dpaat-half", **changes), torch.arange(SIZE)
    start = method.perturbation.eps.clone()
    for _ in range(2):
        method.perturbation.update(index, torch.zeros(SIZE), torch.ones(SIZE))
    assert torch.allclose(method.perturbation.eps - start, torch.full((SIZE,), 8 / 255 / attacks))


def test_samples_are_attacked_at_their_own_radius():
    model, method = Network(), make("dpaat-half", clean_weight=0.5)
    index, x, y = batch()
    method.perturbation.eps[index] = torch.linspace(0, 8 / 255, 6)
    method(model, index, x, y)
    clean, adversarial = model.shown[-1].chunk(2)
    assert torch.equal(clean, x)
    assert torch.allclose((adversarial - x).abs().amax((1, 2, 3)), torch.linspace(0, 8 / 255, 6), atol=1e-6)


def test_fast_attacks_in_turn_and_in_proportion_to_the_ball(monkeypatch):
    monkeypatch.setattr(import_module("dpaat.attacks.pgd"), "GRANULE", 1)
    method, model = make("dpaat-fast", steps=10, clean_weight=0.5), Network()
    index, x, y = torch.arange(SIZE), *batch(SIZE)[1:]
    method.perturbation.eps.copy_(torch.tensor([0, 1, 4, 8, 8, 8, 0, 1, 4, 8, 8, 8]) / 255)
    asked = []
    for epoch in (0, 1):
        method.begin_epoch(epoch)
        model.shown.clear()
        method(model, index, x, y)
        *attack, learned = model.forwards
        assert learned == SIZE
        asked.append(sum(attack))
    # Every sample once in the two epochs, ceil(0.5 * 10 * eps / eps_max) steps long.
    assert sum(asked) == 2 * (0 + 1 + 3 + 5 + 5 + 5)
    assert min(asked) > 0


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (8, {"steps_scale": 1.0, "min_steps": 5}, [0, 5, 5, 8]),
        (3, {"steps_scale": 1.0, "min_steps": 5}, [0, 3, 3, 3]),
        (8, {"min_steps": 0}, [0, 8, 8, 8]),
    ],
)
def test_fast_takes_a_least_number_of_steps_in_every_ball(monkeypatch, steps, options, expected):
    taken = []
    monkeypatch.setattr(dpaat_module, "pgd_graded", lambda model, x, y, *, steps, **_: (x, taken.append(steps)))
    x, y = (values[:4] for values in batch(SIZE)[1:])
    method = make("dpaat-fast", options, steps=steps, clean_weight=0.0)
    method.attack(Network(), x, y, torch.tensor([0, 1, 4, 8]) / 255, torch.ones(4, dtype=torch.bool))
    assert taken[0].tolist() == expected


@pytest.mark.parametrize(("clean_weight", "views"), [(0.0, "alternate"), (0.0, "both"), (0.3, "both"), (0.9, "both")])
def test_fast_is_dpaat_half_where_all_are_attacked_in_the_largest_ball(clean_weight, views):
    index, x, y = batch()
    outputs = []
    for name in ("dpaat-half", "dpaat-fast"):
        options = {"steps_scale": 1.0, "views": views} if name == "dpaat-fast" else {}
        method, model = make(name, options, clean_weight=clean_weight), Network()
        method.perturbation.eps.fill_(8 / 255)
        output = method(model, index, x, y)
        output.loss.backward()
        method.after_step(output)
        gradients = [p.grad for p in model.parameters()]
        outputs.append([output.loss, output.logits, *output.rows.values(), method.perturbation.loss, *gradients])
    for one, other in zip(*outputs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("views", ["alternate", "both"])
def test_static_shapes_cost_passes_and_change_nothing_else(views, monkeypatch):
    monkeypatch.setattr(import_module("dpaat.attacks.pgd"), "GRANULE", 1)
    index, x, y = batch(SIZE)
    outputs, passes = [], []
    for static in (False, True):
        method, model = make("dpaat", {"views": views}, clean_weight=0.5, steps=10, static_shapes=static), Network()
        method.perturbation.eps.copy_(torch.linspace(0, 8 / 255, len(method.perturbation.eps)))
        output = method(model, index, x, y)
        output.loss.backward()
        method.after_step(output)
        passes.append(model.forwards[:-1])
        outputs.append([output.loss, output.logits, *output.rows.values(), *method.state_dict().values()])
    assert passes[1] == [SIZE] * 10 != passes[0]
    for one, other in zip(*outputs, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 0.5, 1.0])
def test_fast_shows_the_clean_view_in_its_share_of_the_epochs(clean_weight):
    method, index, turns = make("dpaat-fast", clean_weight=clean_weight), torch.arange(1000), []
    for epoch in range(20):
        method.begin_epoch(epoch)
        turns.append(method.is_adversarial(index))
    share = torch.stack(turns).double()
    assert torch.all((share.mean(0) - (1 - clean_weight)).abs() <= 1 / 20)
    assert torch.all((share.mean(1) - (1 - clean_weight)).abs() <= 3 / 1000)


def test_fast_shows_some_adversarial_views_beside_all_clean_ones():
    options = {"views": "both", "adv_fraction": 0.5}
    method, model = make("dpaat-fast", options, adv_start=0.5, epochs=4, clean_weight=0.9), Network()
    index, x, y = torch.arange(SIZE), *batch(SIZE)[1:]
    shown = []
    assert method.context.first_attack == 2
    for epoch in (2, 3):
        method.begin_epoch(epoch)
        model.shown.clear()
        output = method(model, index, x, y)
        views, rows = model.shown[-1], method.is_adversarial(index)
        assert torch.equal(views[:SIZE], x)
        assert torch.equal(views[SIZE:].ne(x[rows]).flatten(1).any(1), method.perturbation.eps[index][rows] > 0)
        logits = model(views)
        losses = F.cross_entropy(logits, torch.cat([y, y[rows]]), reduction="none")
        assert torch.allclose(output.logits[rows], logits[SIZE:], atol=1e-5)
        assert torch.allclose(output.rows["tracked_loss"], losses[:SIZE], atol=1e-5), "clean losses of the same pass"
        clean, adversarial = losses[:SIZE].mean(), losses[SIZE:].sum() / SIZE
        assert torch.isclose(output.loss, 0.9 * clean + 0.1 / 0.5 * adversarial, atol=1e-5)
        shown.append(rows)
    assert torch.all(torch.stack(shown).sum(0) == 1), "each sample once in the two epochs"


@pytest.mark.parametrize("options", [{}, {"views": "both", "adv_fraction": 0.5}])
def test_fast_moves_only_the_state_of_what_it_attacks(options):
    method, model = make("dpaat-fast", options, clean_weight=0.5), Network()
    index, x, y = torch.arange(SIZE), *batch(SIZE)[1:]
    method.begin_epoch(0)
    turn = method.is_adversarial(index)
    clean = F.cross_entropy(model.eval()(x), y, reduction="none").detach()
    method.after_step(method(model.train(), index, x, y))
    assert torch.equal(method.perturbation.visits > 0, turn)
    if not options:
        assert torch.allclose(method.perturbation.loss[turn], clean[turn], atol=1e-5)


def test_global_scope_keeps_no_labels():
    assert make("dpaat-paper").perturbation.labels is None
    assert len(make("dpaat").perturbation.criterion) == CLASSES
