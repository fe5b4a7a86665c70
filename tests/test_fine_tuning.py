"""A run that begins with weights: its head, the rate of its head, its frozen body."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from dpaat.config import TrainConfig
from dpaat.models import build_model
from dpaat.networks import head_layers
from dpaat.runs import BEST, LAST
from dpaat.training import train
from dpaat.weights import read_weights
from training_makers import tiny_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "five.pth"
    torch.save(timm.create_model("test_resnet", num_classes=5).state_dict(), path)
    return path


def fine_tuned(images: Path, weights: Path, out: Path, **changes: object) -> Path:
    return train(tiny_config(images, method="standard", imbalance="none", weights=str(weights), **changes), out)


def tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The parameters of a run's head, and of its body."""
    found = read_weights(path)
    network = {n.removeprefix("model.network."): t for n, t in found.items() if n.startswith("model.network.")}
    names = {name for name, _ in timm.create_model("test_resnet").named_parameters()}
    head = {n: t for n, t in network.items() if n.startswith("fc.")}
    return head, {n: t for n, t in network.items() if n in names and n not in head}


@pytest.mark.parametrize("classes", [3, 7])
def test_a_replaced_head_gives_all_classes_the_same_chance(weights: Path, classes: int) -> None:
    model = build_model("test_resnet", num_classes=classes, image_size=64, weights=weights)
    logits = model(torch.rand(4, 3, 64, 64))
    loss = nn.functional.cross_entropy(logits, torch.arange(4) % classes)
    assert loss.item() == pytest.approx(math.log(classes))


def test_a_head_that_fits_is_kept(weights: Path) -> None:
    model = build_model("test_resnet", num_classes=5, image_size=64, weights=weights)
    assert torch.equal(model.network.fc.weight, read_weights(weights)["fc.weight"])


def test_a_network_that_begins_anew_has_a_head_that_does_not_block_its_body() -> None:
    model = build_model("test_resnet", num_classes=5, image_size=64)
    assert model.network.fc.weight.abs().max() > 0


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "convnext_atto", "vgg11", "regnetx_002"])
def test_the_head_is_what_gives_the_logits(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=9)
    assert [getattr(layer, "out_features", None) or layer.out_channels for layer in head_layers(network, 9)] == [9]


def test_a_frozen_body_stays_as_it_was_until_its_epoch(tiny_images: Path, weights: Path, tmp_path: Path) -> None:
    frozen = fine_tuned(tiny_images, weights, tmp_path / "frozen", epochs=2, freeze_until=2)
    freed = fine_tuned(tiny_images, weights, tmp_path / "freed", epochs=2, freeze_until=1, select="last")
    given = read_weights(weights)
    for run, moves in ((frozen, False), (freed, True)):
        head, body = tensors(run / LAST)
        assert any(value.abs().max() > 0 for value in head.values())
        assert all(torch.equal(value, given[name]) for name, value in body.items()) != moves, run


def test_the_head_has_its_own_rate_and_norms_and_biases_no_decay(
    tiny_images: Path, weights: Path, tmp_path: Path
) -> None:
    run = fine_tuned(tiny_images, weights, tmp_path / "run", epochs=1, lr=1e-12, lr_head=0.1)
    head, body = tensors(run / BEST)
    assert head["fc.weight"].abs().max() > 1e-3
    given = read_weights(weights)
    assert all(torch.allclose(value, given[name], atol=1e-6) for name, value in body.items())
    groups = torch.load(run / LAST, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert sorted({(group["weight_decay"], group["max_lr"]) for group in groups}) == [
        (0.0, 1e-12), (0.0, 0.1), (TrainConfig().weight_decay, 1e-12), (TrainConfig().weight_decay, 0.1),
    ]  # fmt: skip


def test_neither_option_changes_a_run_that_does_not_take_it(tiny_images: Path, tmp_path: Path) -> None:
    one = train(tiny_config(tiny_images, method="standard", epochs=1, lr=0.02), tmp_path / "one")
    same = train(tiny_config(tiny_images, method="standard", epochs=1, lr=0.02, lr_head=0.02), tmp_path / "same")
    for name, value in read_weights(one / BEST).items():
        assert torch.allclose(value, read_weights(same / BEST)[name], atol=1e-6), name
