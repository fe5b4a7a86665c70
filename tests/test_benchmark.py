"""Grids: read, run, resumed, summed up. Training and evaluation run in this process, which is quicker."""

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from benchmark_makers import CELLS, GRID, Commands, document, here, run, write_grid
from dpaat.benchmark import read_grid, runner
from dpaat.benchmark.archive import check_data
from dpaat.benchmark.cost import Size, cell_passes, step_passes
from dpaat.benchmark.datasets import data_name, public_spec
from dpaat.benchmark.jobs import JobRun
from dpaat.benchmark.outcomes import _Reader, read_outcome
from dpaat.benchmark.plans import digest
from dpaat.cli import main
from dpaat.config import TrainConfig, complete
from dpaat.data import prepare
from dpaat.errors import UserError
from dpaat.evaluation.results import read_evaluation
from dpaat.evaluation.statistics import few_runs
from dpaat.methods import METHODS
from dpaat.runs import read_config
from training_makers import fails

# --- the whole way


def test_every_cell_is_a_run_folder_and_nothing_tells_of_this_machine(finished_grid, tiny_images):
    found = document(finished_grid / "out")
    assert [cell["name"] for cell in found["cells"]] == CELLS
    assert {cell["status"] for cell in found["cells"]} == {"finished"}
    assert all(cell["seconds"].keys() == {"train", "evaluate"} for cell in found["cells"])
    assert {cell["torch_version"] for cell in found["cells"]} == {torch.__version__}
    assert read_config(finished_grid / "out" / "cells" / CELLS[1] / "config.yaml").eps == "8/255"
    assert found["command"] == "dpaat benchmark grid.yaml --data folder:DIR"
    assert found["grid"]["data"] == ["folder:DIR"]
    fingerprint = json.loads((finished_grid / "out" / "cells" / CELLS[0] / "run.json").read_text())["fingerprint"]
    assert found["fingerprints"] == {"folder": fingerprint}
    for name in ("benchmark.json", "benchmark.md", "pareto.svg"):
        assert str(tiny_images.parent) not in (finished_grid / "out" / name).read_text()


def test_scores_are_those_of_the_predictions(finished_grid):
    """Recalls over the images of both folds together, the worst of both attacks; mAP as the mean of the folds."""
    (table,) = document(finished_grid / "out")["tables"]
    assert (table["n"], table["replicates"]) == (54, 2)
    for row in table["rows"]:
        frames = [
            pd.read_parquet(finished_grid / "out" / "cells" / name / "predictions.parquet").assign(cell=name)
            for name in row["cells"]
        ]
        frame = pd.concat(frames)
        frame["wrong"] = frame["predicted"] != frame["label"]
        labels = frame[frame["attack"] == "clean"].set_index("id")["label"]
        balanced = []
        for eps, at in ((0, ""), (2 / 255, "@2/255"), (8 / 255, "@8/255")):
            fallen = frame[frame["eps"] <= eps + 1e-9].groupby("id")["wrong"].any()
            recalls = (~fallen).groupby(labels.loc[fallen.index].to_numpy()).mean()
            balanced.append(recalls.mean())
            assert row["scores"][f"accuracy{at}"]["value"] == pytest.approx((~fallen).mean())
            assert row["scores"][f"balanced_accuracy{at}"]["value"] == pytest.approx(recalls.mean())
            ranked = frame[(frame["attack"] == ("pgd" if eps else "clean")) & np.isclose(frame["eps"], eps)]
            precision = [
                average_precision_score(part["label"] == name, np.stack(part["probabilities"].to_list())[:, k])
                for _, part in ranked.groupby("cell")
                for k, name in enumerate(("c0", "c1", "c2"))
            ]
            assert row["scores"][f"map{at}"]["value"] == pytest.approx(np.mean(precision))
        area = (2 * (balanced[0] + balanced[1]) + 6 * (balanced[1] + balanced[2])) / 2 / 8
        assert row["scores"]["area"]["value"] == pytest.approx(area)
        assert all(s["interval"][0] <= s["value"] <= s["interval"][1] for s in row["scores"].values())


def test_differences_and_cost_are_relative_to_the_reference(finished_grid):
    (table,) = document(finished_grid / "out")["tables"]
    standard, pgd = table["rows"]
    assert standard["differences"] is None
    assert pgd["differences"].keys() == pgd["scores"].keys()
    for name, found in pgd["differences"].items():
        difference = pgd["scores"][name]["value"] - standard["scores"][name]["value"]
        assert found["difference"] == pytest.approx(difference)
        assert found["interval"][0] <= found["bound"] <= found["difference"] <= found["interval"][1]
        assert found["p_adjusted"] >= found["p_value"]
    assert standard["relative_cost"] == 1
    assert pgd["relative_cost"] == pytest.approx(pgd["seconds_per_epoch"] / standard["seconds_per_epoch"])


def test_markdown_and_plot_show_every_recipe(finished_grid):
    text = (finished_grid / "out" / "benchmark.md").read_text()
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith(("| standard", "| pgd-8"))] == [
        "| standard",
        "| pgd-8",
        "| pgd-8",
    ]
    caution = f"standard, pgd-8: {few_runs([('1/2', 0), ('2/2', 0)])}"
    assert text.count(caution) == (finished_grid / "out" / "report.html").read_text().count(caution) == 1
    drawing = "".join(ElementTree.parse(finished_grid / "out" / "pareto.svg").getroot().itertext())
    assert all(word in drawing for word in ("standard", "pgd", "8", "folder, test_resnet", "mAP at 2/255", "clean mAP"))


def test_a_row_alone_gives_the_same_digits(finished_grid, tiny_images, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_command", here)
    assert run(finished_grid / "grid.yaml", tmp_path / "again", tiny_images, only="pgd-8-*-f2-*") == 0
    again = {cell["name"]: cell for cell in document(tmp_path / "again")["cells"]}
    before = {cell["name"]: cell for cell in document(finished_grid / "out")["cells"]}
    assert [cell["status"] for cell in again.values()] == ["waiting", "waiting", "waiting", "finished"]
    assert again[CELLS[3]]["scores"] == before[CELLS[3]]["scores"]


# --- going on, and failing


def test_a_second_call_does_nothing(finished_grid, tiny_images, monkeypatch):
    commands = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", commands)
    tables = document(finished_grid / "out")["tables"]
    assert run(finished_grid / "grid.yaml", finished_grid / "out", tiny_images) == 0
    assert commands.asked == []
    assert document(finished_grid / "out")["tables"] == tables


def test_a_log_file_gets_a_line_for_every_cell(finished_grid, tiny_images, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runner, "run_command", Commands(finished_grid / "out"))
    arguments = ["benchmark", str(finished_grid / "grid.yaml"), "--data", f"folder:{tiny_images}", "--workers", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    errors = capfd.readouterr().err
    assert "\r" not in errors
    assert [line.split(" ", 1)[1] for line in errors.splitlines()] == [
        f"{k} of 4 cells done, 0 failed" for k in range(1, 5)
    ]


def test_a_failure_stops_nothing_and_is_tried_again(finished_grid, tiny_images, tmp_path, monkeypatch):
    broken = Commands(finished_grid / "out", fails=lambda kind, cell: kind == "train" and cell == CELLS[0])
    monkeypatch.setattr(runner, "run_command", broken)
    assert run(finished_grid / "grid.yaml", tmp_path, tiny_images) == 1
    assert len(broken.asked) == 1 + 3 * 2
    cells = {cell["name"]: cell for cell in document(tmp_path)["cells"]}
    assert {name: cell["status"] for name, cell in cells.items()} == dict.fromkeys(CELLS, "finished") | {
        CELLS[0]: "failed"
    }
    assert cells[CELLS[0]]["error"] == "train: Lightning refuses precision 12-true"
    (table,) = document(tmp_path)["tables"]
    assert [len(row["cells"]) for row in table["rows"]] == [1, 2]
    standard, pgd = (row["scores"]["map"]["value"] for row in table["rows"])
    paired = cells[CELLS[3]]["scores"]["map"] - cells[CELLS[2]]["scores"]["map"]
    assert table["rows"][1]["differences"]["map"]["difference"] == pytest.approx(paired)
    assert pgd - standard != pytest.approx(paired), "differences are taken over the folds that both have"

    mended = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", mended)
    assert run(finished_grid / "grid.yaml", tmp_path, tiny_images) == 0
    assert mended.asked == [("train", CELLS[0]), ("evaluate", CELLS[0])]
    assert (
        document(tmp_path)["tables"][0]["rows"][0]["scores"]
        == document(finished_grid / "out")["tables"][0]["rows"][0]["scores"]
    )


def test_json_holds_no_tables_of_an_earlier_call(finished_grid, tiny_images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "run_command", Commands(finished_grid / "out", fails=lambda *_: True))
    shutil.copy(finished_grid / "out" / "benchmark.json", tmp_path)
    grid = [str(finished_grid / "grid.yaml"), f"--data=folder:{tiny_images}"]
    assert main(["benchmark", *grid, f"--out={tmp_path}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == {"folder": str(tmp_path), "problems": 4}


def test_what_was_interrupted_goes_on_where_it_stood(finished_grid, tiny_images, tmp_path, monkeypatch):
    broken = Commands(finished_grid / "out", fails=lambda kind, cell: kind == "evaluate" and cell == CELLS[1])
    monkeypatch.setattr(runner, "run_command", broken)
    run(finished_grid / "grid.yaml", tmp_path, tiny_images)
    checkpoint = tmp_path / "cells" / CELLS[2] / "run.json"
    checkpoint.write_text(checkpoint.read_text().replace('"finished"', '"running"'))
    mended = Commands(finished_grid / "out")
    monkeypatch.setattr(runner, "run_command", mended)
    run(finished_grid / "grid.yaml", tmp_path, tiny_images)
    assert mended.asked == [("evaluate", CELLS[1]), ("train", CELLS[2]), ("evaluate", CELLS[2])]


def test_another_plan_is_evaluated_without_training_again(finished_grid, tiny_images, tmp_path, monkeypatch):
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    asked = []
    monkeypatch.setattr(runner, "run_command", lambda arguments, *_, **__: asked.append(arguments) or "no")
    grid = write_grid(tmp_path / "grid.yaml", evaluate={**GRID["evaluate"], "eps": ["4/255"], "max_samples": 20})
    assert run(grid, tmp_path / "out", tiny_images, only=CELLS[0]) == 1
    (arguments,) = asked
    assert arguments[:2] == ["evaluate", str(tmp_path / "out" / "cells" / CELLS[0])]
    wanted = {"--attack=fgsm,pgd", "--steps=pgd=2", f"--eps={4 / 255}", "--max-samples=20", "--device=cpu"}
    assert wanted <= set(arguments)


def test_an_ensemble_gives_the_verdicts(finished_grid, tiny_images, tmp_path, monkeypatch):
    """PGD on all images ranks them; in the verdicts also stand those that FGSM fells afterwards."""
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    monkeypatch.setattr(runner, "run_command", here)
    plan = {**GRID["evaluate"], "attacks": ["pgd"], "ensemble": ["fgsm"]}
    grid = write_grid(tmp_path / "grid.yaml", evaluate=plan)
    assert run(grid, tmp_path / "out", tiny_images, only=CELLS[1]) == 0
    predictions = pd.read_parquet(tmp_path / "out" / "cells" / CELLS[1] / "predictions.parquet")
    scores = next(cell["scores"] for cell in document(tmp_path / "out")["cells"] if cell["name"] == CELLS[1])
    for eps in (2, 8):
        at = predictions[np.isclose(predictions["eps"], eps / 255)]
        right = (at["predicted"] == at["label"]).groupby(at["attack"]).mean()
        assert scores[f"accuracy@{eps}/255"] == pytest.approx(right["worst-of:pgd-2+fgsm"])
        assert right["worst-of:pgd-2+fgsm"] <= right["pgd"]


def test_masking_checks_are_a_step_of_their_own(finished_grid, tiny_images, tmp_path, monkeypatch):
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    asked = []
    monkeypatch.setattr(runner, "run_command", lambda arguments, *_, **__: asked.append(arguments) or "no")
    grid = write_grid(tmp_path / "grid.yaml", evaluate={**GRID["evaluate"], "masking": 30})
    assert run(grid, tmp_path / "out", tiny_images, only=CELLS[0]) == 1
    (arguments,) = asked  # the other plan is done
    assert {"--suite=masking", "--max-samples=30", f"--eps={2 / 255},{8 / 255}"} <= set(arguments)
    assert not [each for each in arguments if each.startswith(("--attack", "--steps"))]


def test_a_checkpoint_cut_off_by_a_kill_is_trained_anew(finished_grid, tiny_images, tmp_path, monkeypatch):
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    folder = tmp_path / "out" / "cells" / CELLS[0]
    last = folder / "checkpoints" / "last.ckpt"
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"finished"', '"running"'))
    there = []

    def damaged(arguments, *_, **__):
        there.append(last.is_file())
        return f"{last}: not a checkpoint" if last.is_file() else "out of time"

    monkeypatch.setattr(runner, "run_command", damaged)
    assert run(finished_grid / "grid.yaml", tmp_path / "out", tiny_images, only=CELLS[0]) == 1
    assert there == [True, False]


def test_a_cell_of_another_configuration_is_not_passed_off(finished_grid, tiny_images, tmp_path):
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    grid = write_grid(tmp_path / "grid.yaml", train=GRID["train"] | {"lr": 0.5})
    with pytest.raises(Exception, match=rf"{CELLS[0]}: was begun with lr 0.02, the grid says 0.5"):
        run(grid, tmp_path / "out", tiny_images)


def test_a_cell_goes_on_where_its_data_were_moved(finished_grid, tiny_images, tmp_path, monkeypatch):
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    folder = tmp_path / "out" / "cells" / CELLS[1]
    (folder / "evaluation.json").unlink()
    moved = shutil.copytree(tiny_images, tmp_path / "moved")
    monkeypatch.setattr(runner, "run_command", lambda arguments, *_, **__: "no")
    run(finished_grid / "grid.yaml", tmp_path / "out", moved, only=CELLS[1])
    assert read_config(folder / "config.yaml").data == f"folder:{moved}"
    assert (folder / "checkpoints" / "best.ckpt").is_file()


def test_all_seeds_share_the_splits_of_seed_0(tiny_images, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_command", lambda arguments, *_, **__: "not now")
    grid = write_grid(tmp_path / "grid.yaml", seeds=[0, 3], recipes={"standard": {"method": "standard"}})
    assert run(grid, tmp_path / "out", tiny_images) == 4
    cells = tmp_path / "out" / "cells"
    assert not (cells / "standard-test_resnet-folder-f2-s0" / "splits.csv").exists(), "training makes these itself"
    splits = pd.read_csv(cells / "standard-test_resnet-folder-f2-s3" / "splits.csv").set_index("id")["split"]
    data = prepare(f"folder:{tiny_images}", image_size=32, seed=0, fold="2/2", progress=False)
    assert splits.to_dict() == dict(zip(data.ids, data.split, strict=True))
    folder = cells / "standard-test_resnet-folder-f2-s3"
    assert here(["train", "--resume", "--out", str(folder)], folder) is None
    assert pd.read_csv(folder / "splits.csv").set_index("id")["split"].to_dict() == splits.to_dict()
    assert (read_config(folder / "config.yaml").seed, read_config(folder / "config.yaml").fold) == (3, "2/2")


# --- processes


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in the place of the interpreter."""

    def write(script: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(runner.sys, "executable", str(path))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo fine; echo a warning >&2", None),
        ("echo '50 % |###' >&2; printf '60 %%\\rdpaat: error: no such folder\\n\\n' >&2; exit 2", "no such folder"),
        ("exit 3", "ended with code 3"),
        ("kill -9 $$", "killed by SIGKILL"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_what_a_process_died_of(script, error, program):
    folder = program(script)
    assert runner.run_command(["train"], folder, environment=os.environ, live=set()) == error


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_cores_are_shared_out_among_the_workers(program, finished_grid, tiny_images, tmp_path, monkeypatch):
    folder = program('echo "$OMP_NUM_THREADS $3" >> "$(dirname "$0")/said"; exit 1')
    monkeypatch.setattr(runner, "count_cores", lambda: 7)
    assert run(finished_grid / "grid.yaml", folder / "out", tiny_images, workers=3) == 4
    assert (folder / "said").read_text().splitlines() == ["2 train"] * 4


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_cells_and_blames_none(number, program, finished_grid, tiny_images, monkeypatch):
    folder = program('echo $$ > "$(dirname "$0")/id"; exec sleep 60')
    monkeypatch.setattr(runner, "PATIENCE", 0.1)

    def interrupted(futures, **options):
        while not (folder / "id").is_file() or not (folder / "id").read_text().strip():
            time.sleep(0.01)
        signal.raise_signal(number)

    monkeypatch.setattr(runner, "wait", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(finished_grid / "grid.yaml", folder / "out", tiny_images)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "id").read_text()), 0)
    grid = read_grid(finished_grid / "grid.yaml")
    states = [JobRun(cell, folder / "out").state for cell in grid.cells]
    assert states == ["waiting"] * 4


# --- grids


def test_a_grid_is_the_product_of_its_axes(tmp_path):
    changes = {
        "models": ["test_resnet", {"model": "test_resnet", "stem": "small", "name": "small"}],
        "data": ["synthetic:200", "medmnist:pneumoniamnist:/x/file.npz"],
        "folds": None,
        "seeds": [0, 1],
    }
    grid = read_grid(write_grid(tmp_path / "grid.yaml", **changes))
    names = [cell.name for cell in grid.cells]
    assert len(names) == len(set(names)) == 2 * 2 * 2 * 2
    assert names[:2] == ["standard-test_resnet-synthetic-200-s0", "pgd-8-test_resnet-synthetic-200-s0"]
    small = next(cell for cell in grid.cells if cell.name == "pgd-8-small-pneumoniamnist-s1")
    assert (small.config.stem, small.config.seed, small.config.eps) == ("small", 1, "8/255")
    assert small.config == complete(small.config)


def test_a_recipe_may_have_seeds_of_its_own(tmp_path):
    recipes = {"standard": {"method": "standard", "seeds": [0, 2]}, "pgd": {"method": "pgd", "eps": ["1/255"]}}
    grid = read_grid(write_grid(tmp_path / "grid.yaml", recipes=recipes, folds=["1/2"]))
    assert [cell.name.removesuffix("-s0") for cell in grid.cells] == [
        "standard-test_resnet-folder-f1",
        "pgd-1-test_resnet-folder-f1",
        "standard-test_resnet-folder-f1-s2",
    ]
    assert [cell.config.seed for cell in grid.cells] == [0, 0, 2]


def test_a_recipe_may_have_models_of_its_own(tmp_path):
    recipes = {"standard": {"method": "standard"}, "pgd": {"method": "pgd", "eps": ["1/255"], "models": "small"}}
    models = ["test_resnet", {"model": "test_resnet", "stem": "small", "name": "small"}]
    grid = read_grid(write_grid(tmp_path / "grid.yaml", recipes=recipes, models=models, folds=["1/2"]))
    assert [cell.name for cell in grid.cells] == [
        "standard-test_resnet-folder-f1-s0",
        "standard-small-folder-f1-s0",
        "pgd-1-small-folder-f1-s0",
    ]


def test_recipes_override_what_they_share(tmp_path):
    recipes = {"weak": {"method": "pgd", "eps": ["1/255", 0.05]}, "slow": {"method": "standard", "lr": 0.001}}
    grid = read_grid(write_grid(tmp_path / "grid.yaml", recipes=recipes))
    assert [(recipe.name, recipe.family) for recipe in grid.recipes] == [
        ("weak-1", "weak"),
        ("weak-0.05", "weak"),
        ("slow", None),
    ]
    assert [cell.config.lr for cell in grid.cells[:3]] == [0.02, 0.02, 0.001]
    assert [cell.config.radius for cell in grid.cells[:3]] == pytest.approx([1 / 255, 0.05, 0])
    assert grid.reference == "weak-1"


def test_a_family_lists_radii_of_its_norm(tmp_path):
    recipes = {"l2": {"method": "pgd", "norm": "l2", "eps": [0.25, "128/255", 1, 2.5]}}
    grid = read_grid(write_grid(tmp_path / "grid.yaml", recipes=recipes))
    assert [recipe.name for recipe in grid.recipes] == ["l2-0.25", "l2-0.501961", "l2-1", "l2-2.5"]
    assert [cell.config.radius for cell in grid.cells[:4]] == pytest.approx([0.25, 128 / 255, 1, 2.5])


def test_the_draw_takes_radii_and_precision_from_the_main_plan(tmp_path):
    evaluate = {"suites": "standard", "steps": 5, "eps": "1/255", "batch_size": 7}
    drawn = {"attacks": "square,fab-t", "steps": {"square": 10}, "max_samples": 9}
    plans = read_grid(write_grid(tmp_path / "grid.yaml", evaluate={**evaluate, "subset": drawn})).plans
    assert plans.main.steps == dict.fromkeys(("pgd", "apgd-ce", "apgd-t", "fab-t", "square"), 5)
    assert plans.draw is not None
    assert (plans.draw.radii, plans.draw.batch_size, plans.draw.max_samples) == ([1 / 255], 7, 9)
    assert (plans.draw.suites, plans.draw.attacks, plans.draw.steps) == ([], ["square", "fab-t"], {"square": 10})
    assert digest(plans.main) != digest(plans.draw)


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("unknown field 'recipe'", {"recipe": {}}),
        ("recipes", {"recipes": {}}),
        ("recipes.pgd", {"recipes": {"pgd": None}}),
        ("recipes: 'a/b'", {"recipes": {"a/b": {"method": "pgd"}}}),
        ("nearest: pgd", {"recipes": {"mine": {"method": "pdg"}}}),
        ("nearest: clean_weight", {"recipes": {"mine": {"clean_weigth": 1}}}),
        ("recipe mine, model test_resnet: clean_weight", {"recipes": {"mine": {"method": "pgd", "clean_weight": 2}}}),
        ("recipes.mine: seeds: -1", {"recipes": {"mine": {"seeds": [-1]}}}),
        ("recipes.mine: unknown model of the grid 'tiny'", {"recipes": {"mine": {"models": ["tiny"]}}}),
        ("recipes.mine: models", {"recipes": {"mine": {"models": ["test_resnet", "test_resnet"]}}}),
        ("recipes.mine.seed: is set by the grid's own seeds", {"recipes": {"mine": {"seed": 1}}}),
        ("out of order", {"recipes": {"mine": {"method": "pgd", "eps": ["4/255", "2/255"]}}}),
        ("train.model", {"train": {"model": "resnet18"}}),
        ("image_size", {"train": {"image_size": "wide"}}),
        ("Trainer option", {"train": {"trainer": {"gradient_clip": 1}}}),
        ("reference", {"reference": "dpaat"}),
        ("models", {"models": []}),
        ("unknown model 'resnt18'", {"models": ["resnt18"]}),
        ("is given twice", {"models": ["test_resnet", {"model": "test_resnet", "stem": "small"}]}),
        ("folds", {"folds": ["1/3", "2/4"]}),
        ("fold", {"folds": ["4/3"]}),
        ("seeds", {"seeds": [-1]}),
        ("seeds", {"seeds": [1, 1]}),
        ("workers", {"workers": 0}),
        ("threads", {"threads": "many"}),
        ("data", {"data": ["folder:one", "folder:two"]}),
        ("nearest: max_samples", {"evaluate": {"max_sample": 3}}),
        ("unknown attack", {"evaluate": {"attacks": ["pgdd"]}}),
        ("evaluate: suites: needs 'standard'", {"evaluate": {"suites": ["masking"]}}),
        ("evaluate: masking: 0", {"evaluate": {"masking": 0}}),
        ("evaluate", {"evaluate": {"max_samples": "few"}}),
        ("evaluate: batch_size: needs a value", {"evaluate": {"batch_size": None}}),
        ("share images", {"evaluate": {"split": "val"}}),
        ("radius above 0", {"evaluate": {"eps": [0]}}),
        ("transfer", {"evaluate": {"attacks": ["transfer"]}}),
        ("transfer", {"evaluate": {"ensemble": ["transfer"]}}),
        ("ensemble: needs a value", {"evaluate": {"ensemble": None, "steps": 5}}),
        ("evaluate", {"evaluate": {"attacks": 5, "steps": 5}}),
        ("evaluate: attacks: name at least one that", {"evaluate": {"attacks": [], "ensemble": ["pgd"]}}),
        ("max_samples", {"evaluate": {"subset": {"attacks": ["square"]}}}),
        ("evaluate: subset: unknown field 'split'", {"evaluate": {"subset": {"max_samples": 3, "split": "val"}}}),
        ("no such folder: DIR; say with --data folder:DIR where it is", {}),
    ],
)
def test_a_bad_grid_is_told_in_one_line(named, changes, tmp_path, capfd):
    grid = write_grid(tmp_path / "grid.yaml", **changes)
    fails(capfd, "benchmark", grid, "--out", tmp_path / "out", names=(named,))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("--only", ["--only=dpaat*"]),
        ("--data", ["--data=synthetic", "--data=synthetic:99"]),
        ("workers", ["--workers=0"]),
    ],
)
def test_bad_options_are_told_in_one_line(named, arguments, tmp_path, capfd):
    fails(capfd, "benchmark", write_grid(tmp_path / "grid.yaml"), *arguments, names=(named,))


@pytest.mark.parametrize("content", ["a: [", "- 1", "\x00"])
def test_a_file_that_is_no_grid(content, tmp_path, capfd):
    (tmp_path / "grid.yaml").write_text(content)
    fails(capfd, "benchmark", tmp_path / "grid.yaml", names=("grid.yaml",))


def test_dry_run_lists_the_cells_and_runs_none(finished_grid, tiny_images, tmp_path, capsys):
    shutil.copytree(finished_grid / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "cells" / CELLS[3])
    arguments = [
        "benchmark",
        str(finished_grid / "grid.yaml"),
        "--data",
        f"folder:{tiny_images}",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert [text.count(name) for name in CELLS] == [1] * 4
    assert (text.count("finished"), text.count("waiting")) == (3, 1)
    assert re.search(r"^1 cells to run, .* about \d+ min$", text, re.MULTILINE), "finished cells cost nothing more"
    assert not (tmp_path / "out" / "cells" / CELLS[3]).exists()


def test_finished_cells_of_data_that_have_changed_are_refused(finished_grid, tiny_images, tmp_path, capfd):
    out, images = tmp_path / "out", tmp_path / "images"
    shutil.copytree(finished_grid / "out", out)
    shutil.copytree(tiny_images, images)
    command = ["benchmark", finished_grid / "grid.yaml", "--data", f"folder:{images}", "--out", out]
    assert main([*map(str, command), "--dry-run"]) == 0
    splits = out / "cells" / CELLS[0] / "splits.csv"
    kept = splits.read_text()
    splits.write_text(kept.replace(",test", ",train", 1))
    fails(capfd, *command, names=(CELLS[0], "another split of these data"))
    splits.write_text(kept)
    next((images / "c0").iterdir()).rename(images / "c1" / "moved.png")
    for more in ([], ["--dry-run"]):
        fails(capfd, *command, *more, names=(CELLS[0], "data that have changed since"))


def test_cells_of_the_grid_before_are_not_summed_up_with_others(finished_grid, tiny_images, tmp_path, capfd):
    out = tmp_path / "out"
    shutil.copytree(finished_grid / "out", out)
    grid = write_grid(tmp_path / "grid.yaml", train={**GRID["train"], "lr": 0.25})
    shutil.rmtree(out / "cells" / CELLS[3])
    command = ["benchmark", grid, "--data", f"folder:{tiny_images}", "--out", out]
    kept = (out / "outcomes" / f"{CELLS[0]}.npz").read_bytes()
    for more in (["--only", CELLS[3]], ["--summary-only"]):
        fails(capfd, *command, *more, names=("was begun with lr",))
    assert (out / "outcomes" / f"{CELLS[0]}.npz").read_bytes() == kept
    assert not (out / "cells" / CELLS[3]).exists()


@pytest.mark.parametrize("kept", ["best", "previous"])
def test_a_cell_without_its_last_checkpoint_is_not_thrown_away(finished_grid, tmp_path, kept):
    shutil.copytree(finished_grid / "out" / "cells" / CELLS[0], tmp_path / "cells" / CELLS[0])
    (cell,) = (each for each in read_grid(finished_grid / "grid.yaml").cells if each.name == CELLS[0])
    job = JobRun(cell, tmp_path)
    for name in {"best", "last", "previous"} - {kept}:
        (job.folder / "checkpoints" / f"{name}.ckpt").unlink(missing_ok=True)
    (job.folder / "checkpoints" / f"{kept}.ckpt").touch()
    assert job.begun
    job.begin(None)
    assert (job.folder / "evaluation.json").is_file()
    with pytest.raises(UserError, match="was begun with lr"):
        JobRun(dataclasses.replace(cell, config=dataclasses.replace(cell.config, lr=0.25)), tmp_path).check()


@pytest.mark.parametrize(
    ("plan", "stored", "named"),
    [
        ({"max_samples": 9, "seed": 1}, {"n": 9, "draw": 0}, "lacks PGD-2"),
        ({"max_samples": 9, "seed": 1}, {"n": 9, "draw": 1, "seed": 1}, None),
        ({"seed": 1}, {"seed": 0}, "lacks PGD-2"),
        ({"batch_size": 7}, {}, "lacks PGD-2"),
        ({"precision": "bf16"}, {}, "lacks PGD-2"),
        ({}, {}, None),
    ],
)
def test_a_cell_is_read_from_the_results_of_its_own_plan(finished_grid, plan, stored, named):
    cell = read_grid(finished_grid / "grid.yaml").cells[0]
    changed = dataclasses.replace(cell.plans.main, **plan)
    plans = dataclasses.replace(cell.plans, main=changed)
    run = JobRun(dataclasses.replace(cell, plans=plans), finished_grid / "out")
    document = read_evaluation(run.folder)
    wanted = changed.spec("pgd")
    entries = [{**entry, **stored} for entry in document["results"] if entry["attack"] in ("clean", "pgd")]
    reader = _Reader(run, {**document, "results": entries})
    if named is None:
        assert reader.entry(changed, wanted, 2 / 255)["attack"] == "pgd"
    else:
        with pytest.raises(UserError, match=named):
            reader.entry(changed, wanted, 2 / 255)


def test_masking_checks_of_other_plans_are_not_counted(finished_grid):
    cell = read_grid(finished_grid / "grid.yaml").cells[0]
    main = cell.plans.main
    masking = dataclasses.replace(main, suites=["masking"], attacks=["pgd"], steps={}, max_samples=9)
    plans = dataclasses.replace(cell.plans, masking=masking)
    run = JobRun(dataclasses.replace(cell, plans=plans), finished_grid / "out")
    document = read_evaluation(run.folder)
    about = {"fingerprint": document["data_fingerprint"], "split": "test", "n": 9, "norm": "linf", "seed": 0}
    entries = [
        {**about, **other, "verdict": f"{number}", "summary": "", "checks": [], "batch_size": 128, "precision": "32"}
        for number, other in enumerate([{"norm": "l2"}, {"n": 10}, {"draw": 1, "seed": 1}, {"split": "val"}, {}])
    ]
    found = _Reader(run, {**document, "analyses": {"masking": entries}}).masking()
    assert [entry["verdict"] for entry in found] == ["4"]


def test_cells_that_were_tested_on_other_images_are_not_compared(finished_grid, tiny_images):
    runs = [JobRun(cell, finished_grid / "out") for cell in read_grid(finished_grid / "grid.yaml").cells]
    outcomes = {run.cell.name: read_outcome(run) for run in runs}
    check_data(outcomes, runs)
    first = outcomes[CELLS[0]]
    images = first.main.clean.images
    other = dataclasses.replace(images, ids=images.ids[::-1])
    clean = dataclasses.replace(first.main.clean, images=other)
    outcomes[CELLS[0]] = dataclasses.replace(first, main=dataclasses.replace(first.main, clean=clean))
    with pytest.raises(UserError, match="was tested on other images than"):
        check_data(outcomes, runs)


def test_grids_of_the_package_go_by_their_names(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    smoke = read_grid(Path("smoke"))
    assert (len(smoke.cells), smoke.command, smoke.name) == (4 * 2, "dpaat benchmark smoke", "smoke")
    quick = read_grid(Path("quick"), data=["folder:/x/photos"])
    assert {cell.config.method for cell in quick.cells} == {"standard", "pgd", "trades", "dpaat"}
    assert quick.command == "dpaat benchmark quick --data folder:DIR"
    fails(capfd, "benchmark", "quick", names=("names no dataset; give one with --data",))
    fails(capfd, "benchmark", "quik", names=("quik", "nearest: quick"))
    assert main(["list", "grids"]) == 0
    assert {"smoke", "quick"} <= set(capfd.readouterr().out.split())


def test_a_file_comes_before_a_grid_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path / "smoke", models=["resnet18"])
    assert {cell.model for cell in read_grid(Path("smoke")).cells} == {"resnet18"}


def test_datasets_are_named_without_their_place():
    expected = {
        "ham10000:/data/ham": ("ham10000", "ham10000:DIR"),
        "medmnist:pneumoniamnist:/x/y.npz": ("pneumoniamnist", "medmnist:pneumoniamnist"),
        "synthetic": ("synthetic", "synthetic"),
        "synthetic:200,features=robust": ("synthetic-200,features=robust", "synthetic:200,features=robust"),
    }
    assert {spec: (data_name(spec), public_spec(spec)) for spec in expected} == expected


def test_passes_count_training_validation_and_attacks(tmp_path):
    grid = read_grid(write_grid(tmp_path / "grid.yaml", train=GRID["train"] | {"epochs": 3, "val_eps": "1/255"}))
    config = grid.cells[1].config
    assert step_passes(config) == 2 * 1 + 3
    assert step_passes(complete(TrainConfig(method="dpaat-half", steps=10))) == 2 * 10 + 3 + 3
    assert step_passes(complete(TrainConfig(method="dpaat-fast", steps=10, clean_weight=0.5))) == 5 + 3
    assert step_passes(complete(TrainConfig(method="dpaat-v1", steps=10))) == pytest.approx(0.5 * 0.15 * 2 * 10 + 3)
    taught = 0.5 * 0.1 * (2 * 10 + 1) + 3
    assert step_passes(complete(TrainConfig(method="dpaat", steps=10))) == pytest.approx(taught)
    late = TrainConfig(method="dpaat-fast", steps=10, clean_weight=0.85, adv_start=0.5)
    assert step_passes(complete(late)) == pytest.approx(0.5 * 0.15 * 10 + 3)
    half = {"views": "both", "adv_fraction": 0.5}
    beside = TrainConfig(method="dpaat-fast", steps=8, clean_weight=0.93, adv_start=0.5, options=half)
    assert step_passes(complete(beside)) == pytest.approx(3 + 0.25 * (8 + 3))
    for weight, views in ((0.0, 1), (0.5, 2)):
        pgd = TrainConfig(method="pgd", steps=10, clean_weight=weight)
        perturbed = dataclasses.replace(pgd, awp=0.01)
        assert step_passes(complete(perturbed)) == step_passes(complete(pgd)) + 3 * views
    assert step_passes(complete(TrainConfig(method="standard", clean_weight=0.5))) == 3
    # 40 images of each fold are tested, an eighth of the other 40 validated; fgsm 2 + 1 and pgd-2 4 + 1 passes.
    expected = 3 * (35 * 5 + 5 * (1 + 2 * 2)) + 40 * (1 + 2 * (3 + 5))
    assert cell_passes(config, grid.plans, Size(80, 3)) == pytest.approx(expected)
    for name in METHODS:
        assert step_passes(complete(TrainConfig(method=name))) >= 3
