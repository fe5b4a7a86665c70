"""The per-sample state, checked against hand-computed cases."""

import copy

import pytest
import torch

from dpaat.perturbation import SCHEDULES, STATISTICS, UPDATES, AdaptivePerturbation, mean, quantile


def make(num_samples: int = 6, **options) -> AdaptivePerturbation:
    options = {"eps_init": 0.5, "increment": 0.25, "warmup": 0, "renew_every": 1} | options
    return AdaptivePerturbation(num_samples, 1.0, **options)


def visit(
    state: AdaptivePerturbation, index: list[int], signal: list[float], collect: list[float] | None = None
) -> None:
    state.update(torch.tensor(index), torch.tensor(signal), None if collect is None else torch.tensor(collect))


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
    assert AdaptivePerturbation(2, 1.0, eps_min=0.25).eps.tolist() == [0.25, 0.25]  # though 1/8 is where others begin


def test_a_class_is_judged_by_its_own_losses():
    labels = torch.tensor([0, 0, 1, 1])
    state = make(4, labels=labels, num_classes=3)
    visit(state, [0, 1, 2, 3], [1.0, 2.0, 10.0, 20.0])
    assert state.criterion[:2].tolist() == [1.5, 15.0]
    assert torch.isnan(state.criterion[2])
    assert state.eps.tolist() == [0.75, 0.25, 0.75, 0.25]


def test_collected_clean_losses_set_the_level():
    state = make(2)
    visit(state, [0, 1], [3.0, 0.5], collect=[1.0, 1.0])
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


def test_averages_over_views_and_over_renewals():
    state = make(1, loss_decay=0.5, momentum=0.5)
    visit(state, [0], [4.0])
    assert (state.loss.item(), state.criterion.item()) == (4.0, 4.0)  # nothing to average with yet
    visit(state, [0], [2.0])
    assert (state.loss.item(), state.criterion.item()) == (3.0, 3.5)


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


def test_update_rules():
    eps, gap, step = torch.tensor([0.0, 0.4, 0.4]), torch.tensor([1.0, -0.5, 0.25]), torch.full((3,), 0.1)
    assert torch.allclose(UPDATES["additive"](eps, gap, step), torch.tensor([0.1, 0.3, 0.5]))
    assert torch.allclose(UPDATES["multiplicative"](eps, gap, step), torch.tensor([0.075, 0.4 / 1.5, 0.6]))
    assert torch.allclose(UPDATES["proportional"](eps, gap, step), torch.tensor([0.1, 0.35, 0.425]))
    assert SCHEDULES["inverse_sqrt"](torch.tensor([1, 4])).tolist() == [1.0, 0.5]


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


def test_at_most_fourteen_bytes_a_sample():
    state = AdaptivePerturbation(10_000, 0.1, labels=torch.zeros(10_000, dtype=torch.long), num_classes=7)
    rows = [buffer for buffer in state.buffers() if buffer.numel() == 10_000]
    assert sum(buffer.element_size() for buffer in rows) == 14
    assert state.to(torch.device("meta")).eps.device.type == "meta"


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_samples": 0},
        {"eps_max": 0.0},
        {"eps_init": 2.0},
        {"eps_min": -0.1},
        {"eps_min": 2.0},
        {"increment": 0.0},
        {"warmup": -1},
        {"loss_decay": 1.0},
        {"momentum": -0.1},
        {"renew_every": 0},
        {"statistic": "mode"},
        {"update": "none"},
        {"schedule": "none"},
        {"labels": torch.zeros(3)},
        {"labels": torch.tensor([0, 5]), "num_classes": 2},
    ],
)
def test_wrong_arguments_are_named(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        AdaptivePerturbation(**{"num_samples": 2, "eps_max": 1.0, **wrong})
