"""Kind 2: a layout that misses a pattern does not fall through to another meaning."""

import shutil

import numpy as np
import pytest
from PIL import Image

from broken_datasets import class_folders, ham_beside, images, table
from data_makers import jpeg, make_ham, write_csv
from dpaat.cli import main
from dpaat.data import load_table, prepare
from dpaat.data.splits import export_splits, import_splits
from dpaat.errors import UserError


def read(spec):
    return prepare(spec, image_size=8, progress=False)


def pairs(*splits):
    return [f"{split}/{name}" for split in splits for name in "ab"]


# fastai/fastai#2336: classes ['0', ..., '9', 'test']
@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"),
        ("TRAIN", "Dev", "tst"),
        ("trn", "valid", "TEST"),
        ("train ", "validation", "testing"),
    ],
)
def test_splits_in_any_spelling(tmp_path, names):
    table = load_table(f"folder:{images(tmp_path, pairs(*names))}")
    assert table.classes == ("a", "b")
    expected = {"train", "val", "test"} if len(names) == 3 else {"train", "test"}
    assert set(table.frame["split"]) == expected


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "dev"), ("train",)])
def test_train_and_val_without_test(tmp_path, names):
    data = read(f"folder:{images(tmp_path, pairs(*names), count=10)}")
    given = data.table.frame["split"].to_numpy()
    assert data.classes == ("a", "b")
    assert set(data.split) == {"train", "val", "test"}
    assert set(given[data.split == "test"]) == {"train"}
    if len(names) == 2:
        assert ((given == "val") == (data.split == "val")).all()
    assert any("no test split: 4 images of 4 groups" in note for note in data.table.notes)


def test_what_is_cut_from_train_is_cut_by_group(tmp_path):
    columns = {"split": lambda n: "TRN" if n < 40 else "validation", "group": lambda n: f"g{n // 4}"}
    data = read(table(count=52, columns=columns)(tmp_path))
    frame = data.table.frame.assign(side=data.split)
    assert frame.groupby("group")["side"].nunique().max() == 1
    assert set(data.split) == {"train", "val", "test"}
    assert any("no test split" in note for note in data.table.notes)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([*pairs("train"), "benign"], ("train", "benign")),
        ([*pairs("Train", "test"), "unlabelled"], ("Train", "unlabelled")),
        ([*pairs("train", "train ", "test")], ("same split",)),
        ([*pairs("val", "dev", "train")], ("same split", "dev", "val")),
        (pairs("train_images", "test_images"), ("train_images", "split")),
        (pairs("TrainSet", "TestSet"), ("TrainSet", "split")),
        (["fold1/a", "fold2/a", "fold1/b", "fold2/b"], ("fold1", "split")),
        (["a/train", "b/train", "a/test", "b/test"], ("below a class", "test/a")),
        (["chest/train/a", "chest/test/a", "chest/train/b", "chest/test/b"], ("folder:", "chest")),
        (["x/y/a", "x/y/b"], ("folder:", "x/y")),
        (["train/train/a", "train/train/b", "test/test/a", "test/test/b"], ("split",)),
        (["images", "masks"], ("masks",)),
        (["a/images", "a/masks", "b/images", "b/masks"], ("masks", "mask")),
    ],
)
def test_what_could_mean_several_things_is_refused(tmp_path, names, words):
    spec = f"folder:{images(tmp_path, names)}"
    with pytest.raises(UserError) as caught:
        load_table(spec)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_split_of_unlabelled_images_is_refused(tmp_path):
    images(tmp_path, [*pairs("train", "val"), "test"])
    with pytest.raises(UserError, match="test has no class folders"):
        load_table(f"folder:{tmp_path}")


# the archive of chest X-rays on Kaggle: chest_xray/chest_xray beside __MACOSX and the same splits
def test_the_right_folder_of_a_doubled_one_is_named(tmp_path):
    images(tmp_path, [f"{place}{pair}" for place in ("", "chest_xray/") for pair in pairs("train", "val", "test")])
    (tmp_path / "__MACOSX").mkdir()
    with pytest.raises(UserError, match=f"folder:{tmp_path / 'chest_xray'}"):
        load_table(f"folder:{tmp_path}")
    assert load_table(f"folder:{tmp_path / 'chest_xray'}").classes == ("a", "b")


def test_classes_whose_names_only_remind_of_splits(tmp_path):
    assert load_table(class_folders("test positive", "test negative")(tmp_path)).classes == (
        "test negative",
        "test positive",
    )


# open-mmlab/mmpretrain#507: '.ipynb_checkpoints' became a class; pytorch/vision#109
@pytest.mark.parametrize("name", ["__MACOSX", ".ipynb_checkpoints", "@eaDir", "System Volume Information"])
def test_folders_of_the_operating_system_are_no_classes(tmp_path, name):
    assert load_table(f"folder:{images(tmp_path, ['a', 'b', name, f'a/{name}'])}").classes == ("a", "b")
    assert len(load_table(f"folder:{tmp_path}")) == 12


def test_masks_beside_their_images_are_not_read_as_images(tmp_path):
    images(tmp_path, ["a", "b"])
    Image.new("L", (12, 10)).save(tmp_path / "a" / "0003_mask.png")
    with pytest.raises(UserError, match=r"0003_mask\.png looks like a mask"):
        load_table(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    "name",
    [
        "HAM10000_images_hair_removed",
        "HAM10000_images_224",
        "HAM10000_images_part_1_resized",
        "images_resized",
        "HAM10000_segmentations_lesion_tschandl_224",
    ],
)
def test_other_versions_of_ham10000_are_not_read_in_its_place(tmp_path, name):
    table = load_table(ham_beside(name)(tmp_path))
    assert all(table.read(row) == jpeg(row) for row in range(len(table)))
    assert any(name in note for note in table.notes)


def test_another_version_alone_is_named(tmp_path):
    folder = make_ham(tmp_path / "d", lesions=14, layout="images")
    (folder / "images").rename(folder / "HAM10000_images_224")
    with pytest.raises(UserError, match=r"absent.*HAM10000_images_224"):
        load_table(f"ham10000:{folder}")


def test_one_image_in_two_versions_is_refused(tmp_path):
    folder = make_ham(tmp_path / "d", lesions=14)
    shutil.copytree(folder / "HAM10000_images_part_1", folder / "images")
    load_table(f"ham10000:{folder}")  # the same files twice
    image = next((folder / "images").iterdir())
    image.write_bytes(jpeg(500, (20, 20)))
    with pytest.raises(UserError, match=f"{image.stem}: two different images"):
        load_table(f"ham10000:{folder}")


def test_a_file_of_splits_has_the_same_names(tmp_path):
    path = write_csv(tmp_path / "s.csv", [{"id": f"{n}", "split": s} for n, s in enumerate(("Training", "dev", "tst"))])
    assert import_splits(path, ["0", "1", "2"]).tolist() == ["train", "val", "test"]
    path.write_text("id;split\n0;train\n1;val\n2;test\n", encoding="utf-16")
    assert import_splits(path, ["2", "0"]).tolist() == ["test", "train"]
    export_splits(path, [" a", "NA"], ["train", "val"])
    assert import_splits(path, ["NA", " a"]).tolist() == ["val", "train"]


def test_a_dataset_that_is_not_there_is_no_broken_one(tmp_path, capsys):
    assert main(["data", "check", f"folder:{tmp_path / 'nowhere'}"]) == 2
    assert main(["data", "check", class_folders("train", "benign")(tmp_path)]) == 1
    assert np.all(["problem" in line for line in capsys.readouterr().out.splitlines()])
