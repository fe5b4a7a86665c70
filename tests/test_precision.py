"""Warnings of half precision that is computed in software."""

from pathlib import Path

import pytest
import torch

from dpaat import precision
from dpaat.cli import main
from dpaat.evaluation.results import read_evaluation
from dpaat.precision import emulation
from dpaat.runs import read_config
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


def test_auto_times_several_labels_too(monkeypatch):
    monkeypatch.setattr(precision, "emulation", lambda *_: None)
    labels = torch.tensor([[1, 0, -1], [0, 1, 1]], dtype=torch.int8)
    _, line = precision.bfloat16_pays(torch.nn.Linear(4, 3), torch.rand(2, 4), labels)
    assert "of the time of 32" in line


@pytest.mark.parametrize("half", [True, False])
def test_auto_takes_the_faster_one_and_says_so(half, tmp_path, monkeypatch, capfd):
    """The clock is that of a machine on which bfloat16 takes half, or twice, the time."""
    monkeypatch.setattr(precision, "emulation", lambda *_: None)
    clock, steps = [0.0], [1.0, 0.5 if half else 2.0]

    class Clock:
        @staticmethod
        def perf_counter():
            clock[0] += steps[0] / 2
            Clock.calls += 1
            if Clock.calls % 2 == 0:
                steps.reverse()
            return clock[0]

        calls = 0

    monkeypatch.setattr(precision, "time", Clock)
    arguments = tiny_arguments(make_images(tmp_path / "images"), method="standard", precision="auto", epochs=1)
    assert main([*arguments, f"--out={tmp_path / 'run'}"]) == 0
    share = "0.50" if half else "2.00"
    line = f"precision: {'bf16' if half else '32'} is taken; bf16 takes {share} of the time of 32 (5 batches)"
    assert line in capfd.readouterr().out
    assert read_config(tmp_path / "run" / "config.yaml").precision == ("bf16-mixed" if half else "32-true")
    Clock.calls, steps[:] = 0, [1.0, 0.5 if half else 2.0]
    command = ["evaluate", str(tmp_path / "run"), "--precision=auto", "--attack=fgsm", "--eps=1/255", "--device=cpu"]
    assert main(command) == 0
    assert line in capfd.readouterr().err
    assert read_evaluation(tmp_path / "run")["precision"] == ("bf16" if half else "32")
