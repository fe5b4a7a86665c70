"""The user's own networks, datasets and transforms, named by `py:` and `hf:` on the command line."""

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset

import own_code_makers
from dpaat.cli import main
from dpaat.data import load_table, prepare
from dpaat.data.check import check
from dpaat.errors import UserError
from dpaat.evaluation.target import LATER
from dpaat.models import build_model
from dpaat.own_code import named_in
from own_code_makers import Normed
from training_makers import TINY, assert_equal, checkpoint, make_images

SIDE = 24


@pytest.fixture(autouse=True)
def _own_key(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("account")))
    monkeypatch.delenv("DPAAT_TRUST", raising=False)


def py(name: str) -> str:
    return f"py:own_code_makers:{name}"


def train(out: Path, *extra: str, **changes: object) -> int:
    own = {"model": py("Net"), "data": py("shapes"), "image_size": SIDE, "stem": "auto", "method": "pgd", "epochs": 1}
    fields = {**TINY, **own, "val_eps": "8/255", **changes}
    return main(["train", *(f"--{name.replace('_', '-')}={v}" for name, v in fields.items()), f"--out={out}", *extra])


def prepared(spec: object, tmp_path: Path):
    return prepare(spec, image_size=SIDE, cache_dir=tmp_path / "cache", progress=False)


def test_a_run_of_own_code_is_resumed_evaluated_reported_and_predicts(tmp_path, capsys):
    fields = {"transform": py("Noise"), "epochs": 2, "data": py("in_splits")}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(whole, **fields) == 0
    assert f"network {py('Net')}: not normalized; input 0-1" in capsys.readouterr().out
    assert train(halves, "--stop-after=1", **fields) == 0
    assert main(["train", "--resume", f"--out={halves}"]) == 0
    assert_equal(checkpoint(whole)["state_dict"], checkpoint(halves)["state_dict"])
    assert main(["evaluate", str(halves), "--eps=2/255", "--steps=2", "--device=cpu"]) == 0
    assert main(["report", str(halves), "--no-images", f"--out={tmp_path / 'r.html'}"]) == 0
    assert main(["predict", str(halves), py("shapes"), f"--out={tmp_path / 'p.csv'}"]) == 0
    assert len(pd.read_csv(tmp_path / "p.csv")) == 48
    info = json.loads((halves / "run.json").read_text())
    assert info["split_counts"]["test"] == {"a": 4, "b": 4, "c": 4}
    assert "transform" in LATER


def test_monai_densenet121_by_its_own_name_and_by_a_factory():
    pytest.importorskip("monai")
    model = build_model("py:monai.networks.nets:DenseNet121", num_classes=4, channels=1, image_size=32)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 4)
    assert type(model.network).__name__ == "DenseNet121"
    assert build_model(py("monai_densenet"), num_classes=3, image_size=32)(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_a_run_of_monais_densenet(tmp_path):
    pytest.importorskip("monai")
    out = tmp_path / "run"
    assert train(out, model=py("monai_densenet"), image_size=32) == 0
    assert main(["evaluate", str(out), "--eps=2/255", "--steps=1", "--device=cpu"]) == 0


@pytest.mark.parametrize("name", ["Net", "ready"])
def test_networks_learn_from_weights_of_others_too(name, tmp_path):
    torch.save({f"module.{n}": value for n, value in own_code_makers.Net(7).state_dict().items()}, tmp_path / "w.pth")
    model = build_model(py(name), num_classes=3, image_size=SIDE, weights=tmp_path / "w.pth")
    assert model.facts["weights"]["head"] == "new"
    assert model.facts["weights"]["loaded"] == 7
    assert model.network is not own_code_makers.ready


def test_a_network_that_normalizes_by_itself_is_not_normalized_twice(tmp_path):
    torch.manual_seed(0)
    network, x = Normed().eval(), torch.rand(4, 3, SIDE, SIDE)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    options = {"num_classes": 3, "channels": 3, "image_size": SIDE, "keep_head": True}
    model = build_model(py("Normed"), weights=tmp_path / "w.pth", **options).eval()
    torch.testing.assert_close(model(x), network(x))
    assert train(tmp_path / "run", model=py("Normed"), method="dpaat-balanced", epochs=2, ema_decay=0.5) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--eps=2/255", "--steps=1", "--device=cpu"]) == 0
    assert main(["export", str(tmp_path / "run"), f"--out={tmp_path / 'export'}", "--no-onnx"]) == 0


def test_a_head_that_is_not_known_is_not_kept_for_other_classes(tmp_path, capsys):
    assert train(tmp_path / "run", model=py("ConvHead")) == 0
    assert main(["export", str(tmp_path / "run"), f"--out={tmp_path / 'export'}", "--no-onnx"]) == 0, "tied weights"
    other = make_images(tmp_path / "other")
    assert train(tmp_path / "more", model=py("ConvHead"), weights=tmp_path / "run", data=f"folder:{other}") == 2
    assert "is for other classes" in capsys.readouterr().err


def test_normalization_is_what_is_stated():
    x = torch.rand(2, 3, SIDE, SIDE)
    plain = build_model(py("ready"), num_classes=3, image_size=SIDE).eval()
    assert torch.equal(plain(x), own_code_makers.ready.eval()(x))
    stated = build_model(py("ready"), num_classes=3, image_size=SIDE, mean=0.5, std=0.25).eval()
    assert torch.equal(stated(x), own_code_makers.ready.eval()((x - 0.5) / 0.25))


def test_the_same_images_are_the_same_data_in_whatever_form(tmp_path):
    found = prepared(py("shapes"), tmp_path)
    assert found.classes == ("a", "b", "c")
    group = dict(zip(found.ids, found.table.frame["group"], strict=True))
    for split in ("train", "val", "test"):
        here = {group[name] for name in found.ids[found.split == split]}
        assert here
        assert here.isdisjoint(group[name] for name in found.ids[found.split != split])
    plain, moved = prepared(py("Plain"), tmp_path), prepared(py("wrapped"), tmp_path)
    assert np.array_equal(plain.images, found.images)
    assert (plain.classes, plain.labels.tolist()) == (found.classes, found.labels.tolist())
    assert "no group column: every image counts as independent" in plain.table.notes
    assert "no group column: every image counts as independent" not in found.table.notes
    assert np.array_equal(moved.images, np.roll(found.images, 24, axis=0))
    assert moved.table.frame["group"].tolist() == np.roll(group[found.ids[0]] and list(group.values()), 24).tolist()
    assert prepared(py("shapes"), tmp_path).fingerprint == found.fingerprint
    assert prepared(own_code_makers.Shapes(), tmp_path).fingerprint == found.fingerprint


def named(labels: list[int], classes: tuple[str, ...] = ()) -> Dataset:
    made = own_code_makers.Shapes(len(labels), len(labels))
    made.targets, made.classes = labels, classes
    return made


def test_a_split_that_lacks_a_class_is_read_by_its_own_numbers(tmp_path):
    parts = {"train": named([0, 1, 2, 1], ("a", "b", "c")), "test": named([0, 1, 1], ("a", "c"))}
    table = load_table(parts)
    assert table.classes == ("a", "b", "c")
    assert table.frame["label"].tolist() == [0, 1, 2, 1, 0, 2, 2]
    only = load_table({**parts, "val": named([0, 0], ("z",))})
    assert only.classes == ("a", "b", "c", "z")
    assert only.frame["label"].tolist()[-2:] == [3, 3]
    hugging_face = pytest.importorskip("datasets")
    kinds = {"image": hugging_face.Image(), "label": None}
    saved = {}
    for split, names, labels in (("train", ["a", "b", "c"], [0, 1, 2]), ("test", ["a", "c"], [0, 1])):
        images = [Image.fromarray(x) for x in own_code_makers.Shapes(len(labels), len(labels)).pixels]
        features = hugging_face.Features({**kinds, "label": hugging_face.ClassLabel(names=names)})
        saved[split] = hugging_face.Dataset.from_dict({"image": images, "label": labels}, features=features)
    hugging_face.DatasetDict(saved).save_to_disk(str(tmp_path / "disk"))
    table = load_table(f"hf:{tmp_path / 'disk'}")
    assert [table.classes[k] for k in table.frame["label"]] == ["a", "b", "c", "a", "c"]


def test_colour_among_grey_images_is_not_lost_unsaid(tmp_path):
    made = own_code_makers.Shapes(80)
    made.pixels = [pixels if number == 1 else pixels[..., 0] for number, pixels in enumerate(made.pixels)]
    with pytest.raises(UserError, match=r"item 1 of .* it is in colour, but those that were looked at are grey"):
        prepare(made, image_size=SIDE, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (ConcatDataset([named([0, 1, 2], ("a", "b", "c")), named([0, 1], ("a", "c"))]), "a, b, c and a, c"),
        ({"train": named([0, 2], ("a", "b", "c")), "test": named([0, 2], ("a", "c"))}, "label 2 is none of its 2"),
        ({"train": named([0, 1], ("a", "b")), "val": named([0], ("b",)), "test": named([0])}, "one not at all"),
    ],
)
def test_numbers_that_may_mean_several_classes_are_refused(made, said):
    with pytest.raises(UserError, match=said):
        load_table(made)


@pytest.mark.parametrize("nobody", [None, float("nan"), "unknown", ""])
def test_items_of_an_unknown_group_are_not_one_group(nobody):
    made = own_code_makers.Shapes()
    made.groups[40:] = [nobody] * 8
    table = load_table(made)
    assert table.frame["group"].nunique() == 20 + 8
    assert "8 of 48 images have no group and count as independent" in table.notes


def test_splits_and_duplicates_are_looked_after(tmp_path, capsys):
    found = prepared(py("in_splits"), tmp_path)
    assert {split: int((found.split == split).sum()) for split in ("train", "val", "test")} == {
        "train": 48,
        "val": 12,
        "test": 12,
    }
    twice = [(np.full((8, 8), k, np.uint8), k // 8) for k in range(16)] * 2
    table = prepared(twice, tmp_path)
    for k in range(16):
        assert table.split[k] == table.split[k + 16]
    from rich.console import Console

    check(py("shapes"), image_size=SIDE, console=Console(file=None))
    assert "24 groups" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (np.full((9, 9), 51, np.uint8), 51),
        (np.full((9, 9), 0.2, np.float32), 51),
        (torch.full((1, 9, 9), 0.2), 51),
        (torch.full((3, 9, 9), 51, dtype=torch.uint8), 51),
        (np.full((3, 9, 9), 0.2), 51),
        (np.ones((9, 9), bool), 255),
        (Image.new("L", (9, 9), 51), 51),
        (Image.new("P", (9, 9), 0), 0),
        (Image.fromarray(np.full((9, 9), 51 * 257, np.uint16)), 51),
        (np.full((9, 9), 51 * 257, np.uint16), 51),
    ],
)
def test_images_come_in_any_usual_form(image, grey, tmp_path):
    data = [(image, k % 2) for k in range(20)]
    found = prepare(data, image_size=4, window="full", training=False, cache_dir=tmp_path, progress=False)
    assert set(found.images.ravel().tolist()) == {grey}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random_items", "item 0 of py:own_code_makers:random_items: is another image each time it is read"),
        ("normalized", "floating-point values from -2"),
        ("wrong_targets", "its label is 1, but its targets say '0'"),
        ("no_pair", 'not (image, label) or a dict with "image" and "label"'),
        ("broken", "fails with ZeroDivisionError"),
        ("multi_label", "has a label of 3 values; give one class; several labels an image come as csv:"),
        ("not_a_dataset", "is int; give a map-style dataset of (image, label), or a dict of those by split"),
        ("absent", "own_code_makers has no 'absent'"),
    ],
)
def test_what_is_no_dataset_is_one_line(name, message, capsys):
    assert main(["data", "check", py(name)]) in (1, 2)
    captured = capsys.readouterr()
    assert message in " ".join((captured.out + captured.err).split())
    assert "Traceback" not in captured.err
    with pytest.raises(UserError, match="own_code_makers"):
        prepare(py(name), image_size=8, progress=False)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model", "py:no_such_module:make", "model: py:no_such_module:make: no_such_module cannot be imported"),
        ("model", "py:own_code_makers", "is not of the form py:PKG.MODULE:NAME"),
        ("model", "py:own_code_makers:Net.absent", "has no 'Net.absent'"),
        ("model", py("not_a_dataset"), "gives int, not an nn.Module"),
        ("model", py("needs_more"), "needs the argument 'depth'; it is given what it names of num_classes"),
        ("model", py("wrong_outputs"), "gives 5 logits, not one for each of 3 classes"),
        ("transform", py("brighter"), "gives values from"),
        ("transform", py("halved"), "it must keep their shape"),
        ("transform", py("fails"), "fails with ZeroDivisionError"),
        ("transform", "flip", "transform: 'flip' is not of the form py:PKG.MODULE:NAME"),
    ],
)
def test_what_does_not_fit_is_one_line(option, value, message, tmp_path, capsys):
    assert train(tmp_path / "run", **{option: value}) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_file_runs_no_code_unless_it_is_trusted(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert train(run, transform=py("darker")) == 0
    config = run / "config.yaml"
    monkeypatch.setitem(sys.modules, "own_code_makers", None)
    for field in ("model", "data", "transform"):
        alone = {field: yaml.safe_load(config.read_text())[field]}
        (tmp_path / "one.yaml").write_text(yaml.safe_dump(alone))
        assert main(["train", f"--config={tmp_path / 'one.yaml'}", f"--out={tmp_path / 'new'}"]) == 2
        assert "--config: would run code, py:own_code_makers:" in capsys.readouterr().err
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"model": py("Net"), "trust": True}))
    assert main(["train", f"--config={tmp_path / 'one.yaml'}", f"--out={tmp_path / 'new'}"]) == 2
    assert "give it on the command line" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "own_code_makers", own_code_makers)
    arguments = ["evaluate", str(run), "--eps=2/255", "--steps=1", "--device=cpu"]
    assert main(arguments) == 0  # it is this user's own run
    again = ["train", f"--config={config}", f"--out={tmp_path / 'new'}"]
    assert main([*again, "--trust"]) == 0
    assert main(["train", f"--config={config}", f"--out={tmp_path / 'new2'}", *named_options(config)]) == 0
    capsys.readouterr()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody else"))
    shutil.copytree(run, tmp_path / "theirs")
    refused = [
        ["evaluate", str(tmp_path / "theirs")],
        ["predict", str(tmp_path / "theirs"), "folder:x"],
        ["train", "--resume", f"--out={tmp_path / 'theirs'}", "--trust=true"][:3],
    ]
    for command in refused[:2]:
        assert main(command) == 2
        assert "would run code" in capsys.readouterr().err
    assert main([*arguments[:1], str(tmp_path / "theirs"), *arguments[2:], "--trust"]) == 0


def named_options(config: Path) -> list[str]:
    fields = yaml.safe_load(config.read_text())
    return [f"--{name}={fields[name]}" for name in ("model", "data", "transform")]


def test_a_grid_runs_no_code_unless_it_is_trusted(tmp_path, capsys):
    grid = {"recipes": {"standard": {"method": "standard"}}, "models": [py("Net")], "data": py("shapes")}
    grid["evaluate"] = {"attacks": ["fgsm"], "eps": ["2/255"]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = ["benchmark", str(tmp_path / "grid.yaml"), "--dry-run", f"--out={tmp_path / 'b'}"]
    assert main(command) == 2
    assert "would run code, py:own_code_makers:Net" in capsys.readouterr().err
    assert main([*command, "--trust"]) == 0
    assert "standard" in capsys.readouterr().out


def test_names_in_arguments():
    assert named_in(["--model=py:a:b", "--data", "py:c:d", "--x=y"]) == ["py:a:b", "py:c:d"]


@pytest.fixture(scope="module")
def imagefolder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hf") / "photos"
    data = own_code_makers.Shapes()
    for number in range(len(data)):
        pixels, label = data[number]
        split = ("train", "train", "validation", "test")[number % 4]
        place = root / split / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return root


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "png")
    return file.getvalue()


def tar_shards(root: Path, suffix: str, label, per_image: int = 1) -> Path:
    """Two shards for training and one for testing, of three images each; `label` makes the second file of each."""
    root.mkdir()
    for number, split in enumerate(("train", "train", "test")):
        with tarfile.open(root / f"{split}-{number:05d}.tar", "w") as shard:
            for image in range(3 * number, 3 * number + 3):
                for end, content in (("png", png(image)), (suffix, label(image).encode()))[: 1 + per_image]:
                    entry = tarfile.TarInfo(f"{image % 3}.{end}")
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
    return root


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return datasets


def test_tar_shards_of_a_webdataset(hugging_face, tmp_path):
    root = tar_shards(tmp_path / "cls", "cls", lambda image: str(image % 2))
    found = prepared(f"hf:{root}", tmp_path)
    assert found.classes == ("0", "1")
    assert found.table.frame["label"].tolist() == [number % 2 for number in range(9)]
    assert [len(found.digests), len(found.rows("test"))] == [9, 3]
    for pattern, count in (("train-00000.tar", 3), ("train-*.tar", 6)):  # one shard, or several, without splits
        table = load_table(f"hf:{root / pattern}")
        assert (len(table.frame), table.name) == (count, "cls")


def test_tar_shards_with_json(hugging_face, tmp_path):
    def described(image: int) -> str:
        return json.dumps({"label": ["mel", "nv"][image % 2], "group": f"p{image // 2}", "camera": 1})

    table = load_table(f"hf:{tar_shards(tmp_path / 'json', 'json', described)}")
    assert table.classes == ("mel", "nv")
    assert table.frame["group"].tolist() == [f"p{number // 2}" for number in range(9)]
    assert "columns that are not used: camera" in table.notes


def test_parquet_shards(hugging_face, tmp_path):
    kinds = {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=["nv", "mel"])}
    for number, split in enumerate(("train", "train", "test")):
        images = range(3 * number, 3 * number + 3)
        rows = {"image": [{"bytes": png(k), "path": None} for k in images], "label": [k % 2 for k in images]}
        shard = hugging_face.Dataset.from_dict(rows, features=hugging_face.Features(kinds))
        shard.to_parquet(str(tmp_path / f"{split}-{number:05d}-of-00003.parquet"))
    found = prepared(f"hf:{tmp_path}", tmp_path / "work")
    assert found.classes == ("nv", "mel")
    assert [len(found.digests), len(found.rows("test"))] == [9, 3]
    assert len(load_table(f"hf:{tmp_path / 'train-00001-of-00003.parquet'}").frame) == 3


@pytest.mark.parametrize(
    ("suffix", "label", "files", "said"),
    [
        ("cls", str, 0, "1 hold images and 0 labels"),
        ("json", lambda _: "{}", 1, "0 labels"),
        ("json", lambda k: json.dumps({"label": "nv"} if k < 8 else {"site": "arm"}), 1, "has the label None"),
        ("cls", lambda _: "melanoma", 1, "cannot be loaded"),
    ],
)
def test_tar_shards_without_labels_are_refused(hugging_face, tmp_path, suffix, label, files, said):
    with pytest.raises(UserError, match=said) as caught:
        load_table(f"hf:{tar_shards(tmp_path / 'shards', suffix, label, files)}")
    assert "\n" not in str(caught.value)


def test_hugging_face_imagefolder(imagefolder, hugging_face, tmp_path, capsys):
    found, same = prepared(f"hf:{imagefolder}", tmp_path), prepared(f"folder:{imagefolder}", tmp_path)
    assert found.classes == same.classes
    assert sorted(found.digests) == sorted(same.digests)
    assert [len(found.rows(split)) for split in ("train", "val", "test")] == [24, 12, 12]
    assert train(tmp_path / "run", data=f"hf:{imagefolder}") == 0
    assert main(["evaluate", str(tmp_path / "run"), "--eps=2/255", "--steps=1", "--device=cpu"]) == 0
    made = hugging_face.load_dataset("imagefolder", data_dir=str(imagefolder), split="train")
    made = made.add_column("group", [f"p{number // 2}" for number in range(len(made))]).add_column("x", [1] * len(made))
    made.save_to_disk(str(tmp_path / "disk"))
    table = load_table(f"hf:{tmp_path / 'disk'}")
    assert table.frame["group"].nunique() == 12
    assert "columns that are not used: x" in table.notes
    assert load_table(made).classes == table.classes  # a dataset of `datasets` is map-style, too
    capsys.readouterr()
    with pytest.raises(UserError, match="0 hold images"):
        load_table(f"hf:{tmp_path / 'run'}")
