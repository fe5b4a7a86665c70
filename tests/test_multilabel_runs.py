"""Several labels an image, from training to report: every stage works, or says in one line why not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from dpaat import load
from dpaat.cli import main
from dpaat.config import TrainConfig
from dpaat.data.label_sets import from_text
from dpaat.errors import UserError
from dpaat.evaluation import evaluate_run
from dpaat.evaluation.compare import compare_runs
from dpaat.evaluation.results import check_results
from dpaat.export import export
from dpaat.report import write_report
from dpaat.report.view import by_label
from dpaat.runs import open_run
from dpaat.training import train
from dpaat.training.folder import RunFolder
from dpaat.weights import open_weights
from test_multilabel import chest_file
from training_makers import TINY

BUDGET = "2,square=5"


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    return chest_file(tmp_path_factory.mktemp("chest") / "chest.npz", count=48)


@pytest.fixture(scope="module")
def runs(chest, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    common = TINY | {"data": f"medmnist:chestmnist:{chest}", "val_eps": "4/255", "epochs": 2}
    found = {
        method: train(TrainConfig(**common | {"method": method} | more), out / method)
        for method, more in (("standard", {}), ("dpaat", {"clean_weight": 0.0, "adv_start": 0.0, "self_teacher": 0.0}))
    }
    for run in found.values():
        evaluate_run(run, suites=["standard"], eps="2/255", steps=BUDGET, progress=False)
    return found


def document(run):
    return json.loads((run / "evaluation.json").read_text())


def test_a_run_keeps_its_thresholds_and_moves_its_radii(runs):
    info = open_run(runs["dpaat"]).info
    assert info["multilabel"] is True
    assert len(info["thresholds"]) == 14
    part = pd.read_parquet(runs["dpaat"] / "perturbation.parquet" / "epoch-0001.parquet")
    assert (part["eps"] > part["eps"].min()).mean() >= 0.9
    row = pd.read_csv(runs["dpaat"] / "metrics.csv").iloc[-1]
    assert row["criterion/hernia"] > 0
    assert row["criterion/no hernia"] > 0


@pytest.mark.parametrize("method", ["pgd", "trades", "dpaat"])
def test_methods_train_on_the_generated_labels(method, tmp_path):
    more = {"adv_start": 0.0, "self_teacher": 0.0} if method == "dpaat" else {}
    config = TrainConfig(**TINY | {"data": "synthetic:160,labels=multi", "method": method, "epochs": 1} | more)
    run = train(config, tmp_path / "run")
    evaluate_run(run, attacks=["pgd"], steps="2", eps="8/255", progress=False)
    scores = {entry["attack"]: entry["metrics"]["auroc"] for entry in document(run)["results"]}
    assert scores["pgd"] < scores["clean"]


def test_scores_are_those_of_the_predictions_written(runs):
    run = runs["standard"]
    check_results(run)
    clean = next(e for e in document(run)["results"] if e["attack"] == "clean")
    frame = pd.read_parquet(run / "predictions.parquet" / clean["predictions"])
    classes = document(run)["classes"]
    labels, scores = from_text(frame["label"], classes), np.stack(frame["probabilities"].to_list())
    mixed = [k for k in range(14) if 0 < labels[:, k].sum() < len(labels)]
    auroc = np.mean([roc_auc_score(labels[:, k], scores[:, k]) for k in mixed])
    precision = np.mean([average_precision_score(labels[:, k], scores[:, k]) for k in mixed])
    assert clean["metrics"]["auroc"] == pytest.approx(auroc, abs=1e-9)
    assert clean["metrics"]["map"] == pytest.approx(precision, abs=1e-9)
    at = np.array(list(open_run(run).info["thresholds"].values()))
    answers = from_text(frame["predicted"], classes)
    assert (answers == (np.log(scores / (1 - scores)) > at)).mean() > 0.99
    low, high = clean["intervals"]["map"]
    assert low < precision < high


def test_the_worst_case_counts_labels_and_images(runs):
    results = document(runs["standard"])["results"]
    worst = next(e for e in results if e["attack"] == "worst-case")
    clean = next(e for e in results if e["attack"] == "clean")
    assert worst["metrics"]["accuracy"] <= clean["metrics"]["accuracy"]
    assert 0 <= worst["metrics"]["standing"] <= 1
    assert worst["metrics"]["per_label"]["hernia"].keys() >= {"sensitivity", "specificity"}
    points = document(runs["standard"])["analyses"]["operating_points"][0]["conditions"]["clean"]
    assert {point["task"] for point in points} <= set(document(runs["standard"])["classes"])


def test_compare_report_explain_predict_and_export(runs, chest, tmp_path, capsys):
    found = compare_runs(list(runs.values()))
    assert found["conditions"][0]["differences"]["dpaat"]["map"]["interval"]
    explained = ["explain", str(runs["standard"]), "--maps", "input-gradient", "--max-samples", "8", "--steps", "2"]
    assert main([*explained, "--eps", "2/255"]) == 0
    page = tmp_path / "report.html"
    assert main(["report", *map(str, runs.values()), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Confusions are of one class per image" in text
    assert "hernia" in text
    radii = by_label(pd.DataFrame({"class": ["hernia|mass=?", "no label", "edema|mass"]}), open_run(runs["dpaat"]).info)
    assert radii["class"].tolist() == ["hernia", "no label", "edema", "mass"]
    assert main(["predict", str(runs["dpaat"]), f"medmnist:chestmnist:{chest}", "--out", str(tmp_path / "p.csv")]) == 0
    frame = pd.read_csv(tmp_path / "p.csv")
    probabilities = frame.filter(like="probability_")
    assert probabilities.shape[1] == 14
    assert probabilities.sum(axis=1).std() > 0
    card = export(runs["dpaat"], tmp_path / "export", onnx=False)
    assert card["thresholds"] == open_run(runs["dpaat"]).info["thresholds"]
    again = load(tmp_path / "export").predict(f"medmnist:chestmnist:{chest}")
    assert again["predicted"].tolist() == frame["predicted"].tolist()
    capsys.readouterr()


def test_a_flat_curve_of_labels_does_not_say_that_the_attack_failed(runs, tmp_path):
    (curve,) = document(runs["standard"])["analyses"]["curve"]
    stand = curve["fallen_to"][-1].get("", 0)
    assert curve["balanced_accuracy"][-1] > 1 / 14
    text = write_report([runs["standard"]], tmp_path / "report.html", images=False).read_text()
    assert "The attack failed" not in text
    assert f"attacked no further. Of {curve['n']} images {stand} stand at 0.5." in text


def test_a_report_counts_images_where_labels_are_more(runs, tmp_path):
    run = runs["standard"]
    sizes, (n, *_) = open_run(run).info["split_sizes"], {e["n"] for e in document(run)["results"]}
    text = write_report([run], tmp_path / "report.html", images=False).read_text()
    assert n < sum(document(run)["results"][0]["metrics"]["support"].values())
    assert f"{n} test images: too few for subgroups" in text
    assert f"{sum(sizes.values())} images ({', '.join(f'{size} {name}' for name, size in sizes.items())})" in text
    assert "Every image has several labels" in text
    assert "mean recall over the classes" not in text.replace("\n", " ")


def test_the_table_on_the_terminal_is_by_label(runs, capsys):
    assert main(["evaluate", str(runs["standard"]), "--attack", "pgd", "--steps", "2", "--eps", "1/255"]) == 0
    said = capsys.readouterr().out
    assert "sensitivity" in said
    assert "every answer is right for" in said


def test_masking_checks_are_made(runs, capsys):
    options = ["--suite", "masking", "--eps", "8/255", "--max-samples", "4"]
    assert main(["evaluate", str(runs["standard"]), *options]) == 0
    (found,) = document(runs["standard"])["analyses"]["masking"]
    assert "too few images" in capsys.readouterr().out
    assert {check["name"] for check in found["checks"]} >= {"predictions", "large radius", "black box", "targets"}
    assert "have an answer that is right" in found["checks"][0]["evidence"]


def test_classes_and_labels_do_not_mix(runs, tiny_images, tiny_run, chest, capsys):
    assert main(["evaluate", str(runs["standard"]), "--data", f"folder:{tiny_images}"]) == 2
    assert main(["evaluate", str(tiny_run), "--data", f"medmnist:chestmnist:{chest}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "Traceback" not in said


def test_a_stopped_run_goes_on_alike(chest, tmp_path):
    from training_makers import assert_same_run

    config = TrainConfig(**TINY | {"data": f"medmnist:chestmnist:{chest}", "method": "dpaat-half", "val_eps": "0"})
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", stop_after=1)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(whole, tmp_path / "parts")


def test_an_interrupted_run_answers_at_the_thresholds_of_its_weights(runs, tmp_path):
    kept = open_run(runs["dpaat"]).info["thresholds"]
    assert any(kept.values())
    for noted in (None, dict.fromkeys(kept, 9.0)):
        run = shutil.copytree(runs["dpaat"], tmp_path / f"run-{noted is None}")
        info = json.loads((run / "run.json").read_text())
        info.pop("thresholds")
        (run / "run.json").write_text(json.dumps(info if noted is None else {**info, "thresholds": noted}))
        assert open_run(run).info["thresholds"] == kept
        assert load(run).thresholds.tolist() == list(kept.values())
        folder = RunFolder(run, None)
        folder.info = info
        folder.pause(status="stopped")
        assert json.loads((run / "run.json").read_text())["thresholds"] == kept
    copied = shutil.copy(runs["dpaat"] / "checkpoints" / "best.ckpt", tmp_path / "copied.ckpt")
    assert open_weights(Path(copied)).record["thresholds"] == kept


def test_several_labels_cannot_be_certified(runs):
    with pytest.raises(UserError, match="suite certified: is for one class an image"):
        evaluate_run(runs["dpaat"], suites=["certified"], eps="0.1", norm="l2", progress=False)
