"""An evaluation that is killed ends, when run again, as if it had never been."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpaat.evaluation import evaluate_run
from dpaat.journal import Journal

STEPS = {"pgd": 3, "apgd-ce": 5, "apgd-t": 5, "fab-t": 5, "square": 20}
ARGUMENTS = [
    "--suite", "standard", "--batch-size", "2", "--device", "cpu", "--eps", "1/255,16/255",
    "--steps", ",".join(f"{name}={steps}" for name, steps in STEPS.items()),
]  # fmt: skip


def evaluate(run: Path) -> None:
    options = {"suites": ["standard"], "batch_size": 2, "eps": [1 / 255, 16 / 255], "steps": STEPS}
    evaluate_run(run, device="cpu", progress=False, **options)


def pieces(run: Path) -> set[str]:
    return {path.name for path in run.glob("evaluation.partial/*/*.npz")}


@pytest.mark.parametrize("share", [0.5])
def test_killed_and_run_again_gives_the_same_file_without_repeating(tiny_run, tmp_path, monkeypatch, share) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken" / "whole"
    for folder in (whole, broken):
        shutil.copytree(tiny_run, folder)
    computed: list[str] = []
    genuine = Journal.__call__

    def counting(self, key, compute):
        def counted():
            computed.append(self._path(key).name)
            return compute()

        ours = self.folder is not None and self.folder.parent.name == "evaluation.partial"  # not that of the data
        return genuine(self, key, counted if ours else compute)

    monkeypatch.setattr(Journal, "__call__", counting)
    evaluate(whole)
    everything = list(computed)
    assert len(everything) == len(set(everything))

    # The command of a shell gives the same keys, and can be killed for good.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dpaat", "evaluate", str(broken), *ARGUMENTS],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(pieces(broken)) < share * len(everything) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = pieces(broken)
    assert share * len(everything) <= len(finished) < len(everything)

    computed.clear()
    evaluate(broken)
    assert set(computed) == set(everything) - finished
    assert (broken / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()
    assert not (broken / "evaluation.partial").exists()
