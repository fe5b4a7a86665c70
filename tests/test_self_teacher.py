"""The self-teacher: its loss, when it is frozen, that it stays so, and that every method can have one."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dpaat import AdversarialLoss
from dpaat.cli import main
from dpaat.config import TrainConfig, complete
from dpaat.errors import UserError
from dpaat.methods import METHODS
from dpaat.methods.teacher import SelfTeacher
from dpaat.runs import open_run
from dpaat.training import train
from dpaat.training.faults import first_attack
from method_makers import Network, batch, close, context
from training_makers import assert_equal, assert_same_run, checkpoint, fails, metrics, tiny_arguments, tiny_config

Y = torch.zeros(1, dtype=torch.long)
QUICK = {"steps": 1, "val_eps": "0", "batch_size": 16}


class Answer(nn.Module):
    """Whatever it is shown, it answers the same; no sample at all it does not take."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert len(x)
        return self.logits.expand(len(x), -1)


# --- the loss


def test_divergence_by_hand():
    teacher = SelfTeacher(Answer(0.0, 2 * math.log(3)), 0.5)  # at temperature 2: 1/4 and 3/4
    found = teacher.divergence(torch.tensor([[0.0, 0.0], [0.0, 2 * math.log(3)]]), torch.zeros(2, 1, 1, 1), Y)
    assert close(found, [4 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)), 0.0])
    hotter = SelfTeacher(Answer(0.0, math.log(3)), 0.5, temperature=1.0)
    assert close(hotter.divergence(torch.zeros(1, 2), torch.zeros(1, 1, 1, 1), Y), [float(found[0]) / 4])


def test_its_loss_is_mixed_in_by_its_weight():
    loss, logits, x = torch.tensor([2.0]), torch.zeros(1, 2), torch.zeros(1, 1, 1, 1)
    teacher = SelfTeacher(Answer(0.0, 2 * math.log(3)), 0.7)
    expected = 0.3 * loss + 0.7 * teacher.divergence(logits, x, Y)
    assert torch.equal(context(teacher=teacher).with_teacher(loss, logits, x, Y), expected)
    assert torch.equal(context().with_teacher(loss, logits, x, Y), loss)
    nothing = context(teacher=teacher).with_teacher(loss[:0], logits[:0], x[:0], Y[:0])
    assert nothing.shape == (0,), "no image of the batch is attacked"


def test_what_looks_at_the_network_does_not_see_the_teacher():
    seen: list[str] = []
    model = nn.utils.spectral_norm(nn.Linear(2, 2))
    model.register_forward_hook(lambda *_: seen.append("forward"))
    model.register_forward_hook(lambda *_, **__: seen.append("forward"), with_kwargs=True, always_call=True)
    model.register_full_backward_hook(lambda *_: seen.append("backward"))
    teacher, x = SelfTeacher(model, 0.5), torch.ones(1, 2, requires_grad=True)
    teacher.divergence(torch.zeros(1, 2), x, Y)
    assert teacher.network(x).requires_grad
    teacher.network(x).sum().backward()
    assert not seen
    model(x).sum().backward()
    assert seen == ["forward", "forward", "backward"]
    assert len(teacher.network._forward_pre_hooks) == 1, "which makes the weight"


def test_it_is_frozen():
    _, x, _ = batch()
    model = Network()
    teacher = SelfTeacher(model, 0.5)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    nn.ModuleDict({"teacher": teacher, "model": model}).train()
    assert model.training
    assert not any(module.training for module in teacher.modules())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.divergence(model(x), x, Y).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert_equal(dict(teacher.state_dict()), before)
    teacher.freeze(model)
    assert_equal(
        {name.removeprefix("network."): value for name, value in teacher.state_dict().items()}, dict(model.state_dict())
    )


# --- in a run


def part(run, prefix: str) -> dict:
    state = checkpoint(run)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("ema_decay", "taught_by"), [(0.0, "model."), (0.9, "ema.module.")])
def test_it_is_the_network_at_the_first_attack_and_a_broken_run_keeps_it(tiny_images, tmp_path, ema_decay, taught_by):
    config = tiny_config(tiny_images, method="dpaat", epochs=4, ema_decay=ema_decay, **QUICK)
    whole = train(config, tmp_path / "whole")
    for stop in (1, 2, 3) if ema_decay else (2,):  # before, at and after the first epoch with attacks
        torch.manual_seed(99)  # a new process starts with other random numbers
        broken = train(config, tmp_path / f"broken-{stop}", stop_after=stop)
        if stop == 2:
            frozen = part(broken, taught_by)
        train(config, broken, resume=True)
        assert_same_run(broken, whole)
    taught = part(whole, "method.teacher.network.")
    assert taught
    assert_equal(taught, frozen)
    last = part(whole, taught_by)
    assert any(not torch.equal(last[name], value) for name, value in taught.items())


@pytest.mark.parametrize("name", sorted(name for name, info in METHODS.items() if info.adversarial))
def test_every_method_can_have_one(tiny_images, tmp_path, name):
    changes = {"epochs": 2, "adv_start": 0.5}
    if name == "amat":  # it spends an epoch on its threshold, and teaches only where that is met
        changes = {"epochs": 3, "adv_start": 0.34, "eps": 0.5, "options": {"increment": 1.0}}
    config = tiny_config(tiny_images, method=name, **changes, **QUICK)
    runs = [train(replace(config, self_teacher=weight), tmp_path / f"run-{weight:g}") for weight in (0.0, 0.9)]
    without, taught = ([part(run, "model."), metrics(run)["train/loss"].tolist()] for run in runs)
    assert all(math.isfinite(loss) for loss in taught[1])
    assert taught[1][0] == without[1][0], "clean epochs are the same"
    assert taught[1][-1] != without[1][-1], "it takes part in the others"
    assert any(not torch.equal(value, without[0][key]) for key, value in taught[0].items())


@pytest.mark.parametrize("method", ["pgd", "dpaat", "iaat"])
def test_epochs_before_the_first_attack_are_standard_training_bit_for_bit(tiny_images, tmp_path, method):
    changes = {"epochs": 2, **QUICK}
    config = tiny_config(tiny_images, method=method, adv_start=0.5, **changes)
    late = train(config, tmp_path / "late", stop_after=1)
    standard = train(tiny_config(tiny_images, method="standard", **changes), tmp_path / "standard", stop_after=1)
    assert_equal(part(late, "model."), part(standard, "model."))
    assert_equal(checkpoint(late)["optimizer_states"], checkpoint(standard)["optimizer_states"])
    for name in ("train/loss", "train/accuracy", "val/loss"):
        assert metrics(late)[name].tolist() == metrics(standard)[name].tolist()


# --- what cannot be


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "pgd", "self_teacher": 0.5},
        {"method": "dpaat", "adv_start": 0.0},
        {"method": "dpaat", "adv_start": 0.01},
        {"method": "dpaat", "epochs": 1, "self_teacher": 0.7},
    ],
)
def test_it_needs_an_epoch_to_learn_from(changes):
    with pytest.raises(UserError, match=r"self_teacher: .* cannot teach before it has learned; give an --adv-start"):
        complete(TrainConfig(**changes))
    complete(TrainConfig(**changes | {"self_teacher": 0.0}))


def test_a_run_of_one_epoch_has_none_unless_it_is_asked_for():
    assert complete(TrainConfig(method="dpaat", epochs=1)).self_teacher == 0.0
    assert complete(TrainConfig(method="dpaat", epochs=2)).self_teacher == 1.0


@pytest.mark.parametrize(
    ("name", "value"), [("self_teacher", 1.1), ("self_teacher", -0.1), ("self_teacher", math.nan), ("adv_start", 1.0)]
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=f"^{name}: {value} is out of range"):
        complete(TrainConfig(method="pgd", **{"adv_start": 0.5, name: value}))


def test_the_command_line_says_so_in_one_line(tiny_images, tmp_path, capfd):
    arguments = tiny_arguments(tiny_images, self_teacher=0.5)
    fails(capfd, *arguments, f"--out={tmp_path / 'run'}", names=("self_teacher", "--adv-start"))
    assert not (tmp_path / "run").exists()


def test_standard_training_has_neither_attacks_nor_a_teacher():
    config = complete(TrainConfig(method="standard", adv_start=0.5, self_teacher=0.5))
    assert (config.adv_start, config.self_teacher) == (0.0, 0.0)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_run_with_a_teacher_is_evaluated_with_its_own_weights(tiny_images, tmp_path, ema_decay):
    run = train(
        tiny_config(tiny_images, method="dpaat", epochs=2, val_eps="0", ema_decay=ema_decay, select="last"),
        tmp_path / "run",
    )
    state = checkpoint(run, "best")["state_dict"]
    prefix = "ema.module." if ema_decay else "model."
    loaded = open_run(run).load_model().state_dict()
    assert all(torch.equal(value, state[f"{prefix}{name}"]) for name, value in loaded.items())
    assert not all(torch.equal(value, state[f"method.teacher.network.{name}"]) for name, value in loaded.items())
    assert main(["evaluate", str(run), "--eps=2/255", "--steps=1", "--device=cpu"]) == 0


@pytest.mark.parametrize(("name", "first"), [("taet", 3), ("amat", 3), ("pgd", 1)])
def test_the_teacher_is_frozen_when_the_attacks_begin(name, first):
    labels = torch.arange(8) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    adversarial = AdversarialLoss(model, labels, epochs=10, method=name, steps=1, adv_start=0.1, self_teacher=0.5)
    assert adversarial.method.first_attack == first
    config = complete(TrainConfig(method=name, epochs=10, adv_start=0.1, self_teacher=0.5))
    assert first_attack(config) == first
    x, index = torch.rand(8, 1, 2, 2), torch.arange(8)
    before = []
    for epoch in range(5):
        before.append(model[1].weight.detach().clone())
        adversarial(model, index, x, labels, epoch=epoch).backward()
        with torch.no_grad():
            model[1].weight += 1.0
        model.zero_grad()
    assert torch.equal(adversarial.method.teacher.network.state_dict()["model.1.weight"], before[first])
