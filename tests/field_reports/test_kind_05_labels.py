"""Kind 5: equal labels in other spelling are one class, or an error."""

from pathlib import Path

import numpy as np
import pytest
import torch

from broken_datasets import class_folders, images, labels, table
from data_makers import array_table
from dpaat.data import load_table, prepare
from dpaat.data.frames import class_order, is_missing
from dpaat.data.table import in_order
from dpaat.errors import UserError
from dpaat.evaluation.target import target_of_run
from dpaat.runs import open_run
from dpaat.storage import read_json, write_json
from dpaat.training import train
from training_makers import tiny_config

TWINS = [
    ("1", "1.0"),
    ("1", "01"),
    ("1", "+1"),
    ("0.5", "5e-1"),
    ("Benign", "benign"),
    ("lung opacity", "lung  opacity"),
    ("lung opacity", "lung_opacity"),
    ("lung opacity", "lung-opacity"),
    ("non-tumour", "non\u2010tumour"),
    ("lung opacity", "lung\u00a0opacity"),
    ("mel", "m\u200bel"),
    ("na\u0308vus", "n\u00e4vus"),
    ("stra\u00dfe", "STRASSE"),
    ("1", "\uff11"),
]


@pytest.mark.parametrize("pair", TWINS)
def test_labels_that_differ_in_spelling_only(tmp_path, pair):
    with pytest.raises(UserError, match="differ in spelling only"):
        load_table(labels("other", *pair)(tmp_path))


@pytest.mark.parametrize("pair", [("A", "a"), ("benign", "benign "), ("1", "1.0"), ("na\u0308vus", "n\u00e4vus")])
def test_folders_that_differ_in_spelling_only(tmp_path, pair):
    with pytest.raises(UserError, match="differ in spelling only"):
        load_table(class_folders("other", *pair)(tmp_path))
    images(tmp_path / "s", [f"train/{pair[0]}", "train/x", f"test/{pair[1]}", "test/x"])
    with pytest.raises(UserError, match="differ in spelling only"):
        load_table(f"folder:{tmp_path / 's'}")


def test_labels_that_differ_in_blanks_at_their_ends_are_one_class(tmp_path):
    assert load_table(labels("benign", " benign", "benign\u00a0", "malignant")(tmp_path)).classes == (
        "benign",
        "malignant",
    )


@pytest.mark.parametrize(
    "pair",
    [
        ("1", "11"),
        ("1", "-1"),
        ("T1-2", "T12"),
        ("HER2+", "HER2-"),
        ("a, c", "a"),
        ("1.0", "1.5"),
        ("T1", "T1a"),
        ("none", "mild"),
        ("+", "-"),
    ],
)
def test_labels_that_do_differ(tmp_path, pair):
    assert set(load_table(labels(*pair)(tmp_path)).classes) == set(pair)


# pytorch/vision#714: folders 1 to 100 in the order 1, 10, 100, 11; CSAILVision/places365#22
@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10.0", "2.0", "0.0", "1.0", "11.0"], ["0.0", "1.0", "2.0", "10.0", "11.0"]),
        (["10", "9", "-1", "0.5"], ["-1", "0.5", "9", "10"]),
        (["10,5", "9,5"], ["9,5", "10,5"]),
        (["1e2", "20"], ["20", "1e2"]),
        (["grade 10", "grade 2"], ["grade 10", "grade 2"]),
        (["10", "2", "x"], ["10", "2", "x"]),
        (["b", "B1", "a"], ["B1", "a", "b"]),
    ],
)
def test_numbers_sort_as_numbers(tmp_path, names, order):
    assert class_order(names) == tuple(order)
    table = load_table(labels(*names)(tmp_path / "csv"))
    assert table.classes == tuple(order)
    assert table.classes[table.labels[0]] == names[0]
    assert load_table(class_folders(*names)(tmp_path / "d")).classes == tuple(order)
    assert any("numerical order" in note for note in table.notes) == (sorted(order) != order)


# keras-team/keras-preprocessing#57: KeyError: nan
@pytest.mark.parametrize(
    "text", ["", "nan", "NaN", "NAN", "NA", "n/a", "N/A", "null", "NULL", "None", "<NA>", "#N/A", "?"]
)
def test_missing_labels_are_refused_with_their_rows(tmp_path, text):
    with pytest.raises(UserError, match=r"rows 4, 7, 10, 13, 16 and 3 more: label is empty or missing"):
        load_table(labels("x", "y", text)(tmp_path))


def test_rows_are_lines_of_the_file(tmp_path):
    path = load_table(labels("x", "y")(tmp_path)).spec.removeprefix("csv:")
    with Path(path).open("a") as file:
        file.write("\n\n\nimg/0001.jpg,nan\n")
    with pytest.raises(UserError, match="row 29: label"):
        load_table(f"csv:{path}")


@pytest.mark.parametrize("text", ["nan", "", "NA"])
def test_missing_groups_do_not_make_one_group(tmp_path, text):
    found = load_table(table(columns={"group": lambda n: f"p{n // 2}" if n < 12 else text})(tmp_path))
    assert found.frame["group"].nunique() == 6 + 12
    assert any(note.startswith("12 of 24 images have no group") for note in found.notes)


@pytest.mark.parametrize("pair", [("17", "17.0"), ("P1", "p1")])
def test_groups_and_subgroups_in_two_spellings_are_named(tmp_path, pair):
    columns = {"group": lambda n: pair[n] if n < 2 else f"g{n}", "sex": lambda n: ("F", "f", "M", "nan")[n % 4]}
    found = load_table(table(columns=columns)(tmp_path))
    assert any(line.startswith(f"groups {pair[0]!r} and {pair[1]!r}") for line in found.warnings)
    assert any(line.startswith("sex 'F' and 'f'") for line in found.warnings)
    assert found.frame["sex"][3] == "unknown"


def test_words_that_are_not_missing():
    assert not any(map(is_missing, ["none", "0", "-", "+", "negative", "nano", "normal"]))


def test_classes_in_another_order_keep_their_images():
    table = array_table([0, 1, 2, 1])
    turned = in_order(table, ("c2", "c0", "c1"))
    assert [turned.classes[label] for label in turned.labels] == [table.classes[label] for label in table.labels]
    assert in_order(table, ("c0", "c1")) is table


def test_an_old_run_keeps_its_class_order(tmp_path):
    """Its classes were sorted as text: 0.0, 1.0, 10.0, 2.0."""
    names = ["0.0", "1.0", "2.0", "10.0"]
    spec = f"folder:{images(tmp_path / 'd', names, count=8)}"
    run = train(tiny_config(tmp_path / "d", epochs=1), tmp_path / "run")
    assert read_json(run / "run.json")["classes"] == names
    old = prepare(spec, image_size=32, classes=sorted(names), progress=False)
    info = read_json(run / "run.json")
    counts = {name: info["train_counts"][name] for name in sorted(names)}
    info |= {"classes": sorted(names), "train_counts": counts, "fingerprint": old.fingerprint}
    write_json(run / "run.json", info)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save({name: value for name, value in best.items() if name != "dpaat"}, run / "checkpoints" / "best.ckpt")
    data = open_run(run).prepare(progress=False)
    assert data.classes == tuple(sorted(names))
    for given in (None, spec):
        target = target_of_run(run, data=given, device="cpu", progress=False)
        _, known = target.view(target.data, np.arange(len(target.data.labels)))
        assert [target.classes[label] for label in known] == [name.split("/")[0] for name in target.data.ids]
        assert (target.data.split == data.split).all()
