"""Outcomes of cells in files of their own: summed up without the cells, and refused where they do not belong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark_makers import CELLS, GRID, Commands, document, here, run, write_grid
from dpaat.benchmark import read_grid, runner
from dpaat.benchmark.archive import read_outcomes, write_outcome
from dpaat.benchmark.jobs import JobRun, comparable
from dpaat.benchmark.outcomes import read_outcome
from dpaat.benchmark.overrides import GRIDS as PACKAGED
from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.methods import complete_options, find_method
from training_makers import fails


@pytest.fixture
def known(finished_grid: Path, tmp_path: Path) -> Path:
    """A copy of the outcomes of all cells."""
    return Path(shutil.copytree(finished_grid / "out" / "outcomes", tmp_path / "known"))


def evaluation(**changes: object) -> dict[str, object]:
    return {"evaluate": {**GRID["evaluate"], **changes}}


def test_known_cells_are_summed_up_and_not_run(finished_grid, known, tiny_images, tmp_path, monkeypatch):
    commands = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", commands)
    assert run(finished_grid / "grid.yaml", tmp_path / "out", tiny_images, known=known) == 0
    assert commands.asked == []
    found, before = document(tmp_path / "out"), document(finished_grid / "out")
    assert {name: found[name] for name in ("cells", "tables", "device")} == {
        name: before[name] for name in ("cells", "tables", "device")
    }


def test_a_summary_alone_runs_nothing_and_compares_with_any_recipe(
    finished_grid, known, tiny_images, tmp_path, monkeypatch, capfd
):
    commands = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", commands)
    (known / f"{CELLS[2]}.npz").unlink()
    shown = ["benchmark", str(finished_grid / "grid.yaml"), "--data", f"folder:{tiny_images}", "--summary-only"]
    out = ["--out", str(tmp_path / "out")]
    assert main([*shown, *out, "--known", str(known), "--reference", "pgd-8", "--models", "test_resnet"]) == 0
    assert commands.asked == []
    found = document(tmp_path / "out")
    assert [cell["status"] for cell in found["cells"]] == ["finished", "finished", "waiting", "finished"]
    assert found["reference"] == "pgd-8"
    standard, _ = found["tables"][0]["rows"]
    assert standard["differences"].keys() >= {"balanced_accuracy", "area"}
    assert standard["fronts"] == {}  # still the clean end of every front, not held against one
    assert found["command"].endswith("grid.yaml --data folder:DIR --reference pgd-8 --models test_resnet")
    error = fails(capfd, *shown, "--out", tmp_path / "nothing")
    assert "--summary-only: no cell is finished in" in error
    fails(capfd, *shown, *out, "--reference", "nope", names=("nope", "pgd-8"))


def test_models_are_kept_and_dropped_by_name(tmp_path):
    recipes = {"standard": {"method": "standard"}, "pgd": {"method": "pgd", "models": ["a"]}}
    models = [{"model": "test_resnet", "name": name} for name in ("a", "b")]
    grid = write_grid(tmp_path / "grid.yaml", recipes=recipes, models=models, folds=["1/2"])
    assert [cell.name for cell in read_grid(grid, models=["b"]).cells] == ["standard-b-folder-f1-s0"]
    assert len(read_grid(grid, models=["a"]).cells) == 2
    with pytest.raises(UserError, match="unknown model of the grid 'c'"):
        read_grid(grid, models=["c"])


def test_attacks_on_what_stands_are_as_good_as_attacks_on_all(finished_grid, tmp_path):
    runs, others = (
        [JobRun(cell, tmp_path) for cell in read_grid(write_grid(tmp_path / name, **evaluation(**attacks))).cells]
        for name, attacks in (
            ("all.yaml", {"attacks": ["apgd-ce", "pgd"]}),
            ("standing.yaml", {"attacks": ["apgd-ce"], "ensemble": ["pgd"]}),
        )
    )
    outcome = read_outcome(JobRun(read_grid(finished_grid / "grid.yaml").cells[0], finished_grid / "out"))
    write_outcome(tmp_path / "known", runs[0].cell, outcome)
    assert [*read_outcomes(tmp_path / "known", others)] == [runs[0].cell.name]


@pytest.mark.parametrize("older", [False, True])
def test_outcomes_ranked_under_another_attack_are_refused(finished_grid, known, tiny_images, tmp_path, capfd, older):
    if older:  # whose files do not say which attack it was
        for path in known.iterdir():
            with np.load(path) as arrays:
                changed = dict(arrays)
            head = json.loads(str(changed["head"]))
            del head["content"]["evaluate"]["ranked"]
            np.savez(path, **{**changed, "head": np.array(json.dumps(head))})
    grid = write_grid(tmp_path / "grid.yaml", **evaluation(attacks=["fgsm"], ensemble=["pgd"]))
    command = ["benchmark", grid, "--data", f"folder:{tiny_images}", "--known", known, "--dry-run"]
    fails(capfd, *command, names=(f"evaluate ranked {None if older else 'PGD-2'!r}, the grid says 'FGSM'",))


def test_cells_of_both_places_make_one_table(finished_grid, known, tiny_images, tmp_path, monkeypatch):
    commands = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", commands)
    for name in (CELLS[0], CELLS[3]):
        (known / f"{name}.npz").unlink()
    assert run(finished_grid / "grid.yaml", tmp_path / "out", tiny_images, known=known) == 0
    assert {cell for _, cell in commands.asked} == {CELLS[0], CELLS[3]}
    assert document(tmp_path / "out")["tables"][0]["rows"][1] == document(finished_grid / "out")["tables"][0]["rows"][1]
    assert sorted(path.stem for path in (tmp_path / "out" / "outcomes").iterdir()) == [CELLS[3], CELLS[0]]


def test_a_cell_that_is_finished_here_is_taken_from_here(finished_grid, known, tiny_images, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_command", here)
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    path = known / f"{CELLS[0]}.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["main/correct"] = np.zeros_like(changed["main/correct"])
    np.savez(path, **changed)
    assert run(finished_grid / "grid.yaml", tmp_path / "out", tiny_images, known=known) == 0
    assert document(tmp_path / "out")["tables"] == document(finished_grid / "out")["tables"]


def test_the_dry_run_names_known_cells(finished_grid, known, tiny_images, capsys):
    arguments = ["--data", f"folder:{tiny_images}", "--known", str(known), "--dry-run", "--out", str(known / "out")]
    assert main(["benchmark", str(finished_grid / "grid.yaml"), *arguments]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "-s0 " in line]
    assert [(row[0], row[1]) for row in rows] == [(name, "known") for name in CELLS]
    assert all(float(row[3]) >= 0 for row in rows), "the known cells' time is known too"
    (known / f"{CELLS[0]}.npz").unlink()
    assert main(["benchmark", str(finished_grid / "grid.yaml"), *arguments, "--only", CELLS[0]]) == 0
    assert "waiting" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        (
            f"{CELLS[0]}.npz: was computed with train lr 0.02, the grid says 0.5",
            {"train": {**GRID["train"], "lr": 0.5}},
        ),
        ("evaluate seed 0, the grid says 3", evaluation(seed=3)),
        ("masking suites None, the grid says ['masking']", evaluation(masking=9)),
        ("holds the outcome of no cell of this grid", {"seeds": [7]}),
    ],
)
def test_outcomes_of_another_grid_are_refused(named, changes, known, tiny_images, tmp_path, capfd):
    grid = write_grid(tmp_path / "grid.yaml", **changes)
    data = f"folder:{tiny_images}"
    fails(capfd, "benchmark", grid, "--data", data, "--known", known, "--out", tmp_path / "out", names=(named,))
    assert not (tmp_path / "out").exists()


def test_outcomes_on_other_data_are_refused(finished_grid, known, tiny_images, tmp_path, capfd):
    path = known / f"{CELLS[2]}.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    fingerprint = document(finished_grid / "out")["fingerprints"]["folder"]
    changed["head"] = np.array(str(changed["head"]).replace(fingerprint, "0" * 16))
    np.savez(path, **changed)
    arguments = ["--data", f"folder:{tiny_images}", "--known", known, "--out", tmp_path / "out"]
    names = (CELLS[2], "0" * 16, CELLS[0], fingerprint)
    fails(capfd, "benchmark", finished_grid / "grid.yaml", *arguments, names=names)


@pytest.mark.parametrize("damage", ["cut", "text", "flipped", "lacking", "other shape", "other head"])
def test_a_damaged_outcome_is_told_in_one_line(damage, finished_grid, known, tiny_images, tmp_path, capfd):
    path = known / f"{CELLS[1]}.npz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("nothing")
    elif damage == "flipped":
        content = bytearray(path.read_bytes())
        content[300:340] = bytes(byte ^ 0xFF for byte in content[300:340])
        path.write_bytes(content)
    elif damage == "other head":
        np.savez(path, head=np.array('{"content": []}'))
    else:
        with np.load(path) as arrays:
            changed = dict(arrays)
        precision = changed.pop("main/precision")
        np.savez(path, **changed, **({} if damage == "lacking" else {"main/precision": precision[:, 1:]}))
    arguments = ["--data", f"folder:{tiny_images}", "--known", known, "--out", tmp_path / "out"]
    fails(capfd, "benchmark", finished_grid / "grid.yaml", *arguments, names=(path.name, "damaged", "delete it"))


def test_a_setting_added_later_counts_as_its_default(finished_grid, known, tiny_images, tmp_path):
    """Files written before it existed stay valid as long as the grid leaves it alone."""
    path = known / f"{CELLS[1]}.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    head = json.loads(str(changed["head"]))
    del head["content"]["train"]["ema_decay"], head["content"]["evaluate"]["precision"]
    changed["head"] = np.array(json.dumps(head))
    np.savez(path, **changed)
    assert run(finished_grid / "grid.yaml", tmp_path / "out", tiny_images, known=known) == 0


def test_options_that_are_missing_count_as_their_defaults():
    options = complete_options(find_method("dpaat-fast"), {"steps_scale": 1.0})
    given = comparable({"method": "dpaat-fast", "options": {"steps_scale": 1.0}})
    assert comparable({"method": "dpaat-fast", "options": options}) == given
    assert comparable({"method": "dpaat-fast", "options": {"graded": 1.0, "warmup": 1}}) == given, "of version 0.1"
    assert comparable({"method": "dpaat-fast", "options": {"graded": 0.5}}) != given
    assert comparable({"method": "gone", "options": {"a": 1}})["options"] == {"a": 1}


def test_a_folder_that_is_not_there(finished_grid, tiny_images, tmp_path, capfd):
    arguments = ["--data", f"folder:{tiny_images}", "--known", tmp_path / "nowhere", "--out", tmp_path / "out"]
    fails(capfd, "benchmark", finished_grid / "grid.yaml", *arguments, names=("nowhere: no such folder",))


GRIDS = Path(__file__).resolve().parents[1] / "benchmarks" / "grids"
PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "results"


@pytest.mark.parametrize("path", sorted([*GRIDS.glob("*.yaml"), *PACKAGED.glob("*.yaml")]), ids=lambda path: path.stem)
def test_every_grid_of_the_repository_is_right(path):
    assert read_grid(path, data=["synthetic:600"] if path.stem == "quick" else []).cells


@pytest.mark.parametrize("name", ["ham10000-32px", "ham10000-32px-cnns", "pneumoniamnist"])
def test_published_outcomes_are_those_of_their_grids(name, tmp_path):
    """They were computed by version 0.1, under its names of methods and options."""
    grid = read_grid(GRIDS / f"{name}.yaml")
    outcomes = read_outcomes(PUBLISHED / name, [JobRun(cell, tmp_path) for cell in grid.cells])
    document = json.loads((PUBLISHED / f"{name}.json").read_text())
    assert set(outcomes) == {path.stem for path in (PUBLISHED / name).glob("*.npz")}
    assert set(outcomes) == {cell["name"] for cell in document["cells"] if cell["status"] == "finished"}
