"""Damaged run folders, and runs asked for what they cannot do: one clear line each, exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training_makers import fails


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """An unfinished run, to be damaged."""
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    info = json.loads((copy / "run.json").read_text()) | {"status": "stopped"}
    (copy / "run.json").write_text(json.dumps(info))
    return copy


def edit(run: Path, **fields: object) -> None:
    info = json.loads((run / "run.json").read_text()) | fields
    (run / "run.json").write_text(json.dumps(info))


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("checkpoint", lambda run: (run / "checkpoints/best.ckpt").unlink()),
    ("best.ckpt", lambda run: (run / "checkpoints/best.ckpt").write_bytes(b"half a")),
    ("best.ckpt", lambda run: torch.save({"state_dict": {"model.x": torch.ones(1)}}, run / "checkpoints/best.ckpt")),
    ("run.json", lambda run: (run / "run.json").write_text("{")),
    ("run.json", lambda run: (run / "run.json").write_text("[]")),
    ("run.json", lambda run: (run / "run.json").write_text("{}")),
    ("run.json", lambda run: (run / "run.json").unlink()),
    ("newer version", lambda run: edit(run, schema_version=99)),
    ("schema_version", lambda run: edit(run, schema_version="one")),
    ("config.yaml", lambda run: (run / "config.yaml").write_text("a: [")),
    ("config.yaml", lambda run: (run / "config.yaml").write_text("")),
    ("colour", lambda run: (run / "config.yaml").write_text("colour: red\n")),
    ("image_size", lambda run: (run / "config.yaml").write_text("image_size: wide\n")),
    ("config.yaml", lambda run: (run / "config.yaml").write_text("data: null\n")),
    ("config.yaml", lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00")),
    ("splits.csv", lambda run: (run / "splits.csv").write_text("id,split\n")),
    ("fingerprint", lambda run: edit(run, fingerprint="0" * 16)),
]


@pytest.mark.parametrize(("named", "damage"), DAMAGE)
def test_evaluate_a_damaged_run(named, damage, run, capfd):
    damage(run)
    fails(capfd, "evaluate", run, "--eps=0", "--device=cpu", names=(named, str(run)))
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("nearest: pgd", ["--attack=pdg"]),
        ("eps", ["--eps=2/255,-1"]),
        ("eps", ["--eps=nan"]),
        ("eps", ["--eps=some"]),
        ("steps", ["--steps=0"]),
        ("norm", ["--norm=l3"]),
        ("split", ["--split=tset"]),
        ("device", ["--device=cuda:77"]),
        ("batch_size", ["--batch-size=0"]),
        ("nowhere", ["--data=folder:nowhere"]),
    ],
)
def test_evaluate_options(named, arguments, tiny_run, capfd):
    fails(capfd, "evaluate", tiny_run, *arguments, names=(named,))


def test_evaluate_on_classes_that_the_run_does_not_know(tiny_run, tiny_images, tmp_path, capfd):
    other = shutil.copytree(tiny_images, tmp_path / "other")
    (other / "c2").rename(other / "wart")
    fails(capfd, "evaluate", tiny_run, f"--data=folder:{other}", "--device=cpu", names=("wart", "c0, c1, c2"))


@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("lr", ["--lr=0.5"]),
        ("method", ["--method=pgd"]),
        ("eps", ["--eps=4/255"]),
        ("options", ["--options.ramp=0.9"]),
        ("trainer", ["--trainer.gradient_clip_val=1"]),
        ("seed", ["--seed=4"]),
    ],
)
def test_resume_with_other_options(named, options, run, capfd):
    before = (run / "config.yaml").read_bytes()
    fails(capfd, "train", "--resume", f"--out={run}", *options, names=(f"begun with {named} ", str(run)))
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("named", "damage"),
    [
        ("last.ckpt", lambda run: (run / "checkpoints/last.ckpt").write_bytes(b"half a")),
        ("last.ckpt", lambda run: (run / "checkpoints/last.ckpt").write_bytes(b"")),
        ("last.ckpt", lambda run: torch.save({"state_dict": {"x": torch.ones(1)}}, run / "checkpoints/last.ckpt")),
        ("last.ckpt", lambda run: torch.save(_state(run), run / "checkpoints/last.ckpt")),
        ("run.json", lambda run: (run / "run.json").write_text("{")),
        ("config.yaml", lambda run: (run / "config.yaml").write_text("{")),
        ("config.yaml", lambda run: (run / "config.yaml").unlink()),
    ],
)
def test_resume_of_a_damaged_run(named, damage, run, capfd):
    for name in ("best", "previous"):  # nothing else to go on from
        (run / f"checkpoints/{name}.ckpt").unlink()
    damage(run)
    fails(capfd, "train", "--resume", f"--out={run}", names=(named,))


def _state(run: Path) -> dict:
    return {"state_dict": torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]}
