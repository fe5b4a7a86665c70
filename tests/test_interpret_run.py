"""`dpaat explain` on a tiny run: the document, the maps that are kept, and bad input."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_makers import write_csv
from dpaat.cli import main
from dpaat.config import TrainConfig
from dpaat.data import prepare
from dpaat.errors import UserError
from dpaat.evaluation.images import stratified_draw
from dpaat.evaluation.means import score_means
from dpaat.interpret import compare_explanations, explain_run, read_interpretability, read_maps, read_scores
from dpaat.interpret.maps import REFERENCES
from dpaat.interpret.scoring import SCORES
from dpaat.training import train
from training_makers import fails

MAPS = ["grad-cam", "input-gradient"]
OPTIONS = {"device": "cpu", "steps": 2, "maps": MAPS, "progress": False}
MASK_SCORES = {"energy", "pointing", "iou"}


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def masked(tiny_images, tmp_path_factory) -> str:
    """The tiny images again, as a CSV file with masks of another size; one image has none, one mask is empty."""
    folder = tmp_path_factory.mktemp("masked")
    rows = []
    for number, path in enumerate(sorted(tiny_images.rglob("*.png"))):
        mask = np.zeros((50, 50), np.uint8)
        mask[: 0 if number == 1 else 25] = 255
        Image.fromarray(mask).save(folder / f"{number}.png")
        rows.append({"path": str(path), "label": path.parent.name, "mask": f"{number}.png" if number else ""})
    return f"csv:{write_csv(folder / 'list.csv', rows)}"


def scores_of(document: dict, name: str) -> list[dict]:
    return [each for each in document["explanations"][0]["scores"] if each["score"] == name]


def test_explain_on_the_command_line(run, tiny_images, masked, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # files get no bar
    options = ["--maps", "grad-cam,input-gradient", "--eps", "2/255,8/255", "--steps", "2", "--device", "cpu"]
    assert main(["explain", str(run), "--data", masked, "--split", "all", "--layer", "layer1", *options]) == 0
    printed = capsys.readouterr()
    for text in ("layer1 (8 x 8)", "52 with a mask", "PGD-2 8/255", "centre (no model)", "c0", "sanity check"):
        assert text in printed.out, text
    assert "<" in printed.err, "the time left is shown"

    document = json.loads((run / "interpretability.json").read_text())
    assert document["schema_version"] == 1
    assert document["dpaat_version"]
    assert document["method"] == "dpaat-half"
    (entry,) = document["explanations"]
    assert (entry["n"], entry["with_mask"], entry["split"]) == (54, 52, "all")
    assert entry["checkpoint"] == document["checkpoint"]
    assert entry["layer"] == {"name": "layer1", "height": 8, "width": 8}
    assert entry["attack"]["label"] == "PGD-2"
    assert {each["score"] for each in entry["scores"]} == set(SCORES)
    for each in entry["scores"]:
        if each["map"] != "grad-cam" or each["score"] not in ("rank_correlation", "ssim"):
            assert each["n"] == (52 if each["score"] in MASK_SCORES else 54)
        assert set(each["per_class"]) == {"c0", "c1", "c2"}
        for part in (each["mean"], each["balanced"], *each["per_class"].values()):
            low, high = part["interval"]
            assert low <= part["value"] <= high
            assert part["value"] - part["chance"] == pytest.approx(part["excess"], abs=1e-9)
        assert (each["map"] in REFERENCES) <= (each["score"] in MASK_SCORES and not each["eps"])
    for each in scores_of(document, "energy"):
        assert each["mean"]["chance"] == pytest.approx(0.5)
    assert [each["eps"] for each in scores_of(document, "ssim")] == pytest.approx([2 / 255, 2 / 255, 8 / 255, 8 / 255])
    assert [each["map"] for each in entry["empty"]] == ["grad-cam"] * 3 + ["input-gradient"] * 3
    assert all(each["n"] == 0 for each in entry["empty"] if each["map"] == "input-gradient")
    assert [each["map"] for each in entry["randomization"]] == ["grad-cam", "input-gradient"]


def test_what_is_kept_for_the_report(run):
    document = explain_run(run, eps=[8 / 255], split="train", max_samples=20, **OPTIONS)
    (entry,) = document["explanations"]
    kept = read_maps(run, entry)
    assert kept["maps"].shape == (2, 2, 20, 32, 32)
    assert kept["map_names"].tolist() == ["grad-cam", "input-gradient"]
    assert kept["eps"].tolist() == [0, 8 / 255]
    assert kept["maps"].dtype == np.uint8
    assert kept["maps"][1].max(axis=(-1, -2)).min() == 255
    assert kept["predicted"].shape == (2, 20)
    assert "masks" not in kept
    perturbation = kept["perturbation"] * kept["perturbation_scale"][..., None, None, None]
    assert perturbation.shape == (1, 20, 3, 32, 32)
    assert np.abs(perturbation).max() == pytest.approx(8 / 255, rel=1e-4)
    assert bool((kept["images"] / 255 + perturbation[0] > -0.001).all())

    scores = read_scores(run, entry)
    assert set(scores["id"]) == set(kept["ids"])
    assert not scores["score"].isin(MASK_SCORES).any()
    ssim = scores[(scores["score"] == "ssim") & (scores["map"] == "grad-cam")]
    found = next(each for each in scores_of(document, "ssim") if each["map"] == "grad-cam")
    per_class = ssim.groupby("label")["value"].mean()
    assert found["balanced"]["value"] == pytest.approx(per_class.mean())
    for name, mean in per_class.items():
        assert found["per_class"][name]["value"] == pytest.approx(mean)


def test_without_masks_their_numbers_are_absent(run, capsys):
    assert main(["explain", str(run), "--maps", "input-gradient", "--steps", "1", "--device", "cpu"]) == 0
    assert "no lesion masks" in capsys.readouterr().out
    document = read_interpretability(run)
    assert document is not None
    assert document["explanations"][0]["with_mask"] == 0
    assert document["explanations"][0]["layer"] is None
    assert not MASK_SCORES & {each["score"] for each in document["explanations"][0]["scores"]}


def test_repetition_replaces_and_other_images_are_kept(run):
    def numbers(document: dict, k: int = 0) -> dict:
        return {name: value for name, value in document["explanations"][k].items() if name != "batch_size"}

    options = {**OPTIONS, "maps": ["input-gradient"]}
    first = explain_run(run, **options)
    again = explain_run(run, **options)
    assert numbers(first) == numbers(again)
    both = explain_run(run, split="val", **options)
    assert [entry["split"] for entry in both["explanations"]] == ["test", "val"]
    assert len(list((run / "interpretability").iterdir())) == 4
    document = json.loads((run / "interpretability.json").read_text())
    for entry in document["explanations"]:
        entry["checkpoint"] = "of an earlier model"
    (run / "interpretability.json").write_text(json.dumps(document))
    after = explain_run(run, split="val", **options)
    assert [entry["split"] for entry in after["explanations"]] == ["val"]
    assert len(list((run / "interpretability").iterdir())) == 2


def test_bad_input_is_one_line(run, tmp_path, capfd):
    explain = ("explain", run, "--device", "cpu")
    fails(capfd, "explain", tmp_path / "no", names=("no such run folder",))
    fails(capfd, *explain, "--maps", "gradcam", names=("unknown map", "grad-cam"))
    fails(capfd, *explain, "--layer", "layer9", "--maps", "grad-cam", names=("unknown layer", "layer1"))
    fails(capfd, *explain, "--layer", "layer1", "--maps", "input-gradient", names=("layer", "grad-cam"))
    fails(capfd, *explain, "--eps", "0,4/255", names=("eps",))
    fails(capfd, *explain, "--eps", "much", names=("eps", "'much'"))
    fails(capfd, *explain, "--steps", "0", names=("steps",))
    fails(capfd, *explain, "--norm", "l1", names=("norm", "l1"))
    fails(capfd, *explain, "--split", "tests", names=("split", "test"))
    fails(capfd, *explain, "--max-samples", "0", names=("max_samples",))
    fails(capfd, *explain, "--batch-size", "0", names=("batch_size",))
    (run / "interpretability.json").write_text("{")
    fails(capfd, *explain, names=("interpretability.json", "move it away"))
    (run / "interpretability.json").write_text('{"schema_version": 99}')
    fails(capfd, *explain, names=("schema version 99",))


def test_a_missing_mask_file_is_told(tiny_images, tmp_path):
    rows = [{"path": str(path), "label": path.parent.name, "mask": "gone.png"} for path in tiny_images.rglob("*.png")]
    with pytest.raises(UserError, match=r"masks are absent, the first is .*gone\.png"):
        prepare(f"csv:{write_csv(tmp_path / 'list.csv', rows)}", image_size=16)


def test_the_draw_takes_some_of_every_class():
    labels = np.repeat([0, 1, 2], [900, 80, 4])
    drawn = np.bincount(labels[stratified_draw(labels, 60, seed=0, at_least=10)])
    assert drawn.sum() == 60
    assert drawn.tolist()[1:] == [10, 4]
    assert len(stratified_draw(labels, 2, seed=0, at_least=10)) == 2
    assert np.bincount(labels[stratified_draw(labels, 9, seed=0, at_least=10)]).min() == 1


def test_means_have_intervals_over_lesions():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [60, 40])
    lesions = np.arange(100) // 4
    shares = np.array([900, 100])
    covered, widths = 0, []
    for _ in range(300):
        values = 0.4 + 0.2 * labels + 0.1 * rng.standard_normal(25)[lesions]
        found = score_means(values, labels, lesions, ["a", "b"], shares=shares)
        assert found["mean"]["value"] == pytest.approx(0.9 * values[:60].mean() + 0.1 * values[60:].mean())
        assert found["per_class"]["b"]["n"] == 40
        low, high = found["balanced"]["interval"]
        covered += low <= 0.5 <= high
        widths.append(high - low)
    assert 0.92 < covered / 300 < 0.98, "an image's own spread would be half as wide"
    single = score_means(np.array([0.2, 0.3]), np.array([0, 0]), np.array([1, 1]), ["a", "b"], shares=shares)
    assert single["mean"]["interval"] == [0.0, 1.0], "one lesion tells nothing about others"
    assert set(single["per_class"]) == {"a"}


def test_runs_are_compared_image_by_image(run, tiny_run, tmp_path):
    other = Path(shutil.copytree(tiny_run, tmp_path / "other"))
    options = {**OPTIONS, "maps": ["input-gradient"], "split": "train"}
    with pytest.raises(UserError, match="explain it first"):
        compare_explanations(run, other)
    explain_run(run, max_samples=25, **options)
    document = explain_run(other, max_samples=40, **options)
    for each in compare_explanations(run, other):
        assert each["n"] == 25, "the images that both have"
        if each["score"] in ("alignment", "ssim"):  # up to the random start, the same model
            assert each["balanced"]["value"] == pytest.approx(0, abs=0.3)
    scores = read_scores(other, document["explanations"][0])
    scores["value"] -= 0.01 * (scores["score"] == "insertion")
    scores.to_parquet(other / "interpretability" / document["explanations"][0]["files"]["scores"])
    del document["explanations"][0]["digests"]
    (other / "interpretability.json").write_text(json.dumps(document))
    (found,) = (each for each in compare_explanations(run, other) if each["score"] == "insertion")
    low, high = found["mean"]["interval"]
    assert low <= found["mean"]["value"] <= high
    assert found["mean"]["value"] == pytest.approx(0.01, abs=1e-6)
    explain_run(run, **{**options, "split": "val"})
    (run / "interpretability.json").write_text(
        (run / "interpretability.json").read_text().replace('"split": "train"', '"split": "all"')
    )
    with pytest.raises(UserError, match="no images in common"):
        compare_explanations(run, other)


@pytest.mark.slow
def test_a_model_of_robust_features_looks_at_the_lesion_and_one_of_fragile_features_elsewhere(tmp_path):
    excess = {}
    for features in ("robust", "fragile"):
        out = tmp_path / features
        config = TrainConfig(
            data=f"synthetic:1500,features={features}",
            image_size=32,
            model="test_resnet",
            stem="original",
            method="standard",
            epochs=12,
            batch_size=64,
            optimizer="adamw",
            lr=5e-3,
            weight_decay=0.05,
            augment="flip,turn,crop",  # jitter would blur the tint that fragile classes differ in
            accelerator="cpu",
        )
        train(config, out)
        document = explain_run(out, device="cpu", maps=MAPS, max_samples=300, progress=False)
        for each in scores_of(document, "energy"):
            excess[features, each["map"], each["eps"]] = each["mean"]["excess_interval"]
    for name in MAPS:
        assert excess["robust", name, 0.0][0] > excess["fragile", name, 0.0][1], name


def test_help_shows_what_can_be_named(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    text = capsys.readouterr().out
    assert "examples:" in text
    assert not re.findall(r"--[a-z]+_", text)
    assert main(["list", "maps"]) == 0
    assert "integrated-gradients" in capsys.readouterr().out
