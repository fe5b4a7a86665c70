"""Kind 11: an image that was learned from is never scored as test."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data_makers import array_table
from dpaat.cli import main
from dpaat.data import PreparedData
from dpaat.data.cache import digest_pixels
from dpaat.data.seen import SEEN, known_images, leave_out
from dpaat.data.splits import read_splits
from dpaat.data.table import SPLITS
from dpaat.evaluation import evaluate_run
from dpaat.interpret import explain_run
from dpaat.report import write_report
from dpaat.training import train
from dpaat.training.setup import learned_before, prepare_data
from seen_makers import QUICK, as_csv, evaluated
from training_makers import fails, make_images, tiny_config


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "run")


@pytest.fixture
def images(tiny_images: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_images, tmp_path / "other" / "images")


def splits(run: Path) -> dict[str, str]:
    frame = pd.read_csv(run / "splits.csv", dtype=str)
    return dict(zip(frame["id"], frame["split"], strict=True))


def add_images(images: Path, count: int = 3) -> None:
    make_images(images.parent / "new", count=60)
    for k in range(count):
        shutil.copy(images.parent / "new" / f"c{k}" / f"{ {0: 56, 1: 57, 2: 58}[k]:03d}.png", images / f"c{k}")


def were(spec: str, ids: set[str]) -> set[str]:
    frame = pd.read_csv(spec.removeprefix("csv:"))
    return set(frame["was"][frame["path"].isin(ids)])


# PlantSeg#11: 83 files stand in two splits, told by their digests.
def test_one_more_image(run, images):
    add_images(images, 1)
    for split, more in (("test", 0), ("all", 1)):
        document = evaluate_run(run, data=f"folder:{images}", split=split, **QUICK)
        entry = next(e for e in document["results"] if e["attack"] == "clean" and e["split"] == split)
        ids = set(pd.read_parquet(run / "predictions.parquet" / entry["predictions"])["id"])
        own = splits(run)
        assert {own[name] for name in ids if name in own} == {"test"}
        assert len([name for name in ids if name in own]) == 11
        assert split == "test" or len(ids) == 11 + more
        assert entry["left_out"] == document["left_out"]
        assert (entry["left_out"]["learned"], entry["left_out"]["related"], entry["left_out"]["by"]) == (
            43,
            0,
            "content",
        )


@pytest.mark.parametrize("suffix", [".png", ".bmp"])  # the same pixels in other files
def test_the_same_images_under_another_spec(run, images, tmp_path, suffix):
    add_images(images)
    spec = as_csv(images, tmp_path / "table" / "all.csv", suffix)
    document = evaluate_run(run, data=spec, split="all", **QUICK)
    ids = evaluated(run, document)[1]
    own = splits(run)
    assert {own.get(name, "new") for name in were(spec, ids)} == {"test", "new"}
    assert len(ids) == 11 + 3
    assert document["left_out"]["learned"] == 43


def test_exactly_the_same_images_under_another_spec_keep_their_splits(run, images, tmp_path):
    spec = as_csv(images, tmp_path / "table" / "all.csv", ".bmp")
    entry, ids = evaluated(run, evaluate_run(run, data=spec, **QUICK))
    assert were(spec, ids) == {name for name, split in splits(run).items() if split == "test"}
    assert entry["left_out"]["own"]


def test_a_new_column_of_groups_ties_test_images_to_training_images(run, images, tmp_path):
    own = splits(run)
    tested = [name for name, split in own.items() if split == "test"]
    learned = [name for name, split in own.items() if split == "train"]
    patients = {tested[0]: "p", learned[0]: "p", tested[1]: "q", tested[2]: "q"}
    spec = as_csv(images, tmp_path / "table" / "all.csv", group=patients)
    entry, ids = evaluated(run, evaluate_run(run, data=spec, **QUICK))
    assert were(spec, ids) == set(tested) - {tested[0]}
    assert entry["left_out"]["related"] == 1


def test_a_group_of_the_same_name_is_left_out():
    table = array_table([0, 1, 0, 1], groups=["ann", "ann", "bob", "img00003"])
    pixels = tuple(f"{k}" for k in range(4))
    trained = PreparedData(
        table, np.zeros((4, 1, 8, 8), np.uint8), np.array(["train", "val", "test", "train"]), "f", pixels, pixels
    )
    known = pd.DataFrame({"id": table.ids, "split": trained.split} | known_images(trained))
    other = array_table([0, 1, 0, 1, 1], groups=["ann", "bob", "carl", "img00003", "x"])
    names = ("a", "b", "c", "d", "0")
    data = PreparedData(other, np.zeros((5, 1, 8, 8), np.uint8), np.full(5, "test"), "g", names, names)
    found, left_out = leave_out(data, known)
    # An image that is its own group says nothing of others: the name of a file may come again elsewhere.
    assert found.split.tolist() == [SEEN, "test", "test", "test", SEEN]
    assert (left_out.learned, left_out.related) == (1, 1)


def test_images_of_other_content_are_kept_though_their_names_are_those_of_training_images(run, tmp_path):
    images = tmp_path / "clinic"
    make_images(images, size=20)
    document = evaluate_run(run, data=f"folder:{images}", split="all", **QUICK)
    assert document["results"][0]["n"] == 54
    assert document["left_out"]["learned"] == 0


def test_nothing_left_is_one_line(run, images, capfd):
    for name, split in splits(run).items():
        if split == "test":
            (images / name).unlink()
    said = fails(capfd, "evaluate", run, f"--data=folder:{images}", "--device=cpu", names=("43 images", "left out"))
    assert "split 'test'" in said
    assert not (run / "evaluation.json").exists()


def test_it_is_said_and_stands_in_the_report(run, images, tmp_path, capfd):
    from dpaat.cli import main

    add_images(images)
    assert main(["evaluate", str(run), f"--data=folder:{images}", "--attack=fgsm", "--eps=1/255", "--device=cpu"]) == 0
    line = "43 images that the model was trained or validated on are left out"
    assert line in capfd.readouterr().out
    for format in ("html", "md"):
        page = write_report([run], tmp_path / f"page.{format}", format=format, images=False).read_text()
        assert line in page


def test_explain_leaves_them_out_too(run, images):
    add_images(images)
    document = explain_run(
        run,
        data=f"folder:{images}",
        split="all",
        maps=["input-gradient"],
        eps=[1 / 255],
        steps=1,
        device="cpu",
        progress=False,
    )
    (entry,) = document["explanations"]
    assert entry["n"] == 11 + 3
    assert entry["left_out"]["learned"] == 43


def older(run: Path) -> None:
    """What an older version has left: no digests."""
    frame = pd.read_csv(run / "splits.csv", dtype=str)
    frame[["id", "split"]].to_csv(run / "splits.csv", index=False)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: v for k, v in info.items() if k not in ("config", "splits_digest")}))


def test_an_older_run_is_checked_by_its_own_images(run, images, tmp_path):
    older(run)
    add_images(images)
    spec = as_csv(images, tmp_path / "table" / "all.csv")
    document = evaluate_run(run, data=spec, split="all", **QUICK)
    assert document["results"][0]["n"] == 11 + 3
    assert document["left_out"]["by"] == "content"


def test_an_older_run_without_its_images_says_that_names_are_all_there_is(run, images, tmp_path, tiny_images):
    older(run)
    config = (run / "config.yaml").read_text().replace(str(tiny_images), str(tmp_path / "gone"))
    (run / "config.yaml").write_text(config)
    add_images(images)
    document = evaluate_run(run, data=f"folder:{images}", split="all", **QUICK)
    assert document["results"][0]["n"] == 11 + 3
    assert document["left_out"]["by"] == "id"
    page = write_report([run], tmp_path / "page.html", images=False).read_text()
    assert "could be found by their ids only" in page


def test_a_source_of_transfer_attacks_must_answer_the_same_classes(run, tiny_images, tmp_path, capfd):
    more = shutil.copytree(tiny_images, tmp_path / "more")
    shutil.copytree(more / "c0", more / "b9")
    for file in (more / "b9").iterdir():
        Image.open(file).rotate(90).save(file)
    source = train(tiny_config(more, method="standard", epochs=1), tmp_path / "source")
    names = ("b9, c0, c1, c2", str(source))
    fails(capfd, "evaluate", run, "--attack=transfer", f"--source={source}", "--device=cpu", names=names)


def test_a_grey_image_is_known_again_as_rgb():
    grey = np.random.default_rng(0).integers(0, 255, (1, 8, 8), dtype=np.uint8)
    assert digest_pixels(grey) == digest_pixels(np.repeat(grey, 3, axis=0))
    assert digest_pixels(grey) != digest_pixels(np.concatenate([grey, grey, 255 - grey]))


# found in our audit: beside other images, weights without their run folder scored training images as test
def test_weights_without_their_run_folder_say_that_images_may_have_been_seen(run, images, tmp_path, capfd):
    alone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    add_images(images, 1)
    given = ["evaluate", "--model=test_resnet", f"--weights={alone}", "--eps=0", "--device=cpu"]
    for number, spec in enumerate((f"folder:{images}", f"folder:{images.parent / 'new'}")):
        out = tmp_path / f"{number}"
        assert main([*given, f"--data={spec}", f"--out={out}"]) == 0
        assert "do not say which images they were trained on" in capfd.readouterr().out
        (entry,) = json.loads((out / "evaluation.json").read_text())["results"]
        assert entry["left_out"]["by"] == "nothing"


# found in our audit: a run that begins with the weights of another split
@pytest.mark.parametrize("copied", [False, True])
def test_weights_that_have_learned_from_test_images(run, tiny_images, tmp_path, copied):
    own = read_splits(run / "splits.csv")["split"].tolist()
    weights = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "w.ckpt") if copied else run
    for seed, warned in ((0, False), (1, True)):
        config = tiny_config(tiny_images, seed=seed, weights=str(weights))
        data = prepare_data(config, progress=False)
        found = learned_before(config, data)
        assert bool(found) is warned
        if not warned:
            assert data.split.tolist() == own
        elif not copied:
            pairs = list(zip(data.split.tolist(), own, strict=True))
            count = sum((now != "train" and was == "train") or (now, was) == ("test", "val") for now, was in pairs)
            assert f"has learned from {count} images" in found[0]
    written = train(tiny_config(tiny_images, seed=1, epochs=1, method="standard", weights=str(weights)), tmp_path / "r")
    assert found[0] in json.loads((written / "run.json").read_text())["data_warnings"]


# found by a user of own images: the data's own split column, changed after the training, was taken for that of then
@pytest.mark.parametrize("older", [False, True])
def test_weights_of_a_split_column_that_was_changed(images, tmp_path, older, capfd):
    own = {file.relative_to(images).as_posix(): SPLITS[n % 3] for n, file in enumerate(sorted(images.rglob("*.png")))}
    spec = as_csv(images, tmp_path / "t" / "t.csv", split=own)
    config = tiny_config(images, data=spec, method="standard", epochs=1)
    weights = train(config, tmp_path / "run") / "checkpoints" / "best.ckpt"
    alone = tmp_path / "alone.ckpt"
    content = torch.load(weights, weights_only=True)
    if older:
        del content["dpaat"]["split_digest"]
    torch.save(content, alone)
    config = tiny_config(images, data=spec, weights=str(alone))
    given = ["evaluate", "--model=test_resnet", f"--weights={alone}", f"--data={spec}", "--eps=0", "--device=cpu"]
    assert main([*given, f"--out={tmp_path / 'same'}"]) == 0
    assert ("do not say which images" in capfd.readouterr().out) is older
    assert bool(learned_before(config, prepare_data(config, progress=False))) is older
    turned = {"train": "test", "val": "train", "test": "val"}
    assert as_csv(images, tmp_path / "t" / "t.csv", split={name: turned[side] for name, side in own.items()}) == spec
    (line,) = learned_before(config, prepare_data(config, progress=False))
    assert "has learned from up to 36 images" in line
    if older:
        assert main([*given, f"--out={tmp_path / 'changed'}"]) == 0
        assert "do not say which images" in capfd.readouterr().out
    else:
        fails(capfd, *given, f"--out={tmp_path / 'changed'}", names=("alone.ckpt", "by a split that it does not hold"))


def test_weights_without_their_run_folder_may_have_learned_from_other_data(run, images, tmp_path):
    alone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    add_images(images, 1)
    config = tiny_config(images, weights=str(alone))
    (line,) = learned_before(config, prepare_data(config, progress=False))
    assert "do not say which images they were trained on" in line


def test_a_file_of_splits_is_compared_with_that_of_the_weights(run, tiny_images, tmp_path):
    alone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    frame = pd.read_csv(run / "splits.csv", dtype=str)[["id", "split"]]
    for swapped, warned in (({}, False), ({"val": "test", "test": "val"}, True)):
        frame.assign(split=frame["split"].replace(swapped)).to_csv(tmp_path / "s.csv", index=False)
        config = tiny_config(tiny_images, weights=str(alone), splits=str(tmp_path / "s.csv"))
        assert bool(learned_before(config, prepare_data(config, progress=False))) is warned
