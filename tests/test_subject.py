"""Weights from elsewhere, evaluated as a run is; and the digest that runs of one recipe share."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dpaat.cli import main
from dpaat.config import TrainConfig, complete
from dpaat.evaluation.foreign import network_digest
from dpaat.evaluation.target import _recipe
from dpaat.models import build_model

MODEL = "test_resnet"


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(MODEL, num_classes=3, channels=3, image_size=32).network


def evaluate(capfd, images, weights, out, *extra: object) -> tuple[int, str, str]:
    arguments = ["evaluate", "--model", MODEL, "--weights", weights, "--data", f"folder:{images}", "--out", out]
    options = ["--image-size", 32, "--eps", "2/255", "--steps", 2, "--device", "cpu", *extra]
    code = main([str(argument) for argument in [*arguments, *options]])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("prefix", ["", "module.", "model.network."])
def test_weights_from_elsewhere_are_evaluated(tiny_images, tmp_path, capfd, network, prefix) -> None:
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state | {"epoch": torch.tensor(3)}} if prefix else state, tmp_path / "mine.pth")
    code, out, _ = evaluate(capfd, tiny_images, tmp_path / "mine.pth", tmp_path / "results")
    assert code == 0
    assert "PGD-2 2/255" in out
    document = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert document["model"] == MODEL
    assert document["method"] is None
    assert len(document["results"]) == 2
    assert (tmp_path / "results" / "predictions.parquet").is_dir()


class Shifted(nn.Module):
    """A network with a buffer that its state dict does not hold."""

    def __init__(self, shift: float, *, persistent: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        nn.init.ones_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("shift", torch.tensor(shift), persistent=persistent)


def test_a_network_is_known_by_all_its_buffers() -> None:
    plain, saved, shifted, other = nn.Linear(2, 2), Shifted(0.0, persistent=True), Shifted(0.0), Shifted(0.5)
    nn.init.eye_(plain.weight)
    nn.init.zeros_(plain.bias)
    assert network_digest(plain) == "2740d1b7aad03fdd"  # as ever, so that old results are still of it
    assert network_digest(saved) == "a2fc04fe8e7a3e55"
    assert network_digest(shifted) == network_digest(Shifted(0.0)) != network_digest(other)


def test_weights_that_do_not_fit_are_one_line(tiny_images, tmp_path, capfd, network) -> None:
    state = network.state_dict()
    other = build_model(MODEL, num_classes=5, channels=3, image_size=32).network
    cases = {
        "head.pth": (other.state_dict(), "its head has 5 outputs, but there are 3 classes"),
        "part.pth": (dict(list(state.items())[3:]), "not weights of this model"),
        "nan.pth": ({k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()}, "NaN"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / name)
        code, _, err = evaluate(capfd, tiny_images, tmp_path / name, tmp_path / "out")
        assert code == 2, name
        assert message in err
        assert err.count("\n") == 1
    code, _, err = evaluate(capfd, tiny_images, tmp_path / "absent.pth", tmp_path / "out")
    assert code == 2
    assert "absent.pth: no such weights file" in err


def test_what_is_missing_is_named(capfd) -> None:
    assert main(["evaluate", "--model", MODEL]) == 2
    assert "--weights" in capfd.readouterr().err
    assert main(["evaluate"]) == 2
    assert "name a run folder" in capfd.readouterr().err


def recipe(**changes: object) -> str:
    return _recipe(SimpleNamespace(config=complete(TrainConfig(**changes))))  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "digest"), [("standard", "e3a9e7d3"), ("pgd", "4d8e2e8b"), ("cat", "82c2d1d2")])
def test_digests_of_version_0_1_stay(method, digest) -> None:
    assert recipe(method=method) == digest
    assert recipe(method=method, seed=3, fold="1/5", workers=2) == digest
    assert recipe(method=method, lr=0.2) != digest


def test_fields_added_later_count_where_they_are_used() -> None:
    assert recipe(method="pgd", adv_start=0.5) != recipe(method="pgd")
    assert recipe(method="pgd", adv_start=0.5, self_teacher=0.5) != recipe(method="pgd", adv_start=0.5)
    assert recipe(method="dpaat", self_teacher=0.0) != recipe(method="dpaat")
