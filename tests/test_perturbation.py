"""The per-sample state, checked against hand-computed cases."""

import copy
import math

import pytest
import torch

from dpaat.perturbation import AdaptivePerturbation, stepped
from dpaat.thresholds import STATISTICS, mean, quantile


def make(num_samples: int = 6, *, increment: float = 0.25, **options) -> AdaptivePerturbation:
    """Sizes that move by fixed increments."""
    fixed = {"eps_init": 0.5, "eps_min": 0.0, "rule": stepped(increment), "damping": 0.0, "renew_every": 1}
    return AdaptivePerturbation(num_samples, 1.0, **(fixed | options))


def solving(num_samples: int = 2, **options) -> AdaptivePerturbation:
    """Sizes that are solved, without damping."""
    return AdaptivePerturbation(
        num_samples, 1.0, **({"eps_init": 0.5, "eps_min": 0.1, "damping": 0.0, "renew_every": 1} | options)
    )


def visit(
    state: AdaptivePerturbation, index: list[int], adv_loss: list[float], clean_loss: list[float] | None = None
) -> None:
    state.update(torch.tensor(index), torch.tensor(adv_loss), None if clean_loss is None else torch.tensor(clean_loss))


def test_easy_samples_grow_and_hard_ones_shrink():
    state = make()
    visit(state, [0, 1, 2], [1.0, 2.0, 6.0])  # mean 3
    assert state.criterion.tolist() == [3.0]
    assert state.eps.tolist() == [0.75, 0.75, 0.25, 0.5, 0.5, 0.5]
    assert state.visits.tolist() == [1, 1, 1, 0, 0, 0]
    assert state.loss.tolist() == [1.0, 2.0, 6.0, 0, 0, 0]


def test_the_criterion_moves_with_the_collection():
    state = make(4)
    visit(state, [0, 1], [1.0, 3.0])
    assert state.criterion.item() == 2.0
    visit(state, [2, 3], [9.0, 7.0])
    assert state.criterion.item() == 5.0
    visit(state, [3], [0.5])  # replaces 7 by 0.5
    assert state.criterion.item() == pytest.approx(3.375)
    assert state.eps.tolist() == [0.75, 0.25, 0.25, 0.5]


def test_sizes_stay_between_zero_and_eps_max():
    state = make(2, increment=0.4)
    for _ in range(4):
        visit(state, [0, 1], [0.0, 1.0])
    assert state.eps.tolist() == [1.0, 0.0]


def test_sizes_stay_above_a_floor():
    state = make(2, eps_min=0.25, increment=0.4)
    visit(state, [0, 1], [0.0, 1.0])
    assert state.eps.tolist() == pytest.approx([0.9, 0.25])
    assert AdaptivePerturbation(2, 1.0, eps_min=0.25).eps.tolist() == [0.25, 0.25]


def test_an_own_rule_sees_one_value_a_sample():
    shapes = []

    def ranked(eps, adv_loss, clean_loss, threshold):
        shapes.extend(values.shape for values in (eps, adv_loss, clean_loss, threshold))
        return eps + torch.where(adv_loss <= threshold / 2, 0.25, -0.25) * (adv_loss.argsort().argsort() + 1)

    for labels in (None, torch.tensor([0, 1, 0, 1, 0, 1])):
        state = make(rule=ranked, labels=labels, num_classes=2)
        for clean_loss in (None, [1.0, 1.0, 1.0]):
            visit(state, [0, 1, 2], [1.0, 2.0, 6.0], clean_loss)
    assert set(shapes) == {(3,)}
    state = make(rule=ranked)
    visit(state, [0, 1, 2], [1.0, 2.0, 6.0])
    assert state.eps[:3].tolist() == [0.75, 0.0, 0.0]  # by the ranks 1, 2 and 3, clipped


def test_an_own_rule_is_held_to_its_shape_and_the_range():
    for wrong in (lambda eps, *_: eps[:, None], lambda eps, *_: eps.mean()):
        with pytest.raises(ValueError, match=r"rule must give radii of the shape \(2,\), not \("):
            visit(make(rule=wrong), [0, 1], [1.0, 2.0])
    state = make(rule=lambda eps, *_: eps + torch.tensor([torch.inf, -torch.inf, torch.nan]))
    visit(state, [0, 1, 2], [1.0, 2.0, 3.0])
    assert state.eps[:3].tolist() == [1.0, 0.0, 0.5]


def test_a_class_is_judged_by_its_own_losses():
    labels = torch.tensor([0, 0, 1, 1])
    state = make(4, labels=labels, num_classes=3)
    visit(state, [0, 1, 2, 3], [1.0, 2.0, 10.0, 20.0])
    assert state.criterion[:2].tolist() == [1.5, 15.0]
    assert torch.isnan(state.criterion[2])
    assert state.eps.tolist() == [0.75, 0.25, 0.75, 0.25]


def test_collected_clean_losses_set_the_level():
    state = make(2)
    visit(state, [0, 1], [3.0, 0.5], clean_loss=[1.0, 1.0])
    assert state.criterion.item() == 1.0
    assert state.loss.tolist() == [1.0, 1.0]
    assert state.eps.tolist() == [0.25, 0.75]


def test_warmup_only_collects():
    state = make(2, warmup=1)
    visit(state, [0, 1], [1.0, 3.0])
    assert state.eps.tolist() == [0.5, 0.5]
    assert state.criterion.item() == 2.0
    visit(state, [0, 1], [1.0, 3.0])
    assert state.eps.tolist() == [0.75, 0.25]


def test_renewal_waits_for_enough_visits():
    state = make(6, renew_every=4)
    visit(state, [0, 1], [1.0, 3.0])
    assert state.criterion.item() == 2.0
    visit(state, [2, 3], [9.0, 9.0])
    assert state.criterion.item() == 2.0
    visit(state, [4, 5], [9.0, 9.0])
    assert state.criterion.item() == pytest.approx(40 / 6)


def test_an_index_repeated_in_a_batch_counts_once():
    state = make(3)
    visit(state, [2, 0, 2, 2], [1.0, 5.0, 100.0, 200.0])
    assert state.visits.tolist() == [1, 0, 1]
    assert state.loss.tolist() == [5.0, 0.0, 1.0]
    assert state.eps.tolist() == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing(bad):
    state = make(2)
    visit(state, [0, 1], [bad, 1.0])
    assert state.visits.tolist() == [0, 1]
    assert state.loss.tolist() == [0.0, 1.0]
    assert state.eps.tolist() == [0.5, 0.75]
    assert state.criterion.item() == 1.0


def test_quantiles_agree_with_torch_in_every_group():
    generator = torch.Generator().manual_seed(0)
    values, group = torch.randn(500, generator=generator), torch.randint(0, 5, (500,), generator=generator)
    counted = torch.rand(500, generator=generator) < 0.7
    counted[group == 3] = False
    for q in (0.25, 0.5, 0.75, 1.0):
        found = quantile(q)(values, group, counted, 6)
        for c in (0, 1, 2, 4):
            chosen = values[counted & (group == c)]
            assert found[c] == chosen.quantile(q, interpolation="lower")
        assert torch.isnan(found[[3, 5]]).all()
    assert mean(values, group, counted, 6)[1] == pytest.approx(values[counted & (group == 1)].mean().item())


@pytest.mark.parametrize("statistic", STATISTICS)
def test_state_dict_restores_the_very_same_future(statistic):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (50,), generator=generator)
    options = {"labels": labels, "num_classes": 3, "statistic": statistic, "renew_every": 13}
    batches = [(torch.randperm(50, generator=generator)[:8], torch.rand(8, generator=generator)) for _ in range(20)]
    unbroken = make(50, **options)
    for index, signal in batches[:10]:
        unbroken.update(index, signal)
    resumed = make(50, **options)
    resumed.load_state_dict(copy.deepcopy(unbroken.state_dict()))
    for index, signal in batches[10:]:
        unbroken.update(index, signal)
        resumed.update(index, signal)
    for name in ("eps", "loss", "visits", "criterion"):
        assert torch.equal(getattr(unbroken, name), getattr(resumed, name)), name


def test_a_size_is_solved_from_the_two_losses():
    state = solving()
    # Clean losses 1 and 0.2, so the threshold is 0.6. Of sample 1 the loss rises from 0.2 by 0.8 on a way of 0.5.
    visit(state, [0, 1], [3.0, 1.0], clean_loss=[1.0, 0.2])
    assert state.criterion.item() == pytest.approx(0.6)
    assert state.eps.tolist() == pytest.approx([0.1, 0.25]), "a clean loss above the threshold asks for the smallest"


def test_every_move_but_the_first_is_damped():
    state = solving(damping=0.5)
    visit(state, [0, 1], [3.0, 1.0], clean_loss=[1.0, 0.2])
    assert state.eps.tolist() == pytest.approx([0.1, 0.25])
    visit(state, [0, 1], [3.0, 0.4], clean_loss=[1.0, 0.2])
    assert state.eps.tolist() == pytest.approx([0.1, (0.25 + 0.5) / 2])


def test_the_distance_is_solved_for_even_odds_beyond_the_ends_of_the_sizes():
    state = solving(4, eps_min=0.2, eps_init=0.5)
    even = math.log(2)
    # In turn: within, beyond the largest size, label less likely than not, loss that does not rise.
    visit(state, [0, 1, 2, 3], adv_loss=[2 * even, 0.35 * even, 3.0, 0.1], clean_loss=[0.0, 0.0, 2 * even, 0.2])
    assert state.distance.tolist() == pytest.approx([0.25, 0.5 / 0.35, 0.0, 2.0], rel=1e-3)
    assert state.eps.max() <= 1


def test_the_distance_of_an_image_that_was_not_moved_is_not_told():
    state = solving(1, eps_min=0.0, eps_init=0.0)
    visit(state, [0], adv_loss=[0.5], clean_loss=[0.1])
    assert state.distance.tolist() == [0.0]


def test_a_sample_attacked_before_there_is_a_threshold_stays_and_its_next_move_is_damped():
    # With the threshold 1, losses of 0 and 0.625 ask for 0.8.
    state = solving(4, labels=torch.tensor([0, 1, 1, 1]), num_classes=2, damping=0.5, renew_every=2)
    visit(state, [0], [1.0], clean_loss=[1.0])
    visit(state, [1], [0.625], clean_loss=[0.0])
    assert (state.eps[1], state.visits[1]) == (0.5, 1)
    visit(state, [3], [3.0], clean_loss=[3.0])
    visit(state, [1, 2], [0.625, 0.625], clean_loss=[0.0, 0.0])
    assert state.criterion.tolist() == [1.0, 1.0]
    assert state.eps[1:3].tolist() == pytest.approx([0.65, 0.8])


def test_a_loss_that_does_not_rise_asks_for_the_largest_or_the_smallest():
    state = solving(3)
    visit(state, [0, 1, 2], [0.2, 0.1, 1.0], clean_loss=[0.2, 0.2, 1.1])
    assert state.eps.tolist() == pytest.approx([1.0, 1.0, 0.1])


@pytest.mark.parametrize("shape", ["linear", "convex"])
def test_repeated_solving_finds_the_radius_where_the_loss_meets_the_threshold(shape):
    labels = torch.arange(40) % 2
    rise = torch.linspace(1.0, 30.0, 40)
    clean = torch.where(labels == 0, 0.1, 0.5) * torch.linspace(0.2, 1.8, 40)

    def loss(eps: torch.Tensor) -> torch.Tensor:
        return clean + rise * (eps if shape == "linear" else eps + eps.square())

    state = solving(40, labels=labels, num_classes=2, eps_min=0.001, damping=0.5)
    for _ in range(40):
        state.update(torch.arange(40), loss(state.eps), clean)
    threshold = state.criterion[labels]
    inside = (state.eps > 0.00101) & (state.eps < 0.999)
    assert inside.sum() >= 15
    assert torch.allclose(loss(state.eps)[inside], threshold[inside], rtol=1e-4)
    too_hard = loss(torch.full((40,), 0.001)) > threshold
    assert torch.equal(state.eps[~inside] < 0.5, too_hard[~inside])


def test_at_most_sixteen_bytes_a_sample():
    state = AdaptivePerturbation(10_000, 0.1, labels=torch.zeros(10_000, dtype=torch.long), num_classes=7)
    rows = [buffer for buffer in state.buffers() if buffer.numel() == 10_000]
    assert sum(buffer.element_size() for buffer in rows) <= 16
    assert state.to(torch.device("meta")).eps.device.type == "meta"


def test_means_are_as_exact_as_in_float64():
    values = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) + 100
    group, counted = torch.arange(200_000) % 3, torch.ones(200_000, dtype=torch.bool)
    expected = [values[group == c].double().mean().float().item() for c in range(3)]
    assert mean(values, group, counted, 3).tolist() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_samples": 0},
        {"eps_max": 0.0},
        {"eps_init": 2.0},
        {"eps_min": -0.1},
        {"eps_min": 2.0},
        {"damping": 1.0},
        {"warmup": -1},
        {"renew_every": 0},
        {"statistic": "mode"},
        {"labels": torch.zeros(3)},
        {"labels": torch.tensor([0, 5]), "num_classes": 2},
    ],
)
def test_wrong_arguments_are_named(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        AdaptivePerturbation(**{"num_samples": 2, "eps_max": 1.0, **wrong})
