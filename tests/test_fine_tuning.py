"""A run that begins with weights: its head, the rate of its head, its frozen body."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn
from torchvision import models

from dpaat.cli import main
from dpaat.config import TrainConfig, complete
from dpaat.errors import UserError
from dpaat.export import export
from dpaat.models import Classifier, build_model
from dpaat.networks import head_layers, make_network
from dpaat.runs import BEST, LAST, open_run
from dpaat.training import train
from dpaat.training.optimizer import check_head
from dpaat.weights import read_weights
from training_makers import make_images, tiny_arguments, tiny_config


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


def test_a_head_with_a_relu_after_it_is_not_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = build_model("torchvision:squeezenet1_1", num_classes=5, image_size=64).network
    torch.save(given.state_dict(), tmp_path / "w.pth")
    model = build_model("torchvision:squeezenet1_1", num_classes=3, image_size=64, weights=tmp_path / "w.pth").eval()
    nn.functional.cross_entropy(model(torch.rand(4, 3, 64, 64)), torch.arange(4) % 3).backward()
    assert sum(parameter.grad.abs().sum() for parameter in model.parameters()) > 0


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


# --- optimizer and learning rate


@pytest.mark.parametrize(
    ("given", "optimizer", "lr"),
    [
        ({}, "sgd", 0.1),
        ({"optimizer": "adamw"}, "adamw", 1e-3),
        ({"lr": 0.02}, "sgd", 0.02),
        ({"weights": "w.pth"}, "adamw", 1e-3),
        ({"pretrained": True}, "adamw", 1e-3),
        ({"weights": "w.pth", "optimizer": "sgd"}, "sgd", 0.01),
        ({"weights": "w.pth", "lr": 0.02}, "adamw", 0.02),
        ({"weights": "w.pth", "optimizer": "sgd", "lr": 0.1}, "sgd", 0.1),
    ],
)
def test_what_is_not_given_follows_from_the_weights(given: dict[str, Any], optimizer: str, lr: float) -> None:
    config = complete(TrainConfig(**given))
    assert (config.optimizer, config.lr) == (optimizer, lr)
    assert complete(config) == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr_head": 0.0}, "lr_head: 0.0 is out of range; it must be above 0"),
        ({"freeze_until": -1}, "freeze_until: -1 is out of range; it must be at least 0"),
        ({"freeze_until": 4, "weights": "w.pth"}, "freeze_until: 4 is more than the 3 epochs"),
        ({"freeze_until": 1}, "freeze_until: without --weights or --pretrained"),
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        complete(TrainConfig(epochs=3, **given))


def test_a_head_that_is_not_known_is_not_treated_apart() -> None:
    model = Classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(5)), torch.zeros(3), torch.ones(3))
    model(torch.rand(2, 3, 8, 8))
    check_head(TrainConfig(lr_head=0.1), model, 5)
    check_head(TrainConfig(), model, 4)
    for given in ({"lr_head": 0.1}, {"freeze_until": 1}):
        with pytest.raises(UserError, match=f"{next(iter(given))}: .* no linear layer with 4 outputs"):
            check_head(TrainConfig(**given), model, 4)  # type: ignore[arg-type]


def test_the_choice_is_said_with_what_was_loaded(
    tiny_images: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_arguments(tiny_images, method="standard", epochs=1, weights=weights, out=tmp_path / "run")
    assert main([option for option in options if not option.startswith("--lr")] + ["--freeze-until=1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "head new for 3 classes" in said
    assert "input 0-1; optimizer adamw, learning rate 0.001, head alone in the first 1 epochs" in said
    assert open_run(tmp_path / "run").config.lr == 1e-3


# --- where weights come from


def test_a_run_is_learned_on_from_with_its_head_if_classes_are_the_same(tiny_images: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_images, method="standard", epochs=1)
    first = train(config, tmp_path / "first")
    trained, _ = tensors(first / BEST)
    again = train(dataclasses.replace(config, weights=str(first), lr=1e-12), tmp_path / "again")
    assert open_run(again).info["network"]["weights"]["head"] == "kept"
    assert torch.allclose(tensors(again / BEST)[0]["fc.weight"], trained["fc.weight"], atol=1e-6)
    others = make_images(tmp_path / "others")
    (others / "c1").rename(others / "d1")
    new = train(dataclasses.replace(config, data=f"folder:{others}", weights=str(first), lr=1e-12), tmp_path / "new")
    assert open_run(new).info["network"]["weights"]["head"] == "new"
    assert tensors(new / BEST)[0]["fc.weight"].abs().max() < 1e-6


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes in the layout of timm's own hub."""
    folder = tmp_path_factory.mktemp("published")
    network = timm.create_model("test_resnet", num_classes=3)
    save_for_hf(network, folder, model_config={"label_names": ["c0", "c1", "c2"]}, safe_serialization=True)
    return folder


def test_a_folder_of_timm_begins_a_run_that_outlives_it(tiny_images: Path, published: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(published, copy)
    given = {"method": "standard", "model": f"local-dir:{copy}", "pretrained": True, "lr": 1e-12}
    run = train(tiny_config(tiny_images, epochs=2, **given), tmp_path / "run", stop_after=1)
    shutil.rmtree(copy)
    train(TrainConfig(accelerator="cpu"), run, resume=True)
    source = load_file(published / "model.safetensors")
    head, body = tensors(run / BEST)
    assert all(torch.allclose(value, source[name], atol=1e-6) for name, value in (head | body).items())
    found = open_run(run)
    assert found.info["network"]["weights"] == {"file": f"local-dir:{copy}", "head": "kept", "classes": 3}
    assert found.record["model"] == "test_resnet"
    found.load_model()


def test_a_head_of_other_classes_is_new_however_many_they_are(published: Path) -> None:
    made = {"num_classes": 3, "image_size": 64, "pretrained": True}
    for names, head in ((["c0", "c1", "c2"], "kept"), (["c2", "c1", "c0"], "new")):
        model = build_model(f"local-dir:{published}", classes=names, **made)  # type: ignore[arg-type]
        assert model.facts["weights"]["head"] == head
        assert (model.network.fc.weight.abs().max() > 0) == (head == "kept")


def test_a_repository_of_the_hub_is_read_as_timm_does(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda repo_id, filename, **_: str(published / filename))
    model = build_model("hf-hub:someone/theirs", num_classes=3, image_size=64, pretrained=True)
    assert torch.equal(model.network.fc.weight, load_file(published / "model.safetensors")["fc.weight"])
    assert model.facts["weights"]["file"] == "hf-hub:someone/theirs"


@pytest.mark.parametrize(
    ("name", "pretrained", "said"),
    [
        ("local-dir:{published}", False, "brings weights of its own: train with --pretrained true"),
        ("local-dir:nowhere", True, "'nowhere' is no folder with a config.json"),
        ("hf-hub:", True, "names no repository"),
        ("torchvision:resnet81", False, "nearest: resnet18"),
        ("torchvision:inception_v3", False, "model of torchvision"),
        ("elsewhere:resnet18", False, "unknown model"),
    ],
)
def test_names_that_stand_for_nothing(published: Path, name: str, pretrained: bool, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        build_model(name.format(published=published), num_classes=3, image_size=64, pretrained=pretrained)


def test_options_of_an_architecture_stay_with_the_run(tiny_images: Path, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=3, act_layer="silu", in_chans=3)
    save_for_hf(network, tmp_path / "theirs", model_args={"act_layer": "silu", "num_classes": 3})
    given = {"method": "standard", "model": f"local-dir:{tmp_path / 'theirs'}", "pretrained": True}
    run = train(tiny_config(tiny_images, epochs=2, **given), tmp_path / "run", stop_after=1)
    train(TrainConfig(accelerator="cpu"), run, resume=True)
    for made in (open_run(run).load_model(), build_model("test_resnet", num_classes=3, image_size=32, weights=run)):
        assert any(isinstance(layer, nn.SiLU) for layer in made.modules())
        assert not any(isinstance(layer, nn.ReLU) for layer in made.modules())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "vgg11_bn", "convnext_tiny"])
def test_networks_of_torchvision(name: str, channels: int) -> None:
    with torch.device("meta"):
        network, _ = make_network(f"torchvision:{name}", num_classes=5, channels=channels, pretrained=False)
        assert network(torch.zeros(2, channels, 64, 64)).shape == (2, 5)
    assert network.get_submodule(network.pretrained_cfg["classifier"]) in head_layers(network, 5)  # type: ignore[index,operator,arg-type]


def test_a_network_of_torchvision_is_trained_and_read_again(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = models.squeezenet1_1()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published.state_dict())
    given = {"method": "standard", "model": "torchvision:squeezenet1_1", "pretrained": True, "lr": 1e-12}
    run = train(tiny_config(tiny_images, epochs=1, **given), tmp_path / "run")
    found = open_run(run).load_model()
    assert torch.allclose(found.network.features[0].weight, published.features[0].weight, atol=1e-6)  # type: ignore[union-attr,operator,index]
    assert found.network.classifier[1].weight.abs().max() > 0, "a ReLU follows"  # type: ignore[union-attr,operator,index]
    with pytest.raises(UserError, match="torchvision:squeezenet1_1 is not of timm"):
        export(run, tmp_path / "export", images=2)


@pytest.mark.parametrize(("option", "said"), [("--optimizer", "one of ['sgd', 'adamw']"), ("--lr", "a float")])
def test_an_option_that_may_be_left_out_says_what_it_takes(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", option, "foo"]) == 2
    assert f"{option}: Expected {said}. Got value: foo" in " ".join(capsys.readouterr().err.split())
