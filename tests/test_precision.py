"""Warnings of half precision that is computed in software."""

from pathlib import Path

import pytest
import torch

from dpaat import precision
from dpaat.cli import main
from dpaat.precision import emulation
from training_makers import make_images, tiny_arguments


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, capability: str) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


@pytest.mark.parametrize(
    ("machine", "capability", "wanted", "device", "warns"),
    [
        ("x86_64", "AVX2", "bf16-mixed", "cpu", True),
        ("AMD64", "DEFAULT", "bf16", "cpu", True),
        ("x86_64", "AVX512", "bf16-mixed", "cpu", False),
        ("aarch64", "DEFAULT", "bf16-mixed", "cpu", False),
        ("x86_64", "AVX2", "32-true", "cpu", False),
        ("x86_64", "AVX2", "bf16-mixed", "cuda", False),
    ],
)
def test_only_emulated_half_precision_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, machine: str, capability: str, wanted: str, device: str, warns: bool
) -> None:
    pretend(monkeypatch, machine, capability)
    assert (emulation(wanted, device) is not None) == warns


def test_training_and_evaluation_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, "x86_64", "AVX2")
    run = tmp_path / "run"
    arguments = tiny_arguments(make_images(tmp_path / "images"), method="standard", precision="bf16-mixed", epochs=1)
    assert main([*arguments, f"--out={run}"]) == 0
    assert "warning: precision: bf16-mixed is emulated on this processor" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--precision=bf16", "--attack=fgsm", "--eps=1/255", "--device=cpu"]) == 0
    assert "warning: precision: bf16 is emulated on this processor" in capsys.readouterr().out
