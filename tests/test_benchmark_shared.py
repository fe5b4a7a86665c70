"""Several processes on one folder, and engines that run cells as jobs."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmark_makers import CELLS, Commands, document, run, write_grid
from dpaat.benchmark import benchmark, read_grid, runner
from dpaat.benchmark.executors import Handle, Needs
from dpaat.benchmark.jobs import JobRun
from dpaat.storage import locked

TOGETHER = """
import os, sys, time
from pathlib import Path
from benchmark_makers import here, run
from dpaat.benchmark import runner

grid, out, images, meeting = map(Path, sys.argv[1:])

def meet(arguments, folder, **options):
    (meeting / f"{os.getpid()}").write_text(folder.name)
    for _ in range(1200):  # until the other process works on a cell as well
        if len([*meeting.iterdir()]) == 2:
            return here(arguments, folder, **options)
        time.sleep(0.1)
    return "alone"

runner.run_command = meet
sys.exit(run(grid, out, images, workers=1, only='*-f1-s0'))
"""

HOLDER = """
import sys, time
from pathlib import Path
from dpaat.storage import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def scores(out: Path) -> dict[str, object]:
    return {cell["name"]: cell["scores"] for cell in document(out)["cells"] if cell["status"] == "finished"}


def test_two_processes_work_on_two_cells_at_once(finished_grid, tiny_images, tmp_path):
    (meeting := tmp_path / "meeting").mkdir()
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        TOGETHER,
        str(finished_grid / "grid.yaml"),
        str(out),
        str(tiny_images),
        str(meeting),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    serial = scores(finished_grid / "out")
    assert {name: scores(out)[name] for name in CELLS[:2]} == {name: serial[name] for name in CELLS[:2]}
    done = {name: json.loads((out / "cells" / name / "cell.json").read_text()) for name in CELLS[:2]}
    assert {len(record["evaluated"]) for record in done.values()} == {1}, "a cell was computed twice"


def test_a_cell_that_another_holds_is_come_back_to(finished_grid, tiny_images, tmp_path, monkeypatch):
    commands = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", commands)
    monkeypatch.setattr(runner, "PAUSE", 0.1)
    (tmp_path / "cells").mkdir()
    lock = tmp_path / "cells" / f".{CELLS[0]}.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"

    def kill_when_the_rest_is_done() -> None:
        while len(commands.asked) < 6:
            time.sleep(0.05)
        process.kill()

    threading.Thread(target=kill_when_the_rest_is_done).start()
    assert run(finished_grid / "grid.yaml", tmp_path, tiny_images) == 0
    assert [cell for _, cell in commands.asked][-2:] == [CELLS[0]] * 2


def test_what_another_process_failed_at_is_not_tried_again(finished_grid, tiny_images, tmp_path, monkeypatch):
    commands = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", commands)
    monkeypatch.setattr(runner, "PAUSE", 0.1)
    grid = read_grid(finished_grid / "grid.yaml", data=[f"folder:{tiny_images}"])
    other = JobRun(grid.cells[1], tmp_path)
    other.folder.mkdir(parents=True)

    def fail() -> None:
        with locked(other.folder.parent / f".{CELLS[1]}.lock"):
            held.set()
            while len(commands.asked) < 6:
                time.sleep(0.05)
            other.failed("train: its disk is full")

    held = threading.Event()
    threading.Thread(target=fail).start()
    held.wait()
    assert run(finished_grid / "grid.yaml", tmp_path, tiny_images) == 1
    assert CELLS[1] not in {cell for _, cell in commands.asked}
    assert run(finished_grid / "grid.yaml", tmp_path, tiny_images) == 0, "a later call tries it again"


# --- jobs


class Lossy:
    """An engine whose first job of a cell gets lost, and whose further jobs do what they are asked for."""

    def __init__(self, finished: Path, out: Path, lost: int) -> None:
        self.finished, self.out, self.lost, self.asked = finished, out, lost, []

    def submit(self, arguments, folder, needs):
        cell = arguments[arguments.index("--only") + 1]
        self.asked.append((cell, needs))
        if [each for each, _ in self.asked].count(cell) <= self.lost:
            return Handle(lambda: 1 / 0, lambda: None)
        shutil.copytree(self.finished / "cells" / cell, self.out / "cells" / cell, dirs_exist_ok=True)
        return Handle(lambda: None, lambda: None)


@pytest.mark.parametrize(("lost", "failed"), [(1, 0), (3, 4)])
def test_a_lost_job_is_handed_over_again(finished_grid, tiny_images, tmp_path, monkeypatch, lost, failed):
    engine = Lossy(finished_grid / "out", tmp_path, lost)
    monkeypatch.setattr("dpaat.benchmark.make_executor", lambda *_: engine)
    needs = Needs(cores=2, gpus=1, memory=4)
    assert run(finished_grid / "grid.yaml", tmp_path, tiny_images, executor="ray", needs=needs) == failed
    assert sorted(engine.asked, key=str) == sorted(
        [(cell, needs) for cell in CELLS for _ in range(min(lost + 1, 3))], key=str
    )
    if failed:
        record = json.loads((tmp_path / "cells" / CELLS[0] / "cell.json").read_text())
        assert "division by zero" in record["error"]


def half_done(finished: Path, out: Path, cells: list[str], tiny_images: Path) -> Path:
    """A copy of a finished benchmark in which the evaluation of some cells is missing."""
    shutil.copytree(finished / "out", out)
    for name in cells:
        (out / "cells" / name / "evaluation.json").unlink()
    return write_grid(out.parent / "own.yaml", data=f"folder:{tiny_images}")


def computed(grid: Path, out: Path, executor: str, needs: Needs, **options: object) -> int:
    console = Console(file=io.StringIO(), width=200)
    found = {"executor": executor, "needs": needs, "executor_options": options}
    return benchmark(read_grid(grid), out=out, console=console, progress=False, **found)


def test_submitit_runs_a_cell(finished_grid, tiny_images, tmp_path):
    pytest.importorskip("submitit", reason="needs the extra slurm")
    grid = half_done(finished_grid, tmp_path / "out", CELLS[:1], tiny_images)
    assert computed(grid, tmp_path / "out", "submitit", Needs(), cluster="local") == 0
    assert scores(tmp_path / "out") == scores(finished_grid / "out")
    assert "written to" in (tmp_path / "out" / "cells" / CELLS[0] / "benchmark.log").read_text()
    assert list((tmp_path / "out" / "jobs" / "submitit").glob("*_0_result.pkl"))


def test_without_slurm_submitit_is_one_line(finished_grid, tiny_images, tmp_path):
    pytest.importorskip("submitit", reason="needs the extra slurm")
    grid = half_done(finished_grid, tmp_path / "out", CELLS[:1], tiny_images)
    with pytest.raises(Exception, match="executor submitit"):
        computed(grid, tmp_path / "out", "submitit", Needs())


@pytest.mark.slow
def test_ray_takes_up_the_cell_of_a_killed_worker(finished_grid, tiny_images, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    psutil = pytest.importorskip("psutil")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    cluster.add_node(num_cpus=1, num_gpus=1)
    killed: list[str] = []

    def kill_one() -> None:
        """The job of a cell once it computes: the worker, and all that it has started."""
        while not killed:
            for process in psutil.process_iter(["cmdline"]):
                words = process.info["cmdline"] or []
                if "--only" in words and str(tmp_path) in " ".join(words) and (below := process.children()):
                    worker = process.parent()
                    for each in (worker, process, *below):
                        os.kill(each.pid, signal.SIGKILL)
                    killed.append(words[words.index("--only") + 1])
                    return
            time.sleep(0.05)

    try:
        ray.init(address=cluster.address, log_to_driver=False)
        assert len(ray.nodes()) == 2
        grid = half_done(finished_grid, tmp_path / "out", CELLS[:3], tiny_images)
        threading.Thread(target=kill_one, daemon=True).start()
        assert computed(grid, tmp_path / "out", "ray", Needs(cores=1, gpus=1)) == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed
    assert scores(tmp_path / "out") == scores(finished_grid / "out")
