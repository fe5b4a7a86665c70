import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from dpaat.errors import UserError
from dpaat.evaluation.entries import Population, constant_entry, groups, result_entry
from dpaat.evaluation.metrics import classification_metrics, constant_predictor, verdict_metrics
from dpaat.evaluation.results import check_results, prediction_rows, read_evaluation, save_result
from dpaat.evaluation.specs import CLEAN, AttackSpec
from dpaat.evaluation.suite import Result
from dpaat.evaluation.tables import comparison_table, evaluation_table
from dpaat.radii import format_radius

CLASSES = ["akiec", "nv", "<b>[red]"]
POPULATION = Population("ham10000", "0123456789abcdef", "test", 12)
LABELS = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2])
HEAD = {"method": "dpaat", "checkpoint": "c1", "seed": 0}


def _result(spec: AttackSpec, eps: float, seed: int = 0) -> Result:
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probabilities = logits.softmax(1)
    metrics = classification_metrics(probabilities, torch.from_numpy(LABELS), CLASSES)
    return Result(spec, eps, probabilities.argmax(1).numpy(), metrics, probabilities)


def _save(run, spec=CLEAN, eps=0.0, *, seed=0, population=POPULATION, head=HEAD):
    result = _result(spec, eps, seed)
    constant = constant_entry(constant_predictor(torch.from_numpy(LABELS), CLASSES, "nv"), population, "nv")
    names = [f"i{k}" for k in range(12)]
    rows = prediction_rows(result, population, ids=names, groups=names, labels=LABELS, classes=CLASSES)
    interval = {"balanced_accuracy": [0.111, 0.999]}
    entry = result_entry(result, population, interval, checkpoint=head["checkpoint"])
    return save_result(run, head, result=entry, constant=constant, predictions=rows)


def _print(renderable, width=100) -> str:
    console = Console(width=width, record=True, force_terminal=False)
    console.print(renderable)
    return console.export_text()


def test_what_is_returned_is_what_is_on_disk(tmp_path) -> None:
    document = _save(tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == document == read_evaluation(tmp_path)
    assert document["schema_version"] == 2
    assert document["seed"] == 0
    (entry,) = document["results"]
    assert (entry["eps_text"], entry["label"], entry["n"]) == ("0", "clean", 12)


def test_same_kind_is_replaced_and_others_are_kept(tmp_path) -> None:
    pgd = AttackSpec("pgd", 20)
    _save(tmp_path, pgd, 8 / 255)
    _save(tmp_path)
    _save(tmp_path, pgd, 2 / 255)
    _save(tmp_path, AttackSpec("pgd", 10), 2 / 255)
    _save(tmp_path, AttackSpec("pgd", 20, "l2"), 2 / 255)
    _save(tmp_path, population=Population("ham10000", "0123456789abcdef", "val", 12))
    document = _save(tmp_path, pgd, 2 / 255, seed=1)
    found = [f"{e['split']}: {e['label']} {e['eps_text']}" for e in document["results"]]
    assert found == [
        *("test: clean 0", "test: PGD-20 L2 2/255", "test: PGD-10 2/255", "test: PGD-20 2/255", "test: PGD-20 8/255"),
        "val: clean 0",
    ]
    (replaced,) = [e for e in document["results"] if e["label"] == "PGD-20" and e["eps_text"] == "2/255"]
    assert replaced["metrics"] == _result(pgd, 2 / 255, seed=1).metrics
    assert len(list((tmp_path / "predictions.parquet").iterdir())) == 6
    assert [g.population.split for g in groups(document)] == ["test", "val"]


def test_whole_radii_are_written_plainly_and_as_255ths_still_read(tmp_path: Path) -> None:
    radii = (0, 0.2, 0.25, 8 / 255, 0.5, 0.6, 1, 2, 16)
    assert [format_radius(eps) for eps in radii] == ["0", "0.2", "0.25", "8/255", "0.5", "0.6", "1", "2", "16"]
    document = _save(tmp_path, AttackSpec("pgd", 20, "l2"), 1.0)
    assert document["results"][0]["eps_text"] == "1"
    check_results(tmp_path)
    text = (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.json").write_text(text.replace('"eps_text": "1"', '"eps_text": "255/255"'))
    check_results(tmp_path)
    (tmp_path / "evaluation.json").write_text(text.replace('"eps_text": "1"', '"eps_text": "2"'))
    with pytest.raises(UserError, match="disagrees"):
        check_results(tmp_path)


def test_the_worst_case_has_verdicts_only(tmp_path) -> None:
    predicted = LABELS.copy()
    predicted[:3] = 1
    fell_to = np.where(predicted == LABELS, "", "Square")
    metrics = verdict_metrics(torch.from_numpy(predicted), torch.from_numpy(LABELS), CLASSES)
    result = Result(AttackSpec("worst-case"), 8 / 255, predicted, metrics, fell_to=fell_to)
    names = [f"i{k}" for k in range(12)]
    rows = prediction_rows(result, POPULATION, ids=names, groups=["g"] * 12, labels=LABELS, classes=CLASSES)
    entry = result_entry(result, POPULATION, checkpoint="c1")
    document = save_result(tmp_path, HEAD, result=entry, predictions=rows)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert frame["probabilities"].isna().all()
    assert frame["fell_to"].fillna("").tolist() == fell_to.tolist()
    assert "worst case 8/255" in _print(evaluation_table(document))


def test_analyses_are_replaced_by_population_and_dropped_with_their_model(tmp_path) -> None:
    def save(value: int, head=HEAD, population=POPULATION):
        entry = {**vars(population), "checkpoint": head["checkpoint"], "norm": "linf", "value": value}
        return save_result(tmp_path, head, analyses={"curve": entry})["analyses"]

    save(1)
    other = Population("ham10000", "0123456789abcdef", "val", 5)
    save(2, population=other)
    assert [entry["value"] for entry in save(3)["curve"]] == [3, 2]
    assert [entry["value"] for entry in save(4, {**HEAD, "checkpoint": "c2"})["curve"]] == [4]


def test_results_of_a_model_that_is_gone_are_dropped(tmp_path) -> None:
    _save(tmp_path, AttackSpec("pgd", 20), 8 / 255)
    document = _save(tmp_path, head={**HEAD, "checkpoint": "c2"})
    assert [e["label"] for e in document["results"]] == ["clean"]
    assert len(list((tmp_path / "predictions.parquet").iterdir())) == 1


def test_metrics_can_be_recomputed_from_the_predictions(tmp_path) -> None:
    _save(tmp_path)
    document = _save(tmp_path, AttackSpec("pgd", 20), 8 / 255, seed=3)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert len(frame) == 24
    assert set(frame["attack"]) == {"clean", "pgd"}
    rows = frame[frame["attack"] == "pgd"]
    assert rows["steps"].unique().tolist() == [20]
    labels = torch.tensor([CLASSES.index(name) for name in rows["label"]])
    probabilities = torch.tensor(np.stack(rows["probabilities"].to_list()))
    assert classification_metrics(probabilities, labels, CLASSES) == document["results"][1]["metrics"]
    assert (rows["predicted"] == rows["label"]).mean() == pytest.approx(document["results"][1]["metrics"]["accuracy"])


@pytest.mark.parametrize("text", ["{broken", "[]", '{"schema_version": 99}'])
def test_foreign_json_is_one_line_and_left_alone(tmp_path, text) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"evaluation\.json: .*move it away") as caught:
        _save(tmp_path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == text


def test_table_prints_the_numbers_of_the_json(tmp_path) -> None:
    _save(tmp_path)
    document = _save(tmp_path, AttackSpec("pgd", 20), 8 / 255, seed=3)
    text = _print(evaluation_table(document))
    for entry in document["results"]:
        for key in ("accuracy", "balanced_accuracy", "map", "auroc"):
            assert f"{100 * entry['metrics'][key]:.1f}" in text
    assert "[11.1, 99.9]" in text
    assert "constant: nv" in text
    assert "75.0" in text
    assert "PGD-20 8/255" in text
    assert "<b>[red]" in text
    assert all(len(line) <= 80 for line in _print(evaluation_table(document), width=80).splitlines())


def test_comparison_puts_runs_side_by_side(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = _save(tmp_path / "one")
    _save(tmp_path / "two")
    two = _save(tmp_path / "two", AttackSpec("pgd", 20), 8 / 255)
    text = _print(comparison_table({"standard": one, "dpaat": two}))
    assert text.count("12 images") == 1
    row = next(line for line in text.splitlines() if line.startswith("standard"))
    assert row.rstrip().endswith("-")
    assert f"{100 * two['results'][1]['metrics']['map']:.1f}" in text


def test_hundred_classes_fit_the_table() -> None:
    classes = [f"class {k}" for k in range(100)]
    labels = torch.arange(100).repeat(2)
    probabilities = torch.rand(200, 100, dtype=torch.float64).softmax(1)
    metrics = classification_metrics(probabilities, labels, classes)
    population = Population("many", "f" * 16, "test", 200)
    entry = result_entry(
        Result(CLEAN, 0.0, probabilities.argmax(1).numpy(), metrics, probabilities), population, checkpoint="c"
    )
    document = {"results": [entry], "constant": [constant_entry(metrics, population, "class 3")]}
    text = _print(evaluation_table(document))
    assert "the 20 lowest of 100" in text
