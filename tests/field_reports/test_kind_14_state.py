"""Reports from the field, kind 14: the public state checks what it is given (found in our audit, but for two)."""

import copy

import numpy as np
import pytest
import torch

from dpaat import AdaptivePerturbation
from dpaat.sample_state import EpochRadii, SampleRadii

SAMPLES = 6


def make(**options: object) -> AdaptivePerturbation:
    labels = torch.arange(SAMPLES) % 2
    return AdaptivePerturbation(SAMPLES, **({"eps_max": 8 / 255, "labels": labels, "num_classes": 2} | options))


def update(state: AdaptivePerturbation, index: object, adv_loss: torch.Tensor, clean_loss: torch.Tensor) -> None:
    state.update(index, adv_loss, clean_loss)


def record(state: SampleRadii, index: object, eps: torch.Tensor, loss: torch.Tensor) -> None:
    state.record(index, eps, loss)


STATES = {
    "solved": (make, update),
    "radii": (lambda: SampleRadii(SAMPLES, 0.01), record),
    "radii of an epoch": (lambda: EpochRadii(SAMPLES, 0.01), record),
}


def refused(name: str, error: type[Exception], match: str, index: object, *losses: torch.Tensor) -> None:
    """In one line, and nothing is changed."""
    build, give = STATES[name]
    state = build()
    before = copy.deepcopy(state.state_dict())
    with pytest.raises(error, match=match) as caught:
        give(state, index, *losses)
    assert "\n" not in str(caught.value)
    for key, value in state.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(7), before[key].nan_to_num(7)), key


LOSSES = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(
    "index",
    [
        [0, 1],
        (0, 1),
        np.array([0, 1]),
        ["img_0", "img_1"],
        torch.tensor([0.0, 1.0]),
        torch.tensor([True, False]),
        torch.tensor([0j, 1j]),
    ],
)
def test_an_index_that_is_no_tensor_of_integers(name, index):
    refused(name, TypeError, "index must be a tensor of sample numbers", index, LOSSES, LOSSES)


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("index", [[0, 6], [0, -1], [10**6, 0]])
def test_an_index_beyond_the_training_set(name, index):
    refused(name, ValueError, "index must lie in 0 to 5, not", torch.tensor(index), LOSSES, LOSSES)


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(
    ("index", "losses"),
    [
        ([0, 1], [1.0, 2.0, 3.0]),
        ([0, 1, 2], [1.0, 2.0]),
        ([0, 1], [[1.0], [2.0]]),
        ([[0], [1]], [1.0, 2.0]),
        ([0, 1], 1.0),
    ],
)
def test_losses_of_another_shape_than_the_index(name, index, losses):
    losses = torch.tensor(losses)
    refused(name, ValueError, r"must have one shape \(B,\)", torch.tensor(index), losses, losses)


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_losses_of_another_shape(which):
    losses = [LOSSES, LOSSES]
    losses[which] = torch.ones(3)
    refused("solved", ValueError, r"must have one shape \(B,\)", torch.tensor([0, 1]), *losses)


def test_clean_losses_that_are_missing():
    with pytest.raises(ValueError, match="clean_loss must be the clean losses"):
        make().update(torch.tensor([0, 1]), LOSSES)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_an_index_of_any_integers_will_do(dtype):
    state = make()
    state.update(torch.tensor([0, 1], dtype=dtype), LOSSES, LOSSES)
    assert state.visits.tolist() == [1, 1, 0, 0, 0, 0]


def test_an_empty_batch_changes_nothing():
    state = make()
    before = copy.deepcopy(state.state_dict())
    state.update(torch.tensor([], dtype=torch.long), torch.tensor([]), torch.tensor([]))
    assert torch.equal(state.visits, before["visits"])
    assert torch.equal(state.eps, before["eps"])


# A module in half precision converts its buffers (mapillary/inplace_abn#86): sizes would lose digits.
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("convert", ["half", "bfloat16", "double", "float16 and device"])
def test_the_state_stays_in_float32(name, convert):
    build, give = STATES[name]
    state = build()
    give(state, torch.tensor([0, 1]), LOSSES, LOSSES / 3)
    twin = copy.deepcopy(state)
    model = torch.nn.ModuleDict({"state": twin, "layer": torch.nn.Linear(2, 2)})
    model = model.to("cpu", torch.float16) if convert == "float16 and device" else getattr(model, convert)()
    assert model["layer"].weight.dtype != torch.float32
    for key, buffer in state.named_buffers():
        assert torch.equal(twin.get_buffer(key).nan_to_num(7), buffer.nan_to_num(7)), key
        assert twin.get_buffer(key).dtype == buffer.dtype
    give(twin, torch.tensor([0, 1]), LOSSES.half(), (LOSSES / 2).double())
    assert twin.eps.dtype == torch.float32


def damaged(**changes: torch.Tensor) -> dict:
    return make().state_dict() | changes


@pytest.mark.parametrize(
    ("state_dict", "named"),
    [
        (damaged(eps=torch.full((SAMPLES,), 16 / 255)), "up to 0.03137.* 0.06275"),
        (damaged(eps=torch.full((SAMPLES,), -0.01)), "-0.01"),
        (damaged(eps=torch.full((SAMPLES,), torch.nan)), "nan"),
        (damaged(eps=torch.zeros(SAMPLES + 1)), "must be of 6 samples.*7 samples"),
        (
            AdaptivePerturbation(9, 8 / 255, labels=torch.zeros(9).long()).state_dict(),
            "must be of 6 samples.*9 samples",
        ),
    ],
)
def test_a_state_of_another_run_is_not_loaded(state_dict, named):
    state = make()
    with pytest.raises(ValueError, match=named) as caught:
        state.load_state_dict(state_dict)
    assert "\n" not in str(caught.value)
    assert torch.equal(state.eps, make().eps)


def test_a_state_of_a_larger_radius_is_not_loaded_inside_a_model():
    model, other = (torch.nn.ModuleDict({"state": make(eps_max=eps_max)}) for eps_max in (4 / 255, 8 / 255))
    other["state"].eps.fill_(8 / 255)
    with pytest.raises(ValueError, match=r"sizes up to 0\.01569"):
        model.load_state_dict(other.state_dict())


# "Why epsilon can be larger than 1?" (MadryLab/mnist_challenge#13); kind 7 has the attacks.
@pytest.mark.parametrize(("eps_max", "meant"), [(8, "8/255"), (8.0, "8/255"), (2.5, "2.5/255"), (1.001, "1.001/255")])
def test_a_radius_beyond_the_image_range_is_a_slip(eps_max, meant):
    with pytest.raises(ValueError, match=f"eps_max: .*did you mean {meant}"):
        make(eps_max=eps_max)


# A norm that is not known must not switch the check off; found in our audit, as are those below.
@pytest.mark.parametrize("norm", ["L2", "Linf", "inf", "l1"])
def test_an_unknown_norm(norm):
    with pytest.raises(ValueError, match="norm must be linf or l2"):
        make(eps_max=8, norm=norm)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_endless_radius(norm):
    with pytest.raises(ValueError, match="finite"):
        make(eps_max=torch.inf, norm=norm)


def test_labels_between_classes():
    for labels in ([0.0, 0.5, 1, 1, 0, 0], [0, 1, torch.nan, 1, 0, 0]):
        with pytest.raises(ValueError, match="labels must be integers"):
            AdaptivePerturbation(SAMPLES, 8 / 255, labels=torch.tensor(labels), num_classes=2)


@pytest.mark.parametrize(
    "losses", [1.0, [1.0, 2.0], torch.tensor([1, 2]), torch.tensor([True, False]), torch.ones(2) * 1j]
)
def test_losses_that_are_no_tensor_of_numbers(losses):
    with pytest.raises(TypeError, match="losses must be floating tensors"):
        make().update(torch.tensor([0, 1]), losses, LOSSES)


@pytest.mark.parametrize("eps", [torch.tensor(0.01), torch.zeros(0), torch.zeros(SAMPLES, 1)])
def test_a_state_of_another_shape_is_not_loaded(eps):
    with pytest.raises(ValueError, match="must be of 6 samples"):
        make().load_state_dict(damaged(eps=eps))


def test_a_state_of_other_samples_is_not_loaded():
    """Of as many, but of other classes: another fold, or another order."""
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    one, other = (AdaptivePerturbation(SAMPLES, 8 / 255, labels=y, num_classes=2) for y in (labels, 1 - labels))
    with pytest.raises(ValueError, match="these labels"):
        one.load_state_dict(other.state_dict())
    state = one.state_dict()
    one.load_state_dict(state | {"labels": state["labels"].to(torch.int16)})  # as versions before kept them


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_state_that_is_assigned_stays_in_float32(dtype):
    state = make()
    state.load_state_dict(damaged(eps=torch.full((SAMPLES,), 4 / 255, dtype=dtype)), assign=True)
    assert state.eps.dtype == torch.float32
    state.update(torch.tensor([0, 1]), LOSSES, LOSSES)


def test_the_threshold_is_renewed_in_time_whatever_a_state_says():
    state = make()
    state.set_extra_state({"until_renewal": 10**9})
    state.update(torch.arange(SAMPLES), torch.ones(SAMPLES), torch.ones(SAMPLES))
    assert state.criterion.isfinite().all()


def test_a_radius_that_is_none_or_no_number():
    for eps_max in (0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="eps_max"):
            make(eps_max=eps_max)
    assert make(eps_max=8.0, norm="l2").eps_max == 8.0
    assert make(eps_max=1.0).eps_max == 1.0
