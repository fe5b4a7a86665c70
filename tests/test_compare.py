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
from dpaat.evaluation.metrics import classification_metrics, verdict_metrics
from dpaat.evaluation.results import prediction_rows, read_evaluation, save_result
from dpaat.evaluation.specs import CLEAN, AttackSpec
from dpaat.evaluation.statistics import few_runs, holm
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
    assert found["notes"] == []
    assert compare_runs([*runs[:2], *runs[4:6]])["notes"] == [few_runs([("1/2", 0), ("1/2", 1)])]
    assert {name: len(paths) for name, paths in found["recipes"].items()} == {"pgd": 4, "dpaat": 4}
    assert {(each["n"], each["runs"]) for each in found["conditions"]} == {(180, 4)}, "a seed brings no image"
    clean = [json.loads((run / "evaluation.json").read_text())["results"][0]["metrics"] for run in runs[:4]]
    expected = np.mean([m["balanced_accuracy"] for m in clean])
    assert found["conditions"][0]["scores"]["pgd"]["balanced_accuracy"]["value"] == pytest.approx(expected)


WORST = (("pgd", 20), ("apgd-ce", 100), ("square", 5000))
WEAK = (("pgd", 1), ("apgd-ce", 1), ("square", 1))


def add_result(run: Path, spec: AttackSpec, *, right: int = 90, **settings) -> None:
    """Add a result to a folder of `make_run`: so many of the 90 images are right."""
    labels, population = np.arange(90) % 3, Population("made", "f" * 16, "test", 90)
    predicted = np.where(np.arange(90) < right, labels, (labels + 1) % 3)
    metrics = verdict_metrics(torch.from_numpy(predicted), torch.from_numpy(labels), CLASSES)
    result = Result(spec, 8 / 255, predicted, metrics)
    about = {"ids": [f"None-{k:03d}" for k in range(90)], "groups": [f"g{k // 2}" for k in range(90)]}
    rows = prediction_rows(result, population, labels=labels, classes=CLASSES, **about)
    head = {name: value for name, value in read_evaluation(run).items() if name not in ("results", "constant")}
    entry = result_entry(result, population, checkpoint=run.name, **settings)
    save_result(run, head, result=entry, predictions=rows)


def _shared(runs) -> tuple[list[str], list[str]]:
    found = compare_runs(runs)
    return [each["label"] for each in found["conditions"] if each["label"] not in ("clean", "PGD-20")], found["notes"]


@pytest.mark.parametrize("name", ["worst-case", "worst-case-quick"])
def test_a_worst_case_is_compared_with_one_of_the_same_budgets(tmp_path, name) -> None:
    one, two = (make_run(tmp_path, method, method=method, skill=1) for method in ("pgd", "dpaat"))
    add_result(one, AttackSpec(name, budgets=WORST), right=30)
    add_result(two, AttackSpec(name, budgets=WEAK), right=80)
    labels, (note,) = _shared([one, two])
    assert labels == []
    assert "worst case: left out" in note
    assert "budgets" in note
    add_result(two, AttackSpec(name, budgets=WORST), right=40)
    labels, notes = _shared([one, two])
    assert len(labels) == 1
    assert notes == []
    add_result(one, AttackSpec(name, budgets=WEAK), right=70)  # a quick look keeps the strong result
    labels, notes = _shared([one, two])
    assert len(labels) == len(set(labels)) == 2
    assert notes == []
    assert any("(PGD-1, APGD-CE-1, SQUARE-1)" in label for label in labels)


def test_a_worst_case_of_an_earlier_version_is_compared_with_its_like(tmp_path) -> None:
    one, two = (make_run(tmp_path, method, method=method, skill=1) for method in ("pgd", "dpaat"))
    for run in (one, two):
        add_result(run, AttackSpec("worst-case"), right=30)
    assert _shared([one, two]) == (["worst case"], [])
    add_result(two, AttackSpec("worst-case", budgets=WEAK), right=80)  # stands beside the one of unknown budgets
    assert _shared([one, two]) == (["worst case"], [])
    add_result(two, AttackSpec("worst-case", budgets=WORST), right=40)  # of the default budgets, takes its place
    labels, (note,) = _shared([one, two])
    assert labels == []
    assert "left out" in note
    assert [e["label"] for e in read_evaluation(two)["results"]][2:] == [
        "worst case",
        "worst case (PGD-1, APGD-CE-1, SQUARE-1)",
    ]


@pytest.mark.parametrize("name", ["transfer", "worst-of:pgd-20+transfer-100"])
def test_an_attack_from_another_source_is_another_attack(tmp_path, name) -> None:
    one, two = (make_run(tmp_path, method, method=method, skill=1) for method in ("pgd", "dpaat"))
    for run, source in ((one, "a" * 16), (two, "b" * 16)):
        add_result(run, AttackSpec(name, 100), source=source)
        add_result(run, AttackSpec("fgsm"), source=source)  # has no use for it
    labels, (note,) = _shared([one, two])
    assert labels == ["FGSM"]
    assert "source" in note
    add_result(two, AttackSpec(name, 100), source="a" * 16)
    labels, notes = _shared([one, two])
    assert len(labels) == 2
    assert labels[1].endswith("from aaaaaaaa")
    assert notes == []


@pytest.mark.parametrize(
    ("name", "values"), [("batch_size", (64, 128)), ("seed", (0, 1)), ("precision", ("32", "bf16"))]
)
def test_random_starts_that_are_not_paired_are_noted(tmp_path, name, values, capsys) -> None:
    runs = [make_run(tmp_path, method, method=method, skill=1) for method in ("pgd", "dpaat")]
    for run, value in zip(runs, values, strict=True):
        add_result(run, AttackSpec("pgd", 50), **{name: value})
    _, (note,) = _shared(runs)
    assert name in note
    assert "not paired" in note
    assert main(["compare", *map(str, runs)]) == 0
    assert "not paired" in " ".join(capsys.readouterr().out.split())


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


def test_images_of_the_same_names_and_other_content_are_not_paired(tmp_path) -> None:
    runs = [make_run(tmp_path, name, method=name, skill=1.0) for name in ("pgd", "trades")]
    path = runs[1] / "evaluation.json"
    path.write_text(path.read_text().replace("f" * 16, "e" * 16))
    with pytest.raises(UserError, match=r"made, test: other images, labels or groups, fingerprints e{16}, f{16}"):
        compare_runs(runs)


def test_command_prints_and_writes(tmp_path, capfd) -> None:
    runs = [make_run(tmp_path, method, method=method, skill=s) for method, s in (("pgd", 0.5), ("dpaat", 2.0))]
    command, mine = ["compare", *map(str, runs), "--out"], tmp_path / "README.md"
    mine.write_text("# My project")
    assert main([*command, str(mine)]) == 2
    assert "holds something else" in capfd.readouterr().err
    for _ in range(2):
        assert main([*command, str(tmp_path / "comparison.json")]) == 0
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
