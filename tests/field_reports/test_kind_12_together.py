"""Kind 12: results do not outlive, mix with or lose one another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from errno import ENOLCK
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from dpaat.benchmark import read_grid, runner
from dpaat.benchmark.jobs import JobRun
from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.evaluation import Attacker, evaluate_run, results
from dpaat.interpret import compare_explanations, explain_run
from dpaat.journal import Journal
from dpaat.report import write_report
from dpaat.storage import RESULTS, TRAINING, locked
from dpaat.training import train
from seen_makers import QUICK
from training_makers import fails, tiny_config


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "run")


def change_weights(run: Path) -> None:
    """What a training does that goes on."""
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.network.fc.bias"] += 1
    torch.save(content, path)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"status": "running"}))


def explained(run: Path) -> None:
    explain_run(run, maps=["input-gradient"], eps=[1 / 255], steps=1, max_samples=3, device="cpu", progress=False)


# --- results of weights that are gone. Found in our audit of run folders.


def test_a_training_that_goes_on_leaves_no_numbers_of_before(tiny_images, tmp_path, capfd):
    run = train(tiny_config(tiny_images, select="last"), tmp_path / "run", stop_after=1)
    evaluate_run(run, **QUICK)
    page = write_report([run], tmp_path / "page.html", images=False).read_text()
    assert "evaluate it again" not in page
    train(tiny_config(tiny_images), run, resume=True)
    for format in ("html", "md"):
        page = write_report([run], tmp_path / f"page.{format}", format=format, images=False).read_text()
        assert "training has gone on" in page
        assert "evaluate it again" in page
        assert "FGSM" not in page
    fails(capfd, "compare", run, tiny_run_of(run), names=("training has gone on", str(run)))
    evaluate_run(run, **QUICK)
    assert "training has gone on" not in write_report([run], tmp_path / "page.html", images=False).read_text()


def tiny_run_of(run: Path) -> Path:
    """Another evaluated run, to compare with."""
    other = shutil.copytree(run, run.with_name("other"))
    evaluate_run(other, **QUICK)
    return other


def test_explanations_of_before_are_left_out_and_not_compared(run, tmp_path):
    explained(run)
    other = shutil.copytree(run, tmp_path / "other")
    assert compare_explanations(run, other)
    change_weights(run)
    with pytest.raises(UserError, match=r"training has gone on.*explain it again"):
        compare_explanations(run, other)
    page = write_report([run], tmp_path / "page.html", images=False).read_text()
    assert "explain it again" in page
    assert "deletion (low)" not in page


def test_an_evaluation_whose_weights_go_meanwhile_writes_nothing(run, monkeypatch):
    genuine = Attacker.outputs

    def outputs(self, *arguments):
        change_weights(run)
        return genuine(self, *arguments)

    monkeypatch.setattr(Attacker, "outputs", outputs)
    with pytest.raises(UserError, match="training has gone on"):
        evaluate_run(run, **QUICK)
    assert not (run / "evaluation.json").exists()


def test_weights_from_elsewhere_do_not_take_the_place_of_a_run(run, tiny_images, tmp_path, capfd):
    evaluate_run(run, **QUICK)
    before = (run / "evaluation.json").read_bytes()
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    torch.save({n.removeprefix("model.network."): v for n, v in state.items() if ".network." in n}, tmp_path / "w.pth")
    arguments = ["--model=test_resnet", f"--weights={tmp_path / 'w.pth'}", f"--data=folder:{tiny_images}"]
    fails(capfd, "evaluate", *arguments, f"--out={run}", "--image-size=32", "--device=cpu", names=(str(run),))
    assert (run / "evaluation.json").read_bytes() == before


# --- two evaluations at a time; classifier-pipeline#14 and CellBender#241 tell of the same with checkpoints.


def at_once(*works) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_evaluations_at_a_time_lose_nothing(run, monkeypatch):
    evaluate_run(run, **QUICK)
    entries = json.loads((run / "evaluation.json").read_text())
    head = {name: value for name, value in entries.items() if name not in ("results", "constant", "analyses")}
    genuine = results.read_evaluation

    def slow(folder):
        found = genuine(folder)
        time.sleep(0.3)  # between reading and writing
        return found

    monkeypatch.setattr(results, "read_evaluation", slow)
    clean = entries["results"][0]

    def work(eps: float):
        return lambda: results.save_result(run, head, result={**clean, "attack": "pgd", "eps": eps})

    at_once(work(0.1), work(0.2), work(0.3))
    found = json.loads((run / "evaluation.json").read_text())["results"]
    assert {0.1, 0.2, 0.3} <= {entry["eps"] for entry in found}


def pieces(run: Path) -> set[Path]:
    return set(run.glob("evaluation.partial/*/*.npz"))


def interrupt(monkeypatch: pytest.MonkeyPatch, run: Path, **plan: object) -> set[Path]:
    """Evaluate until the first attack, and leave what was finished."""
    genuine = Journal.__call__

    def call(self, key, compute):
        if len(pieces(run)) >= 1:
            raise KeyboardInterrupt
        return genuine(self, key, compute)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "__call__", call)
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run, **QUICK | plan)
    assert pieces(run)
    return pieces(run)


def test_an_evaluation_leaves_the_journal_of_another_plan_alone(run, monkeypatch):
    left = interrupt(monkeypatch, run)
    evaluate_run(run, **QUICK | {"eps": [2 / 255]})
    assert pieces(run) == left
    evaluate_run(run, **QUICK)
    assert not (run / "evaluation.partial").exists()
    assert not [path.name for path in run.glob(".*.lock") if path.name not in (TRAINING, RESULTS)]


def test_the_same_plan_twice_at_a_time_ends_twice(run):
    documents = []
    at_once(*[lambda: documents.append(evaluate_run(run, **QUICK))] * 2)
    assert [len(document["results"]) for document in documents] == [2, 2]
    assert not (run / "evaluation.partial").exists()


def test_leftovers_are_removed_by_the_owner_of_their_lock_only(run, monkeypatch):
    (left,) = {path.parent for path in interrupt(monkeypatch, run)}
    change_weights(run)
    with locked(run / f".{left.name}.lock"):  # another process still works on the old weights
        evaluate_run(run, **QUICK)
        assert left.is_dir()
    evaluate_run(run, **QUICK)
    assert not left.exists()


def test_a_training_that_begins_waits_for_a_merge_before_it_tidies_up(tiny_images, tmp_path):
    run = train(tiny_config(tiny_images), tmp_path / "run", stop_after=1)
    half = run / ".evaluation.json.77.tmp"
    with locked(run / RESULTS):
        half.write_text("{")
        thread = threading.Thread(target=lambda: train(tiny_config(tiny_images), run, resume=True))
        thread.start()
        time.sleep(2)
        assert half.exists()
    thread.join()
    assert not half.exists()


# --- two trainings at a time


def test_a_second_training_in_a_folder_is_refused(tiny_images, tmp_path, capfd):
    run = train(tiny_config(tiny_images), tmp_path / "run", stop_after=1)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with locked(run / TRAINING):
        fails(capfd, "train", "--resume", f"--out={run}", names=("another training is at work", str(run)))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(["train", "--resume", f"--out={run}"]) == 0


def test_of_two_trainings_that_begin_at_once_one_is_refused(tiny_images, tmp_path, capfd):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / TRAINING), pytest.raises(UserError, match="another training is at work"):
        train(tiny_config(tiny_images), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [TRAINING]
    assert train(tiny_config(tiny_images, epochs=1), tmp_path / "run")


def test_a_lock_goes_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from dpaat.storage import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "l"], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    with pytest.raises(UserError, match="taken"), locked(tmp_path / "l", busy="taken"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "l", busy="taken"):
        pass


# anyvm#35: "No locks available" on a network drive.
def test_a_drive_without_locks_is_one_line(run, monkeypatch, capfd):
    def acquire(self, **options):
        raise OSError(ENOLCK, os.strerror(ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    arguments = ["--attack=fgsm", "--eps=1/255", "--device=cpu"]
    fails(capfd, "evaluate", run, *arguments, names=("No locks available", str(run), "drive"))


def test_readers_take_no_lock(run, tmp_path, monkeypatch):
    evaluate_run(run, **QUICK)
    other = shutil.copytree(run, tmp_path / "other")
    document = json.loads((other / "evaluation.json").read_text()) | {"recipe": "another"}
    (other / "evaluation.json").write_text(json.dumps(document))

    def acquire(self, **options):
        raise OSError(ENOLCK, os.strerror(ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    write_report([run], tmp_path / "page.html", images=False)
    assert main(["compare", str(run), str(other), f"--out={tmp_path / 'c.json'}"]) == 0


def test_a_cell_waits_for_a_training_that_outlived_its_benchmark(finished_grid, tmp_path, monkeypatch):
    grid = read_grid(finished_grid / "grid.yaml")
    cell = JobRun(grid.cells[0], tmp_path)
    cell.folder.mkdir(parents=True)
    order = []
    monkeypatch.setattr(runner, "run_command", lambda arguments, *_, **__: order.append(arguments[0]) or "no")
    monkeypatch.setattr(runner, "PAUSE", 0.1)
    work = threading.Thread(target=runner.Runner(workers=1, threads=1).run, args=([cell], [1.0]))
    with locked(cell.folder / TRAINING):
        work.start()
        time.sleep(0.5)
        order.append("the other ends")
    work.join()
    assert order == ["the other ends", "train"]
