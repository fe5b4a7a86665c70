"""Runs against each other: pairing, pooling and the adjustment of p-values."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.evaluation.compare import compare_runs
from dpaat.evaluation.entries import Population, result_entry
from dpaat.evaluation.metrics import classification_metrics
from dpaat.evaluation.results import prediction_rows, save_result
from dpaat.evaluation.specs import CLEAN, AttackSpec
from dpaat.evaluation.statistics import holm
from dpaat.evaluation.suite import Result

CLASSES = ["a", "b", "c"]


def make_run(
    root: Path, name: str, *, method: str, skill: float, fold: str | None = None, seed: int = 0, n: int = 90
) -> Path:
    """An evaluated folder with made-up predictions, right more often the larger the skill."""
    folder = root / name
    folder.mkdir()
    labels = np.arange(n) % 3
    ids = [f"{fold}-{k:03d}" for k in range(n)]
    population = Population("made", "f" * 16, "test", n)
    head = {
        "checkpoint": name, "method": method, "model": "m", "recipe": method, "fold": fold, "training_seed": seed,
        "classes": CLASSES, "data_fingerprint": "f" * 16,
    }  # fmt: skip
    for spec, eps, loss in ((CLEAN, 0.0, 0.0), (AttackSpec("pgd", 20), 8 / 255, 1.0)):
        generator = torch.Generator().manual_seed(seed + 1)
        logits = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        logits[torch.arange(n), torch.from_numpy(labels)] += skill - loss
        probabilities = logits.softmax(1)
        metrics = classification_metrics(probabilities, torch.from_numpy(labels), CLASSES)
        result = Result(spec, eps, probabilities.argmax(1).numpy(), metrics, probabilities)
        rows = prediction_rows(
            result, population, ids=ids, groups=[f"g{k // 2}" for k in range(n)], labels=labels, classes=CLASSES
        )
        save_result(folder, head, result=result_entry(result, population, checkpoint=name), predictions=rows)
    return folder


def test_a_run_against_its_copy_differs_by_exactly_nothing(tmp_path) -> None:
    one = make_run(tmp_path, "one", method="pgd", skill=1.0)
    two = tmp_path / "two"
    shutil.copytree(one, two)
    document = json.loads((two / "evaluation.json").read_text())
    (two / "evaluation.json").write_text(json.dumps(document | {"recipe": "copy"}))
    found = compare_runs([one, two])
    assert found["reference"] == "one"
    for condition in found["conditions"]:
        for difference in condition["differences"]["two"].values():
            assert difference["difference"] == 0
            assert difference["interval"] == [0, 0]
            assert difference["p_value"] == difference["p_adjusted"] == 1


def test_scores_are_those_of_the_evaluation_and_differences_add_up(tmp_path) -> None:
    runs = [make_run(tmp_path, method, method=method, skill=s) for method, s in (("pgd", 0.5), ("dpaat", 2.0))]
    found = compare_runs(runs)
    assert [(c["label"], c["eps_text"]) for c in found["conditions"]] == [("clean", "0"), ("PGD-20", "8/255")]
    for condition, k in zip(found["conditions"], (0, 1), strict=True):
        for run in runs:
            metrics = json.loads((run / "evaluation.json").read_text())["results"][k]["metrics"]
            for metric in ("accuracy", "balanced_accuracy", "map"):
                assert condition["scores"][run.name][metric]["value"] == pytest.approx(metrics[metric], abs=1e-6)
        difference = condition["differences"]["dpaat"]["accuracy"]
        values = [condition["scores"][name]["accuracy"]["value"] for name in ("dpaat", "pgd")]
        assert difference["difference"] == pytest.approx(values[0] - values[1])
        assert difference["interval"][0] > 0
        assert difference["p_adjusted"] < 0.01
    family = [c["differences"]["dpaat"]["map"] for c in found["conditions"]]
    assert [d["p_adjusted"] for d in family] == holm([d["p_value"] for d in family])


def test_folds_and_seeds_of_a_recipe_are_pooled(tmp_path) -> None:
    runs = [
        make_run(tmp_path, f"{method}-{fold}-{seed}", method=method, skill=skill, fold=f"{fold}/2", seed=seed)
        for method, skill in (("pgd", 0.5), ("dpaat", 1.5))
        for fold in (1, 2)
        for seed in (0, 1)
    ]
    found = compare_runs(runs)
    assert {name: len(paths) for name, paths in found["recipes"].items()} == {"pgd": 4, "dpaat": 4}
    clean = [json.loads((run / "evaluation.json").read_text())["results"][0]["metrics"] for run in runs[:4]]
    expected = np.mean([m["balanced_accuracy"] for m in clean])
    assert found["conditions"][0]["scores"]["pgd"]["balanced_accuracy"]["value"] == pytest.approx(expected)


def test_what_cannot_be_compared_is_one_line(tmp_path) -> None:
    pgd = make_run(tmp_path, "pgd", method="pgd", skill=1.0)
    twin = make_run(tmp_path, "twin", method="pgd", skill=1.0)
    seed1 = make_run(tmp_path, "seed1", method="pgd", skill=1.0, seed=1)
    dpaat = make_run(tmp_path, "dpaat", method="dpaat", skill=1.0)
    fewer = make_run(tmp_path, "fewer", method="trades", skill=1.0, n=60)
    (tmp_path / "empty").mkdir()
    for runs, message in [
        ([pgd, tmp_path / "none"], "none: no such run folder"),
        ([pgd, tmp_path / "empty"], "not evaluated yet"),
        ([pgd, seed1], "at least two recipes"),
        ([pgd, twin], "same recipe, fold and seed"),
        ([pgd, seed1, dpaat], "same folds and seeds"),
        ([pgd, fewer], "trades and pgd were not evaluated on the same images of made, test"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            compare_runs(runs)
        assert "\n" not in str(caught.value)


def test_command_prints_and_writes(tmp_path, capfd) -> None:
    runs = [make_run(tmp_path, method, method=method, skill=s) for method, s in (("pgd", 0.5), ("dpaat", 2.0))]
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "comparison.json")]) == 0
    out = capfd.readouterr().out
    assert "dpaat against pgd: made, test, 90 images, PGD-20" in out
    assert json.loads((tmp_path / "comparison.json").read_text())["reference"] == "pgd"
    assert main(["compare", str(runs[0])]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_seeds_that_split_the_images_otherwise_are_refused(tmp_path, capfd) -> None:
    """Found in our audit: seeds of one recipe whose test images overlap in part gave a traceback."""
    runs = [
        make_run(tmp_path, f"{method}-{seed}", method=method, skill=1.0, seed=seed, n=90 - 9 * seed)
        for method in ("standard", "pgd")
        for seed in (0, 1)
    ]
    assert main(["compare", *map(str, runs), f"--out={tmp_path / 'c.json'}"]) == 2
    error = capfd.readouterr().err
    assert all(word in error for word in ("standard", "cannot be pooled", "--splits"))
    assert "Traceback" not in error
