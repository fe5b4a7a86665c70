"""Kind 13: what is read back is checked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpaat.cli import main
from dpaat.data import prepare
from dpaat.errors import UserError
from dpaat.evaluation import evaluate_run, read_evaluation
from dpaat.interpret import explain_run
from dpaat.interpret.document import read_interpretability, read_maps, read_scores
from dpaat.report import write_report
from dpaat.runs import read_folder
from dpaat.training import train
from seen_makers import QUICK, as_csv
from training_makers import fails, tiny_config

OLD = Path(__file__).parent / "old_run"
"""A run folder of the version before there were any of these checks, without its checkpoints."""


@pytest.fixture(scope="module")
def evaluated(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("kind13") / "run")
    evaluate_run(run, **QUICK)
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(evaluated, tmp_path / "run")


@pytest.fixture(scope="module")
def begun(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_config(tiny_images, epochs=3), tmp_path_factory.mktemp("kind13") / "begun", stop_after=2)


@pytest.fixture
def stopped(begun: Path, tmp_path: Path) -> Path:
    """A run of 3 epochs that was stopped after 2."""
    return shutil.copytree(begun, tmp_path / "stopped")


def is_refused(run: Path, capfd: pytest.CaptureFixture[str], *names: str) -> None:
    out = run.parent / "out"
    for arguments in (["report", run, f"--out={out}"], ["evaluate", run, "--device=cpu", "--attack=fgsm"]):
        fails(capfd, *arguments, names=names)
    assert not out.exists()


# --- the image cache; zeldarose#111 and datacollective-python#113 tell of caches that are trusted by their names


@pytest.mark.parametrize("damage", ["zeroed", "one pixel", "of an older version"])
def test_a_damaged_cache_is_made_anew(tiny_images, tmp_path, damage):
    def load() -> np.ndarray:
        return np.array(prepare(f"folder:{tiny_images}", image_size=8, cache_dir=tmp_path, progress=False).images)

    whole = load()
    (path,) = tmp_path.glob("*.npy")
    if damage == "of an older version":
        np.save(path, np.zeros_like(whole))
        assert (load() == whole).all()
        return
    images = np.lib.format.open_memmap(path, mode="r+")
    images[... if damage == "zeroed" else (3, 1, 2, 2)] ^= 255
    images.flush()
    with pytest.warns(UserWarning, match=rf"{path.name} was damaged"):
        assert (load() == whole).all()
    assert (load() == whole).all()


# --- evaluation.json and predictions.parquet


def edit(run: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((run / "evaluation.json").read_text())
    change(document)
    (run / "evaluation.json").write_text(json.dumps(document))


def entry(document: dict) -> dict:
    return document["results"][1]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: entry(d)["metrics"].update(accuracy=0.99),
        lambda d: entry(d)["metrics"].update(balanced_accuracy=0.99),
        lambda d: entry(d)["metrics"].update(map=0.99),
        lambda d: entry(d)["metrics"].update(auroc=0.01),
        lambda d: entry(d)["metrics"]["per_class_recall"].update(c0=1.0),
        lambda d: entry(d)["metrics"]["support"].update(c0=9),
        lambda d: entry(d).update(n=99),
        lambda d: entry(d).update(checkpoint="0" * 16),
        lambda d: entry(d).update(eps=4 / 255),
        lambda d: entry(d).update(eps_text="4/255"),
        lambda d: entry(d).update(attack="pgd"),
        lambda d: entry(d).update(norm="l2"),
        lambda d: entry(d).update(split="val"),
    ],
)
def test_results_that_disagree_with_their_predictions(run, change, capfd):
    edit(run, change)
    is_refused(run, capfd, "evaluation.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(predicted="c1"),
        lambda frame: frame.assign(label=frame["label"].to_numpy()[::-1]),
        lambda frame: frame.head(5),
        lambda frame: frame.assign(label="c7"),
        lambda frame: frame.assign(eps=4 / 255),
        lambda frame: frame.assign(probabilities=frame["probabilities"].map(lambda row: row[::-1])),
    ],
)
def test_predictions_that_disagree_with_their_results(run, change, capfd):
    document = read_evaluation(run)
    assert document is not None
    part = run / "predictions.parquet" / entry(document)["predictions"]
    change(pd.read_parquet(part)).to_parquet(part, index=False)
    is_refused(run, capfd, "evaluation.json", part.name)
    fails(capfd, "compare", run, run.parent, names=(part.name,))


# --- config.yaml; transformers#18070 asks for a warning of what differs when a training is resumed


@pytest.mark.parametrize(
    ("field", "before", "after"),
    [
        ("lr", "lr: 0.02", "lr: 0.2"),
        ("eps", "eps: 8/255", "eps: 4/255"),
        ("epochs", "epochs: 3", "epochs: 4"),
        ("options", "statistic: mean", "statistic: median"),
        ("awp", "awp: 0.0\n", ""),  # now at its default, as before
    ],
)
def test_a_configuration_that_was_edited(stopped, field, before, after, capfd):
    text = (stopped / "config.yaml").read_text()
    assert before in text
    (stopped / "config.yaml").write_text(text.replace(before, after))
    if field == "awp":
        read_folder(stopped)
        return
    fails(capfd, "train", "--resume", f"--out={stopped}", names=("config.yaml", field))
    is_refused(stopped, capfd, "config.yaml", field)


def test_the_place_of_a_run_may_change_in_its_configuration(stopped):
    text = (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").write_text(
        text.replace("workers: 0", "workers: 1").replace("devices: auto", "devices: 1")
    )
    assert main(["train", "--resume", f"--out={stopped}"]) == 0


# --- metrics.csv


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:1] + rows[2:],  # the first epoch
        lambda rows: rows[:-1],
        lambda rows: [*rows, rows[-1]],
        lambda rows: [rows[0], rows[2], rows[1]],
        lambda rows: [rows[0], "x" + rows[1], rows[2]],
        lambda rows: rows[:1],
    ],
)
def test_epochs_that_are_missing_or_stand_twice(stopped, change, capfd):
    path = stopped / "metrics.csv"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    is_refused(stopped, capfd, "metrics.csv")
    fails(capfd, "train", "--resume", f"--out={stopped}", names=("metrics.csv",))


def test_epochs_that_a_killed_training_lost(stopped, capfd):
    """`run.json` cannot say how many there were; the checkpoint does."""
    info = json.loads((stopped / "run.json").read_text()) | {"status": "running"}
    (stopped / "run.json").write_text(json.dumps({k: v for k, v in info.items() if k != "epochs_done"}))
    path = stopped / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    fails(capfd, "train", "--resume", f"--out={stopped}", names=("metrics.csv", "2 epochs"))


def test_a_run_that_went_on_and_was_killed_opens(stopped):
    """It has more epochs than it could say."""
    info = json.loads((stopped / "run.json").read_text()) | {"epochs_done": 1}
    (stopped / "run.json").write_text(json.dumps(info))
    read_folder(stopped)


# --- splits.csv, run.json, checkpoints


def test_rows_in_another_order(tiny_images, tmp_path, capfd):
    """Sizes are kept by the number of the row, and the fingerprint does not see the order."""
    spec = as_csv(tiny_images, tmp_path / "table" / "all.csv")
    run = train(tiny_config(tiny_images, data=spec), tmp_path / "run", stop_after=1)
    rows = (tmp_path / "table" / "all.csv").read_text().splitlines(keepends=True)
    (tmp_path / "table" / "all.csv").write_text("".join([rows[0], *rows[:0:-1]]))
    fails(capfd, "train", "--resume", f"--out={run}", names=("another order", "splits.csv"))
    evaluate_run(run, **QUICK)


def swap(run: Path) -> None:
    text = (run / "splits.csv").read_text()
    (run / "splits.csv").write_text(text.replace(",test", ",x").replace(",train", ",test").replace(",x", ",train"))


def test_splits_that_were_edited(run, capfd):
    swap(run)
    is_refused(run, capfd, "splits.csv")


def test_splits_of_an_older_run_are_counted(run, capfd):
    info = json.loads((run / "run.json").read_text())
    del info["splits_digest"]
    (run / "run.json").write_text(json.dumps(info))
    read_folder(run)
    swap(run)
    is_refused(run, capfd, "splits.csv")


def test_classes_in_another_order(run, capfd):
    info = json.loads((run / "run.json").read_text())
    info["classes"] = info["classes"][::-1]
    (run / "run.json").write_text(json.dumps(info))
    fails(capfd, "evaluate", run, "--device=cpu", "--attack=fgsm", names=("run.json", "classes"))


def test_a_checkpoint_with_a_bit_that_fell_over(run, capfd):
    path = run / "checkpoints" / "best.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    fails(capfd, "evaluate", run, "--device=cpu", "--attack=fgsm", names=("best.ckpt", "damaged"))


# --- files that another training wrote; all found in our audit


@pytest.fixture(scope="module")
def other(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `begun`, but for its seed."""
    config = tiny_config(tiny_images, epochs=3, seed=1)
    return train(config, tmp_path_factory.mktemp("kind13") / "other", stop_after=2)


FILES = ["metrics.csv", "perturbation.parquet/epoch-0001.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_run(stopped, other, name, capfd):
    shutil.copy(other / name, stopped / name)
    is_refused(stopped, capfd, name, "not what this training wrote")
    fails(capfd, "train", "--resume", f"--out={stopped}", names=(name,))


@pytest.mark.parametrize("name", ["metrics.csv", "splits.csv", "perturbation.parquet/epoch-0000.parquet"])
def test_a_file_that_is_gone(stopped, name, capfd):
    (stopped / name).unlink()
    is_refused(stopped, capfd, name, "is missing")
    fails(capfd, "train", "--resume", f"--out={stopped}", names=(name, "is missing"))


def test_the_kept_checkpoint_of_another_run(stopped, other, capfd):
    shutil.copy(other / "checkpoints" / "best.ckpt", stopped / "checkpoints")
    for command in (["evaluate", stopped, "--device=cpu"], ["export", stopped]):
        fails(capfd, *command, names=("best.ckpt", "is of another run"))


def test_a_training_does_not_go_on_from_the_checkpoint_of_another_run(stopped, other, capfd):
    shutil.copy(other / "checkpoints" / "last.ckpt", stopped / "checkpoints")
    read_folder(stopped)
    fails(capfd, "train", "--resume", f"--out={stopped}", names=("last.ckpt", "not what this run saved"))
    (stopped / "checkpoints" / "last.ckpt").unlink()
    assert main(["train", "--resume", f"--out={stopped}"]) == 0
    read_folder(stopped)


def test_what_a_killed_training_left_is_not_held_against_it(stopped):
    """While it runs, `run.json` says nothing of its files."""
    info = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps(info | {"status": "running"}))
    (stopped / "perturbation.parquet" / "epoch-0001.parquet").unlink()
    read_folder(stopped)


@pytest.mark.parametrize("kind", ["maps", "scores"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: bytes(len(b))])
def test_maps_and_their_scores(explained, tmp_path, kind, damage):
    run = shutil.copytree(explained, tmp_path / "run")
    (entry,) = read_interpretability(run)["explanations"]
    path = run / "interpretability" / entry["files"][kind]
    path.write_bytes(damage(path.read_bytes()))
    read = read_maps if kind == "maps" else read_scores
    with pytest.raises(UserError, match=rf"{path.name}: is not what .* was written with; explain the run again"):
        read(run, entry)
    del entry["digests"]  # as versions before wrote it
    with pytest.raises(UserError, match=rf"{path.name}: cannot be read .*; explain the run again"):
        read(run, entry)


@pytest.fixture(scope="module")
def explained(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("kind13") / "explained")
    explain_run(run, maps=["input-gradient"], max_samples=4, steps=1, device="cpu")
    return run


# --- old runs


def test_a_run_folder_of_before_opens_and_is_reported_on(tmp_path):
    run = shutil.copytree(OLD, tmp_path / "old_run")
    assert read_folder(run).info["classes"] == ["c0", "c1", "c2"]
    assert len(read_evaluation(run)["results"]) == 9
    for format in ("html", "md"):
        page = write_report([run], tmp_path / f"page.{format}", format=format, images=False).read_text()
        assert "worst case" in page
        assert "Left out" not in page


def test_a_run_of_before_is_resumed_and_evaluated(stopped, tiny_images, tmp_path):
    info = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps({k: info[k] for k in info if k not in ("config", "splits_digest")}))
    frame = pd.read_csv(stopped / "splits.csv", dtype=str)
    frame[["id", "split"]].to_csv(stopped / "splits.csv", index=False)
    assert main(["train", "--resume", f"--out={stopped}"]) == 0
    assert evaluate_run(stopped, **QUICK)["results"][0]["n"] == 11
