import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import dpaat
from dpaat.cli import main
from dpaat.config import TrainConfig
from dpaat.data import prepare
from dpaat.data.splits import export_splits
from dpaat.errors import UserError
from dpaat.evaluation import Attacker, attack_spec, evaluate_model, evaluate_run, predict
from dpaat.evaluation.elsewhere import target_from_elsewhere, target_of_folder
from dpaat.evaluation.entries import groups, note_of
from dpaat.evaluation.images import stratified_draw
from dpaat.evaluation.metrics import constant_predictor
from dpaat.evaluation.results import read_evaluation
from dpaat.evaluation.tables import calibration_table
from dpaat.measurement import EvaluateConfig, Foreign
from dpaat.models import build_model
from dpaat.runs import read_config, write_config
from dpaat.storage import write_json

SHADES = {"dark": 60, "grey": 120, "light": 190}
QUIET = {"progress": False, "device": "cpu"}


def _write_images(root: Path, counts: dict[str, int], *, mode: str = "L", seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.normal(SHADES.get(name, 100), 15, (20, 20)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{k}.png")
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as training leaves it, with untrained weights."""
    source = _write_images(tmp_path / "images", {"dark": 30, "grey": 20, "light": 10})
    config = TrainConfig(data=f"folder:{source}", image_size=16, model="resnet18", method="standard")
    data = prepare(config.data, image_size=16, progress=False)
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=3, channels=1, image_size=16)
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / "best.ckpt")
    write_config(folder / "config.yaml", config)
    train = data.labels[data.rows("train")]
    info = {
        "schema_version": 1,
        "data": data.table.name,
        "fingerprint": data.fingerprint,
        "classes": list(data.classes),
        "channels": 1,
        "train_counts": {name: int((train == k).sum()) for k, name in enumerate(data.classes)},
    }
    write_json(folder / "run.json", info)
    export_splits(folder / "splits.csv", data.ids, data.split)
    return folder


def test_evaluates_and_keeps_the_results(run: Path) -> None:
    document = evaluate_run(run, attacks=["pgd", "fgsm"], steps={"pgd": 2}, eps=[2 / 255, 8 / 255], **QUIET)
    assert document == json.loads((run / "evaluation.json").read_text())
    assert [(e["label"], e["eps_text"]) for e in document["results"]] == [
        ("clean", "0"),
        ("FGSM", "2/255"),
        ("FGSM", "8/255"),
        ("PGD-2", "2/255"),
        ("PGD-2", "8/255"),
    ]
    info = json.loads((run / "run.json").read_text())
    assert document["data_fingerprint"] == info["fingerprint"]
    assert {"schema_version", "dpaat_version", "seed", "device", "checkpoint"} <= document.keys()
    splits = pd.read_csv(run / "splits.csv").set_index("id")["split"]
    test_ids = set(splits.index[splits == "test"])
    frame = pd.read_parquet(run / "predictions.parquet")
    assert len(frame) == 5 * len(test_ids)
    assert set(frame["id"]) == test_ids
    labels = torch.tensor([list(SHADES).index(i.split("/")[0]) for i in sorted(test_ids)])
    (constant,) = document["constant"]
    assert constant["predicts"] == "dark"
    assert constant["metrics"] == constant_predictor(labels, list(SHADES), "dark")


def test_later_radii_join_earlier_ones(run: Path) -> None:
    evaluate_run(run, steps={"pgd": 1}, eps=[2 / 255], **QUIET)
    document = evaluate_run(run, steps={"pgd": 1}, eps=[4 / 255], **QUIET)
    assert [e["eps_text"] for e in document["results"]] == ["0", "2/255", "4/255"]


def test_worst_cases_over_different_attacks_stand_side_by_side(run: Path) -> None:
    plan = {"attacks": ["fgsm"], "eps": [2 / 255, 8 / 255]}
    evaluate_run(run, ensemble=["pgd", "square"], steps={"pgd": 2, "square": 3}, **plan, **QUIET)
    document = evaluate_run(run, ensemble=["pgd"], steps={"pgd": 2}, **plan, **QUIET)
    labels = [entry["label"] for entry in document["results"]]
    assert labels == ["clean", "FGSM", "FGSM", *["worst of FGSM, PGD-2"] * 2, *["worst of FGSM, PGD-2, SQUARE-3"] * 2]
    accuracy = {(e["label"], round(e["eps"] * 255)): e["metrics"]["accuracy"] for e in document["results"]}
    for eps in (2, 8):
        worst = [accuracy[label, eps] for label in dict.fromkeys(labels[1:])]
        assert worst == sorted(worst, reverse=True)
    names = {entry["predictions"] for entry in document["results"]}
    assert len(names) == len(labels)
    assert all((run / "predictions.parquet" / name).is_file() for name in names)


def test_an_interruption_keeps_what_is_done(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Attacker.outputs

    def interrupted(self, spec, eps=0.0, positions=None):
        if eps > 0.02:
            raise KeyboardInterrupt
        return genuine(self, spec, eps, positions)

    monkeypatch.setattr(Attacker, "outputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, steps={"pgd": 1}, eps=[2 / 255, 8 / 255], **QUIET)
    document = read_evaluation(run)
    assert document is not None
    assert [e["eps_text"] for e in document["results"]] == ["0", "2/255"]


def test_another_dataset_is_matched_by_class_name(run: Path, tmp_path: Path) -> None:
    other = _write_images(tmp_path / "other", {"light": 12, "dark": 12}, seed=1)
    document = evaluate_run(run, data=f"folder:{other}", split="all", steps={"pgd": 1}, eps=[2 / 255], **QUIET)
    metrics = document["results"][0]["metrics"]
    assert metrics["support"] == {"dark": 12, "grey": 0, "light": 12}
    assert metrics["absent"] == ["grey"]
    frame = pd.read_parquet(run / "predictions.parquet")
    assert (frame["id"].str.split("/").str[0] == frame["label"]).all()


def test_the_same_images_elsewhere_keep_the_split_of_the_run(run: Path, tmp_path: Path) -> None:
    moved = (tmp_path / "images").rename(tmp_path / "moved")
    splits = pd.read_csv(run / "splits.csv")
    swap = {"train": "test", "test": "train"}
    splits["split"] = splits["split"].replace(swap)
    splits.to_csv(run / "splits.csv", index=False)
    config = (run / "config.yaml").read_text().replace(str(tmp_path / "images"), str(moved))
    (run / "config.yaml").write_text(config)
    document = evaluate_run(run, data=f"folder:{moved}", steps={"pgd": 1}, eps=[2 / 255], **QUIET)
    assert document["results"][0]["n"] == (splits["split"] == "test").sum()


def test_two_draws_of_a_split_are_two_sets_of_images(run: Path) -> None:
    evaluate_run(run, attacks=["fgsm"], eps=[2 / 255], max_samples=6, seed=0, **QUIET)
    document = evaluate_run(run, attacks=["pgd"], steps=1, eps=[2 / 255], max_samples=6, seed=5, **QUIET)
    found = [(entry["draw"], entry["label"]) for entry in document["results"]]
    assert found == [(0, "clean"), (0, "FGSM"), (5, "clean"), (5, "PGD-1")]
    assert [group.title[-14:] for group in groups(document)] == ["test, 6 images", "images, draw 5"]


@pytest.mark.parametrize("named", [False, True])
def test_images_that_a_model_has_learned_are_said(run: Path, tmp_path: Path, named: bool, capsys) -> None:
    data = ["--data", f"folder:{tmp_path / 'images'}"] if named else []
    assert main(["evaluate", str(run), "--split", "all", "--steps", "1", "--eps", "2/255", *data]) == 0
    split = pd.read_csv(run / "splits.csv")["split"]
    line = f"trained or validated on {(split != 'test').sum()} of these images"
    assert line in " ".join(capsys.readouterr().out.split())
    assert all(note_of(entry).startswith(line) for entry in read_evaluation(run)["results"])
    assert main(["evaluate", str(run), "--steps", "1", "--eps", "2/255"]) == 0
    assert line not in " ".join(capsys.readouterr().out.split())


def test_bad_input_is_one_line(run: Path, tmp_path: Path) -> None:
    _write_images(tmp_path / "strange", {"dark": 8, "purple": 8, "pink": 8})
    _write_images(tmp_path / "colour", {"dark": 8, "light": 8}, mode="RGB")
    cases = [
        ({"attacks": ["pdg"]}, "unknown attack 'pdg'; nearest: pgd"),
        ({"eps": [-0.1]}, "0 or larger"),
        ({"eps": [float("nan")]}, "finite"),
        ({"steps": {"pgd": 0}}, "steps: 0"),
        ({"steps": {"fgsm": 3}}, "'fgsm' takes no number of steps"),
        ({"suites": ["standrad"]}, "unknown suite 'standrad'; nearest: standard"),
        ({"precision": "16"}, "unknown precision '16'"),
        ({"attacks": ["transfer"]}, "give --source"),
        ({"ensemble": ["transfer"]}, "give --source"),
        ({"ensemble": ["pdg"]}, "unknown attack 'pdg'; nearest: pgd"),
        ({"ensemble": ["square"], "suites": ["standard"]}, "not with a suite"),
        ({"ensemble": ["square"], "eps": [0]}, "needs a radius above 0"),
        ({"attacks": ["fgsm"], "suites": ["masking"]}, "attacks: go without a suite"),
        ({"steps": 7, "suites": ["masking"]}, "steps: 7 is for no attack"),
        ({"steps": {"square": 7}}, "steps: square is not used here; a budget is taken by pgd"),
        ({"steps": {"pgd": 7}, "suites": ["quick"]}, "steps: pgd is not used here"),
        ({"draws": 200}, "are those of the suite certified"),
        ({"suites": ["corruptions"], "eps": [2 / 255]}, "levels, not radii"),
        ({"source": run}, "source: nothing here takes one"),
        ({"attacks": []}, "name at least one"),
        ({"eps": [4 / 255, 2 / 255]}, "out of order"),
        ({"eps": [2 / 255, 2 / 255]}, "is given twice"),
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"split": "tset"}, "unknown split 'tset'; nearest: test"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"max_samples": 0}, "max_samples: 0"),
        ({"device": "gpu"}, "device 'gpu' is not available"),
        ({"data": f"folder:{tmp_path / 'strange'}"}, "pink, purple; it knows dark, grey, light"),
        ({"data": f"folder:{tmp_path / 'colour'}"}, "was trained on grey ones"),
        ({"data": "nothing:here"}, "unknown dataset"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            evaluate_run(run, **(QUIET | options))
        assert "\n" not in str(caught.value), options
    assert read_evaluation(run) is None


def test_weights_that_are_nan_are_one_line(run: Path) -> None:
    path = run / "checkpoints" / "best.ckpt"
    state = torch.load(path)["state_dict"]
    state = {k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match="NaN or infinite outputs for 12 of 12 images"):
        evaluate_run(run, **QUIET)


def test_draw_is_seeded_stratified_and_exact() -> None:
    labels = np.repeat([0, 1, 2, 3], [700, 250, 45, 5])
    drawn = stratified_draw(labels, 100, seed=0)
    assert len(np.unique(drawn)) == 100
    counts = np.bincount(labels[drawn])
    assert counts.tolist() in ([70, 25, 4, 1], [69, 25, 5, 1], [70, 24, 5, 1])
    assert np.array_equal(drawn, stratified_draw(labels, 100, seed=0))
    assert not np.array_equal(drawn, stratified_draw(labels, 100, seed=1))
    for n in (1, 3, 4, 7, 999, 1000, 5000):
        assert len(stratified_draw(labels, n, seed=0)) == min(n, 1000)
    assert set(labels[stratified_draw(labels, 4, seed=0)]) == {0, 1, 2, 3}


def test_max_samples_does_not_replace_the_full_result(run: Path) -> None:
    evaluate_run(run, steps={"pgd": 1}, eps=[2 / 255], **QUIET)
    document = evaluate_run(run, steps={"pgd": 1}, eps=[2 / 255], max_samples=6, **QUIET)
    assert sorted({e["n"] for e in document["results"]}) == [6, 12]


def test_predict_writes_probabilities(run: Path, tmp_path: Path) -> None:
    out = predict(
        run, [tmp_path / "images" / "dark" / "3.png", tmp_path / "images" / "light"], tmp_path / "p.csv", **QUIET
    )
    frame = pd.read_csv(out)
    assert list(frame.columns) == ["file", "predicted", "probability_dark", "probability_grey", "probability_light"]
    assert len(frame) == 11
    assert frame["file"][0].endswith("dark/3.png")
    assert np.allclose(frame.iloc[:, 2:].sum(axis=1), 1, atol=1e-5)


def test_predict_takes_one_path_as_text(run: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(predict(run, str(tmp_path / "images" / "dark"), tmp_path / "p.csv", **QUIET))
    assert len(frame) == 30
    with pytest.raises(UserError, match="no such image"):
        predict(run, str(tmp_path / "nothing"), tmp_path / "p.csv", **QUIET)


def test_predict_agrees_with_evaluate(run: Path, tmp_path: Path) -> None:
    evaluate_run(run, steps={"pgd": 1}, eps=[2 / 255], split="all", **QUIET)
    rows = pd.read_parquet(run / "predictions.parquet", filters=[("attack", "==", "clean")]).set_index("id")
    frame = pd.read_csv(predict(run, f"folder:{tmp_path / 'images'}", tmp_path / "p.csv", batch_size=7, **QUIET))
    assert len(frame) == 60
    ids = [Path(file).relative_to(tmp_path / "images").as_posix() for file in frame["file"]]
    expected = np.stack(rows.loc[ids, "probabilities"].to_list())
    assert np.allclose(frame.iloc[:, 2:], expected, atol=1e-4)


def test_predict_refuses_in_one_line(run: Path, tmp_path: Path) -> None:
    whole = (tmp_path / "images" / "dark" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    for images, out, message in [
        ([tmp_path / "cut.png"], tmp_path / "p.csv", "cut.png"),
        ([tmp_path / "none.png"], tmp_path / "p.csv", "no such image"),
        ([tmp_path / "empty"], tmp_path / "p.csv", "no images in this folder"),
        ([], tmp_path / "p.csv", "at least one image"),
        ([tmp_path / "images"], tmp_path / "images", "is a folder"),
        ([tmp_path / "images"], tmp_path / "no" / "p.csv", "no such folder"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            predict(run, images, out, **QUIET)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "p.csv").exists()


def test_the_size_of_the_images_is_part_of_a_model_from_elsewhere(run: Path, tmp_path: Path) -> None:
    weights = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "w.ckpt")
    config = read_config(run / "config.yaml")
    about = {"seed": 0, "device": "cpu", "progress": False}
    out, found = tmp_path / "out", []
    for size in (None, 64, 16, 16, 64):
        given = Foreign(out=str(out), model=config.model, weights=str(weights), stem="small", image_size=size)
        target = target_from_elsewhere(given, config.data, **about)
        found.append(target.head["checkpoint"])
        again = target_of_folder(out, data=target.data, device="cpu", progress=False)
        assert again.head["checkpoint"] == found[-1], "in whatever form the data come"
    assert found[0] == found[1] == found[4]
    assert found[2] == found[3] != found[0]


def test_images_that_weights_have_learned_are_said(run: Path, tmp_path: Path) -> None:
    config = read_config(run / "config.yaml")
    options = {"attacks": ["fgsm"], "eps": "2/255", "split": "all", "device": "cpu"}
    own = evaluate_run(run, **options, progress=False)["results"][0]["learned"]
    given = {"weights": str(run / "checkpoints" / "best.ckpt"), "out": tmp_path / "out"}
    assert dpaat.evaluate(config.model, config.data, **given, **options)["results"][0]["learned"] == own > 0
    entry = dpaat.explain(run, split="all", max_samples=6, device="cpu")["explanations"][0]
    assert 0 < entry["learned"] <= 6


def test_a_source_of_another_size_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(read_config(run / "config.yaml"), image_size=48)
    monkeypatch.setattr("dpaat.evaluation.run.read_config", lambda path: other)
    with pytest.raises(UserError, match="takes images of 48 px, not"):
        evaluate_run(run, attacks=["transfer"], eps="2/255", source=run, device="cpu", progress=False)


def test_analyses_of_other_budgets_stand_side_by_side(run: Path) -> None:
    for steps in (2, 1):
        options = {"suites": ["standard"], "eps": "2/255", "steps": f"{steps},square=2", "device": "cpu"}
        document = evaluate_run(run, **options, progress=False)
    assert [entry["budgets"]["apgd-ce"] for entry in document["analyses"]["calibration"]] == [1, 2]
    titles = [calibration_table({"run": entry}).title for entry in document["analyses"]["calibration"]]
    assert ["PGD-1," in titles[0], "PGD-2," in titles[1]] == [True, True]


@pytest.mark.parametrize(
    ("images", "specs", "said"),
    [
        (torch.rand(4, 3, 16, 16), [attack_spec("pgd", steps=1), attack_spec("pgd", steps=2)], "each once"),
        (torch.rand(4, 3, 16, 16), [attack_spec("fgsm"), attack_spec("pgd", norm="l2")], "of one norm"),
        (torch.rand(4, 3, 16, 24), None, "16 x 24 would be cropped"),
    ],
)
def test_what_a_folder_cannot_keep_is_refused(images, specs, said, tmp_path: Path) -> None:
    options = {"classes": ["a", "b"], "radii": [1 / 255], "specs": specs, "out": tmp_path / "out"}
    with pytest.raises(UserError, match=said):
        evaluate_model(torch.nn.Flatten(), images, np.array([0, 1, 0, 1]), **options)


def test_images_that_are_not_square_are_not_cropped_unsaid() -> None:
    with pytest.raises(UserError, match=r"images of 16 x 24: give .* image_size=16"):
        dpaat.evaluate(torch.nn.Flatten(), (torch.rand(4, 3, 16, 24), [0, 1, 0, 1]), classes=["a", "b"], out="never")


def test_a_seed_below_0_is_refused() -> None:
    with pytest.raises(UserError, match="seed"):
        EvaluateConfig(seed=-1)
