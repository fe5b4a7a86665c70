"""The examples run with the real libraries, do what they say, and go on from their checkpoints."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        same = torch.equal(value, states[1][name]) if isinstance(value, torch.Tensor) else value == states[1][name]
        assert same, name


def assert_moved(state: torch.nn.Module) -> None:
    assert 0.05 < (state.visits > 0).float().mean() < 0.5  # 10 % of the visits of half of the epochs
    assert 0.2 * 8 / 255 <= state.eps.min() < state.eps.max() <= 8 / 255 * (1 + 1e-6)


def test_own_loop(capsys):
    loss = example("own_loop")(epochs=4)
    assert_moved(loss.perturbation)
    clean, still_clean, attacked, _ = re.findall(r"(\d+)% moved", capsys.readouterr().out)
    assert clean == still_clean == "0" != attacked


def test_lightning_goes_on_bit_for_bit(tmp_path):
    module, loss = example("lightning_loop")(tmp_path / "whole", epochs=4)
    assert_moved(loss.perturbation)
    again, loss_again = example("lightning_loop")(tmp_path / "parts", epochs=4, resume=tmp_path / "whole/epoch=2.ckpt")
    assert_equal(module, again)
    assert_equal(loss, loss_again)
    assert "training_step" not in vars(module)


def test_huggingface_goes_on_bit_for_bit(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra integrations")
    trainer = example("huggingface_trainer")(tmp_path, epochs=4)
    assert_moved(trainer.adversarial_loss.perturbation)
    last = max(tmp_path.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    shutil.rmtree(last)
    again = example("huggingface_trainer")(tmp_path, epochs=4, resume=True)
    assert again.state.global_step == trainer.state.global_step
    assert_equal(trainer.model, again.model)
    assert_equal(trainer.adversarial_loss, again.adversarial_loss)


def test_monai_goes_on(tmp_path):
    pytest.importorskip("monai", reason="needs the extra integrations")
    pytest.importorskip("ignite", reason="needs the extra integrations")
    trainer = example("monai_loop")(tmp_path, epochs=4)
    loss = trainer.adversarial_loss
    assert_moved(loss.perturbation)
    (saved,) = tmp_path.glob("*epoch=4.pt")
    for name, value in torch.load(saved)["loss"].items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, loss.state_dict()[name]), name
    (before,) = tmp_path.glob("*epoch=3.pt")
    again = example("monai_loop")(tmp_path / "again", epochs=4, resume=before)
    assert again.state.epoch == 4
    assert torch.equal(again.adversarial_loss.perturbation.visits, loss.perturbation.visits)


def test_the_page_shows_the_examples():
    """Every line of code in the how-to and in the README's section stands in an example."""
    known = {line.strip() for path in EXAMPLES.glob("*.py") for line in path.read_text().splitlines()}
    readme = (ROOT / "README.md").read_text().split("## In a loop of your own")[1].split("\n## ")[0]
    page = (ROOT / "docs/howto/own-loop.md").read_text().split("## The pieces")[0]
    lines = re.findall(r"^    (.+)$", readme, re.MULTILINE)
    lines += [line for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) > 20
    assert not [line for line in lines if line.strip() and line.strip() not in known]


def test_the_pieces_of_the_page_run():
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/howto/own-loop.md").read_text().split("## The pieces")[1], re.DOTALL
    )
    own = runpy.run_path(str(EXAMPLES / "own_loop.py"))
    images, labels = own["stripes"](32, classes=7)
    model = own["small_network"](7)
    index = torch.arange(32)
    scope = {
        "model": model,
        "train_set": images,
        "train_labels": labels,
        "loader": [(index, images, labels)] * 3,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "cross_entropy": torch.nn.functional.cross_entropy,
    }
    exec(code, scope)
    assert scope["state"].visits.tolist() == [3] * 32
    assert scope["state"].eps.unique().numel() > 2
