import json
import math
import time

import pytest
import torch

from dpaat.cli import main
from dpaat.config import TrainConfig, complete
from dpaat.data import prepare
from dpaat.errors import UserError
from dpaat.methods import MethodContext, build_method, find_method
from dpaat.training.module import TrainingModule
from dpaat.training.profile import profile, spread_sizes
from dpaat.training.setup import DataModule, build
from dpaat.training.stopwatch import PHASES, measure_memory
from fast_agreement import share_moved_alike
from profile_accuracy import standing_share

TINY = {"data": "synthetic:120", "image_size": 32, "model": "test_resnet", "stem": "original", "batch_size": 8}


@pytest.fixture(scope="module")
def found():
    return profile(
        TrainConfig(**TINY, method="dpaat", clean_weight=0.85, steps=4, val_steps=2, accelerator="cpu"), batches=4
    )


def test_phases_make_up_the_step_and_the_attack_is_most_of_it(found):
    phases = found["batch"]["phases"]
    assert tuple(phases) == PHASES
    assert sum(phases.values()) == pytest.approx(found["batch"]["seconds"], rel=0.5)
    assert phases["attack"] > 2 * phases["augmentation"] > 0
    assert phases["attack"] > phases["forward"] > 0
    assert found["batches"] == 4


def test_a_run_is_its_epochs(found):
    epoch = found["epoch"]
    batches = math.ceil(86 / 8)  # what is left of 120 without test and validation
    assert epoch["training"] == pytest.approx(batches * found["batch"]["seconds"], rel=0.1)
    assert epoch["seconds"] == pytest.approx(epoch["training"] + epoch["validation"] + epoch["end"])
    assert found["run"] == pytest.approx(30 * epoch["seconds"])


def test_standard_training_has_no_attack():
    found = profile(TrainConfig(**TINY, method="standard", accelerator="cpu"), batches=6)
    assert found["batch"]["phases"]["attack"] < 0.1 * found["batch"]["phases"]["forward"]
    assert 0.5 < found["over_floor"] < 4


def test_floor_counts_the_views_of_the_method(found):
    passes = found["passes"]
    with_teacher = 0.15 * (4 * passes["input_gradient"] + passes["forward"]) + passes["training"]
    assert found["floor"] == pytest.approx(with_teacher)
    half = profile(TrainConfig(**TINY, method="dpaat-half", steps=4, accelerator="cpu"), batches=2)
    assert half["floor"] == pytest.approx(4 * half["passes"]["input_gradient"] + 2 * half["passes"]["training"])


def test_sizes_are_spread_as_in_the_middle_of_a_run():
    context = MethodContext(
        torch.zeros(101, dtype=torch.long), 2, 10, lambda logits, y: logits[:, 0], 0.1, 3, "linf", 0.5
    )
    for name, smallest in (("dpaat-fast", 0.0), ("dpaat", 0.02), ("pgd", None)):
        method = build_method(find_method(name), context, {})
        spread_sizes(method)
        if smallest is not None:
            assert torch.allclose(method.perturbation.eps.sort().values, torch.linspace(smallest, 0.1, 101))


def test_the_end_of_an_epoch_holds_its_scores(monkeypatch):
    score = TrainingModule.on_validation_epoch_end

    def slow(module):
        time.sleep(1)
        score(module)

    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", slow)
    found = profile(TrainConfig(**TINY, method="standard", accelerator="cpu"), batches=1)
    assert found["epoch"]["end"] > 1
    assert found["epoch"]["validation"] < found["epoch"]["seconds"] - 1


def test_memory_grows_with_the_batch():
    config = complete(TrainConfig(**TINY, method="dpaat-half", steps=2, accelerator="cpu"))
    data = prepare(config.data, image_size=32)
    module = build(config, data)
    dataset = DataModule(data, batch_size=8, seed=0, balanced=False, workers=0).train
    small, large = (measure_memory(module, dataset.__getitems__(range(n)))["batch"] for n in (8, 16))
    assert large == pytest.approx(2 * small, rel=0.05)
    weights = sum(p.numel() for p in module.model.parameters())
    assert measure_memory(module, dataset.__getitems__(range(8)))["model"] == 3 * 4 * weights
    taught = build(complete(TrainConfig(**TINY, accelerator="cpu")), data)
    assert measure_memory(taught, dataset.__getitems__(range(8)))["model"] == 4 * 4 * weights
    assert torch.is_grad_enabled()


def test_command(tmp_path, capsys):
    options = ["--data", "synthetic:120", "--image-size", "32", "--model", "test_resnet", "--stem", "original"]
    options += ["--steps", "1", "--batch-size", "16", "--batches", "2", "--accelerator", "cpu"]
    assert main(["profile", *options, "--out", str(tmp_path / "profile.json")]) == 0
    printed = capsys.readouterr().out
    assert "floor" in printed
    assert "30 epochs" in " ".join(printed.split())
    assert json.loads((tmp_path / "profile.json").read_text())["run"] > 0


def test_too_few_batches():
    with pytest.raises(UserError, match="batch_size"):
        profile(TrainConfig(**TINY | {"batch_size": 100}, accelerator="cpu"))


def test_share_of_validation_images_that_are_attacked() -> None:
    scores = {"val/accuracy": 0.8, "val/robust_accuracy@2/255": 0.4, "val/robust_accuracy@8/255": 0.1}
    # All that are right are attacked at 2/255, those that then still stand at 8/255.
    assert standing_share(scores, [2 / 255, 8 / 255]) == pytest.approx(0.6)
    assert standing_share(scores, [2 / 255]) == 0.8


def test_radii_that_moved_alike() -> None:
    before = torch.tensor([1.0, 1.0, 1.0, 1.0])
    one = torch.tensor([2.0, 0.5, 1.0, 2.0])
    other = torch.tensor([3.0, 0.9, 1.0, 0.0])
    assert share_moved_alike(before, one, other) == 0.75
    assert share_moved_alike(before, one, before) == 0.25
