"""What programs call: `dpaat.load`, `train`, `evaluate`, `explain` and `attack`."""

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import dpaat
import dpaat.evaluation
import dpaat.training
import own_code_makers
from dpaat.attacks import ATTACKS
from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.evaluation import read_evaluation
from dpaat.export import export
from training_makers import TINY

NAMES = ("attack", "evaluate", "explain", "load", "train", "Predictor", "AdaptivePerturbation", "Indexed")


@pytest.fixture(autouse=True, scope="module")
def _own_key(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("account")))
        yield


@pytest.fixture(scope="module")
def files(tiny_images) -> list[str]:
    return sorted(map(str, tiny_images.rglob("*.png")))[:7]


@pytest.fixture(scope="module")
def table(tiny_run, files, tmp_path_factory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("csv") / "predictions.csv"
    assert main(["predict", str(tiny_run), *files, f"--out={out}"]) == 0
    return pd.read_csv(out)


def test_everything_is_in_dir():
    assert set(NAMES) <= set(dir(dpaat))
    assert all(hasattr(dpaat, name) for name in dir(dpaat))
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = dpaat.absent


def test_importing_it_imports_nothing_else():
    code = "import sys, dpaat; dir(dpaat); print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def assert_same(found: pd.DataFrame, table: pd.DataFrame) -> None:
    numbers = [name for name in table if name.startswith("probability_")]
    assert list(found) == list(table)
    assert found["predicted"].tolist() == table["predicted"].tolist()
    assert np.abs(found[numbers].to_numpy() - table[numbers].to_numpy()).max() <= 1e-6


def test_predictions_are_those_of_the_command(tiny_run, files, table):
    predictor = dpaat.load(tiny_run)
    assert predictor.classes == ("c0", "c1", "c2")
    assert not predictor.model.training
    found = predictor.predict(files)
    assert found["file"].tolist() == table["file"].tolist() == files
    assert_same(found, table)
    assert_same(predictor.predict(Path(files[0])), table[:1])
    pixels = [np.asarray(Image.open(file)) for file in files]
    tensors = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    for images in (pixels, np.stack(pixels), tensors, tensors / 255, [Image.open(file) for file in files]):
        assert_same(predictor.predict(images), table)
    for one in (pixels[0], tensors[0], Image.open(files[0])):
        assert_same(predictor.predict(one), table[:1])
    ready = torch.rand(4, 3, 32, 32)
    expected = predictor.model(ready).double().softmax(1).detach().numpy()
    assert np.array_equal(predictor.predict(ready, batch_size=2).filter(like="probability_").to_numpy(), expected)


def test_an_export_predicts_the_same(tiny_run, files, table, tmp_path):
    pytest.importorskip("onnxruntime")
    export(tiny_run, tmp_path / "export", images=2)
    assert_same(dpaat.load(tmp_path / "export").predict(files), table)


def test_an_export_of_an_own_network(files, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    own = {"model": "py:own_code_makers:Net", "data": "py:own_code_makers:shapes", "image_size": 24, "epochs": 1}
    run = dpaat.train({**TINY, **own, "method": "standard"}, tmp_path / "run")
    export(run, tmp_path / "export", images=2)
    assert 'rebuild(".", network)' in (tmp_path / "export" / "README.md").read_text()
    assert_same(dpaat.load(tmp_path / "export").predict(files), dpaat.load(run).predict(files))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody else"))
    for folder in (run, tmp_path / "export"):
        with pytest.raises(UserError, match="would run code"):
            dpaat.load(folder)
        assert dpaat.load(folder, trust=True).classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "give at least one image"),
        ("no/such.png", "no such image or folder"),
        (torch.rand(2, 1, 32, 32), "images must be (N, 3, 32, 32) in [0, 1]"),
        (torch.rand(2, 3, 32, 32) * 2, "from"),
        (torch.rand(2, 3, 16, 16) * 2, "floating-point values from"),
        (np.zeros((3, 32, 32), np.uint8), "is one image or 3 grey ones"),
        (np.zeros((0, 32, 32, 3), np.uint8), "give at least one image"),
        (7, "not int"),
    ],
)
def test_what_are_no_images_is_told(tiny_run, images, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")):
        dpaat.load(tiny_run).predict(images)


def test_nothing_to_load_is_told(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        dpaat.load(tmp_path / "absent")
    with pytest.raises(UserError, match="not a run folder"):
        dpaat.load(tmp_path)


def test_training_from_fields_a_configuration_and_a_file(tiny_images, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = {**TINY, "data": f"folder:{tiny_images}", "epochs": 1, "method": "standard"}
    first = dpaat.train(**fields)
    assert first == Path("runs/train")
    second = dpaat.train(dpaat.TrainConfig(**fields), seed=1)
    assert second == Path("runs/train-2")
    third = dpaat.train(first / "config.yaml", tmp_path / "third")
    digests = [json.loads((run / "run.json").read_text())["files"]["metrics.csv"] for run in (first, second, third)]
    assert digests[0] == digests[2] != digests[1]
    with pytest.raises(UserError, match="data: give a name"):
        dpaat.train(data=own_code_makers.Shapes())
    with pytest.raises(UserError, match="epoch"):
        dpaat.train(epoch=3)


def surroundings() -> list:
    levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
    generators = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    return [*generators, levels, {**os.environ}]


@pytest.mark.parametrize("seed", [None, "7"])
def test_training_leaves_its_caller_as_found(seed, tiny_images, tmp_path, monkeypatch):
    if seed is None:
        monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    else:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.INFO)
    before = surroundings()
    dpaat.train({**TINY, "data": f"folder:{tiny_images}", "epochs": 1}, tmp_path / "run")
    assert surroundings() == before
    with pytest.raises(UserError):
        dpaat.train({**TINY, "data": f"folder:{tiny_images}", "epochs": 1, "eps": "100"}, tmp_path / "other")
    assert surroundings() == before


def test_predicting_is_in_evaluation_mode_and_leaves_the_mode(tiny_run, files, table):
    predictor = dpaat.load(tiny_run)
    predictor.model.train()
    assert_same(predictor.predict(files), table)
    assert all(module.training for module in predictor.model.modules())
    assert not any(value.is_inference() for value in predictor.model.state_dict().values())


QUICK = {"eps": "2/255,8/255", "steps": 2, "device": "cpu"}


def test_evaluating_a_run_is_what_the_command_does(tiny_run, tiny_images, tmp_path):
    out = tmp_path / "results"
    found = dpaat.evaluate(tiny_run, out=out, **QUICK)
    assert {entry["attack"] for entry in found["results"]} == {"clean", "pgd"}
    assert read_evaluation(out) == found
    assert not (tiny_run / "evaluation.json").exists()
    scores = dpaat.evaluate(dpaat.load(tiny_run), f"folder:{tiny_images}", out=tmp_path / "again", **QUICK)
    assert [e["metrics"] for e in scores["results"]] == [e["metrics"] for e in found["results"]]


@pytest.mark.parametrize("measure", [dpaat.evaluate, dpaat.explain])
def test_a_predictor_that_was_changed_is_not_taken_for_its_folder(measure, tiny_run, tmp_path):
    export(tiny_run, tmp_path / "export")
    for path in (tiny_run, tmp_path / "export"):
        for change in (lambda m: m.mean.add_(0.5), lambda m: next(m.network.parameters()).zero_(), lambda m: m.half()):
            predictor = dpaat.load(path)
            with torch.no_grad():
                change(predictor.model)
            with pytest.raises(UserError, match=r"changed since it was loaded; give predictor\.model and out="):
                measure(predictor, "synthetic:40", out=tmp_path / "out")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A network of Python, evaluated on a dataset of Python."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("foreign") / "mine"
    model = own_code_makers.Net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dpaat.evaluate(
        model, "py:own_code_makers:shapes", out=out, image_size=24, suite="standard", **QUICK | {"eps": "2/255"}
    )
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return out


def test_a_model_from_elsewhere_has_a_whole_report(evaluated, tmp_path, capsys):
    for form in ("html", "md"):
        page = tmp_path / f"page.{form}"
        assert main(["report", str(evaluated), f"--format={form}", f"--out={page}"]) == 0
        text = page.read_text()
        for words in (
            "Is it accurate",
            "Is it robust",
            "rained elsewhere",
            "own_code_makers" if form == "html" else "Net",
        ):
            assert words in text
        assert "dpaat train" not in text
    (evaluated / "subject.json").rename(tmp_path / "aside")
    assert main(["report", str(evaluated), f"--out={page}"]) == 2
    (tmp_path / "aside").rename(evaluated / "subject.json")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_from_elsewhere_is_compared_explained_and_evaluated_again(evaluated, tmp_path, capsys):
    other = tmp_path / "other"
    torch.manual_seed(1)
    data = own_code_makers.Shapes()
    more = {"image_size": 24, "suites": ["standard"], **QUICK, "eps": "2/255"}
    dpaat.evaluate(own_code_makers.Net(), "py:own_code_makers:shapes", out=other, **more)
    assert main(["compare", str(evaluated), str(other), f"--out={tmp_path / 'c.json'}"]) == 0
    assert main(["report", str(evaluated), str(other), "--no-images", f"--out={tmp_path / 'two.html'}"]) == 0
    few = ["--max-samples=4", "--steps=1", "--maps=input-gradient", "--device=cpu"]
    assert main(["explain", str(evaluated), *few]) == 0
    assert main(["evaluate", str(evaluated), "--attack=fgsm", "--eps=1/255", "--device=cpu"]) == 0
    assert "FGSM" in capsys.readouterr().out
    assert len({entry["attack"] for entry in read_evaluation(evaluated)["results"]}) >= 5
    found = dpaat.explain(other, data, max_samples=4, steps=1, maps=["input-gradient"], device="cpu")
    assert found["explanations"]


def test_a_model_from_elsewhere_is_compared_with_a_run(tmp_path):
    shared = {"data": "py:own_code_makers:in_splits", "image_size": 24}
    own = {**TINY, **shared, "model": "py:own_code_makers:Net", "stem": "auto", "method": "standard", "epochs": 1}
    run = dpaat.train(own, tmp_path / "run")
    dpaat.evaluate(run, **QUICK)
    dpaat.evaluate(own_code_makers.Net(), shared["data"], out=tmp_path / "net", image_size=24, **QUICK)
    for order in ((run, tmp_path / "net"), (tmp_path / "net", run)):
        assert main(["compare", *map(str, order), f"--out={tmp_path / 'c.json'}"]) == 0
        found = json.loads((tmp_path / "c.json").read_text())
        assert len(found["conditions"]) == 3
        assert set(found["recipes"]) == {"standard", "net"}


@pytest.mark.parametrize("specs", [None, [dpaat.evaluation.attack_spec("pgd", steps=2)]])
def test_arrays_are_kept_and_reported(specs, tmp_path):
    data = own_code_makers.Shapes()
    images, labels = data.pixels[:, :20, :20].transpose(0, 3, 1, 2), np.array(data.targets)
    steps = {"apgd-ce": 2, "apgd-t": 1, "fab-t": 1, "square": 2, "pgd": 2}
    options = {"classes": ["z", "y", "x"], "radii": [2 / 255], "specs": specs, "steps": steps, "progress": False}
    torch.manual_seed(0)
    model = own_code_makers.Net().eval()
    kept = dpaat.evaluate_model(model, images, labels, out=tmp_path / "out", **options)
    loose = dpaat.evaluate_model(model, images, labels, **options)
    assert [(r.spec, r.eps) for r in kept] == [(r.spec, r.eps) for r in loose]
    assert kept[0].metrics["per_class_recall"] == loose[0].metrics["per_class_recall"]
    assert kept[0].predicted.tolist() == loose[0].predicted.tolist()
    assert main(["report", str(tmp_path / "out"), f"--out={tmp_path / 'r.html'}"]) == 0
    assert "Is it robust" in (tmp_path / "r.html").read_text()


def test_what_cannot_be_made_again_or_trusted_is_told(evaluated, tmp_path, capsys, monkeypatch):
    class Local(own_code_makers.Net):
        pass

    out = tmp_path / "local"
    options = {"image_size": 24, "eps": "2/255", "steps": 1, "device": "cpu"}
    dpaat.evaluate(Local(), own_code_makers.Shapes(), out=out, **options)
    assert main(["report", str(out), f"--out={tmp_path / 'r.html'}"]) == 0
    capsys.readouterr()
    assert main(["explain", str(out)]) == 2
    assert "is an object of Python that could not be kept" in capsys.readouterr().err
    dpaat.explain(Local(), own_code_makers.Shapes(), out=out, image_size=24, max_samples=4, steps=1, device="cpu")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody else"))
    assert main(["explain", str(evaluated)]) == 2
    assert "would run code" in capsys.readouterr().err


def test_an_own_network_with_its_weights_is_evaluated_on_the_command_line(tmp_path, capsys):
    torch.save(own_code_makers.Net().state_dict(), tmp_path / "w.pth")
    own = ["--model=py:own_code_makers:Net", "--data=py:own_code_makers:shapes", "--image-size=24", "--eps=2/255"]
    for more in ([], [f"--weights={tmp_path / 'w.pth'}"]):
        out = tmp_path / f"out{len(more)}"
        assert main(["evaluate", *own, *more, "--steps=1", "--device=cpu", f"--out={out}"]) == 0
        assert main(["explain", str(out), "--max-samples=4", "--steps=1", "--maps=input-gradient", "--device=cpu"]) == 0
    torch.save(own_code_makers.Net().state_dict(), tmp_path / "w.pth")
    capsys.readouterr()
    assert main(["explain", str(out)]) == 2
    assert "the model is not what was evaluated there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": own_code_makers.Net(), "data": "synthetic:40"}, "out: name a folder"),
        ({"model": own_code_makers.Net(), "out": "x"}, "data: name the images"),
        ({"model": "resnet18", "data": "synthetic:40", "out": "x"}, "no run or file 'resnet18'"),
        ({"model": own_code_makers.Net(5), "data": own_code_makers.Shapes(), "out": "x"}, "gives \\(2, 5\\)"),
        ({"model": own_code_makers.Net(), "data": own_code_makers.Shapes(), "out": "x", "epss": 1}, "epss"),
    ],
)
def test_what_cannot_be_evaluated_is_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        dpaat.evaluate(**arguments, device="cpu")


def test_arrays_are_evaluated_as_they_are(tmp_path):
    data, sizes = own_code_makers.Shapes(), set()
    images, model = data.pixels[:, :20, :20], own_code_makers.Net()
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    model.register_forward_hook(lambda _, inputs, __: sizes.add(tuple(inputs[0].shape[1:])))
    for form in (images, images.transpose(0, 3, 1, 2), planes, list(planes / 255)):
        found = dpaat.evaluate(model, (form, data.targets), out=tmp_path, **QUICK)
        assert found["results"][0]["n"] == 48
    explained = dpaat.explain(model, (images, data.targets), out=tmp_path, steps=1, maps=["input-gradient"])
    assert explained["explanations"][0]["n"] == 48
    assert sizes == {(3, 20, 20)}
    found = dpaat.evaluate(model, (images, data.targets), out=tmp_path / "other", image_size=24, split="val", **QUICK)
    assert found["results"][0]["n"] < 48
    assert sizes == {(3, 20, 20), (3, 24, 24)}


@pytest.mark.parametrize("missing", [None, 1])
def test_numbers_as_labels_count_into_the_classes(missing, tmp_path):
    data = own_code_makers.Shapes()
    kept = np.array(data.targets) != missing
    arrays, model = (data.pixels[kept], np.array(data.targets)[kept]), own_code_makers.Net()
    named = dpaat.evaluate(model, arrays, out=tmp_path / "named", classes=["c", "a", "b"], image_size=24, **QUICK)
    plain = dpaat.evaluate(model, arrays, out=tmp_path / "plain", classes=["0", "1", "2"], image_size=24, **QUICK)
    support = named["results"][0]["metrics"]["support"]
    assert support == dict(zip("cab", plain["results"][0]["metrics"]["support"].values(), strict=True))
    assert [e["metrics"]["accuracy"] for e in named["results"]] == [e["metrics"]["accuracy"] for e in plain["results"]]
    for classes in (["a", "b"], ["1", "2", "3"]):
        options = {"out": tmp_path / "other", "classes": classes, "image_size": 24, **QUICK}
        with pytest.raises(UserError, match="classes unknown"):
            dpaat.evaluate(own_code_makers.Net(len(classes)), arrays, **options)


def test_a_model_of_other_classes_in_the_same_folder_leaves_nothing_of_the_first(tmp_path):
    data = own_code_makers.Shapes()
    targets = np.array(data.targets)
    for classes in (2, 3, 3):
        kept = targets < classes
        model = own_code_makers.Net(classes)
        dpaat.evaluate(model, (data.pixels[kept], targets[kept]), out=tmp_path, image_size=24, **QUICK)
        for kind in ("results", "constant"):
            assert all(len(entry["metrics"]["support"]) == classes for entry in read_evaluation(tmp_path)[kind])
    assert len(read_evaluation(tmp_path)["constant"]) == 1


@pytest.mark.parametrize("name", ["pgd", "fgsm", "apgd-ce", "square"])
def test_attacks_by_name(name):
    torch.manual_seed(0)
    model = own_code_makers.Net().eval()
    x, y = torch.rand(4, 3, 24, 24), torch.tensor([0, 1, 2, 0])
    steps = {"steps": 3} if ATTACKS[name].steps else {}
    found = dpaat.attack(name, model, x, y, eps=8 / 255, **steps)
    assert (found - x).abs().max() <= 8 / 255 + 1e-6
    assert not torch.equal(found, x)
    assert torch.equal(found, dpaat.attack(name, model, x, y, eps=8 / 255, **steps))


def test_attacks_that_do_not_fit_are_told():
    x, y = torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.long)
    model = own_code_makers.Net()
    for arguments, message in (
        ({"name": "pdg"}, "unknown attack 'pdg'; nearest: .*pgd"),
        ({"name": "pgd", "norm": "l1"}, "norm: attack 'pgd' knows"),
        ({"name": "fgsm", "steps": 3}, "fgsm' takes no number of steps"),
        ({"name": "transfer"}, "give source=MODEL"),
    ):
        with pytest.raises(UserError, match=message):
            dpaat.attack(**arguments, model=model, x=x, y=y, eps=0.1)
