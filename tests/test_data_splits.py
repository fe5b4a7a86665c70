from dataclasses import replace

import numpy as np
import pytest

from data_makers import array_table
from dpaat.data.splits import assign_splits, export_splits, import_splits, leaks, parse_fold
from dpaat.errors import UserError


def imbalanced(seed=0, lesions=400):
    random = np.random.default_rng(seed)
    lesion_label = random.choice(4, lesions, p=[0.7, 0.2, 0.08, 0.02])
    lesion_label[:3] = 3
    lesion = np.repeat(np.arange(lesions), random.integers(1, 4, lesions))
    return array_table(lesion_label[lesion].tolist(), [f"L{number}" for number in lesion])


def test_groups_stay_together_and_shares_are_70_10_20():
    table = imbalanced()
    split = assign_splits(table, seed=0)
    assert table.frame.assign(split=split).groupby("group")["split"].nunique().max() == 1
    for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert abs((split == name).mean() - share) < 0.02
        for label in range(4):
            assert ((split == name) & (table.labels == label)).any()


def test_deterministic_and_independent_of_row_order():
    table = imbalanced()
    split = assign_splits(table, seed=3)
    assert (split == assign_splits(table, seed=3)).all()
    assert (split != assign_splits(table, seed=4)).any()
    shuffled = np.random.default_rng(1).permutation(len(table))
    other = replace(table, frame=table.frame.iloc[shuffled].reset_index(drop=True))
    assert (assign_splits(other, seed=3) == split[shuffled]).all()


def test_near_duplicates_and_identical_images_chain_groups():
    ids = [f"img{number:05d}" for number in range(100)]
    pairs = tuple((ids[number], ids[number + 10]) for number in range(0, 10))
    table = array_table([number % 2 for number in range(100)], near_duplicates=pairs)
    digests = [str(number) for number in range(100)]
    for number in range(10):
        digests[number + 50] = digests[number + 10]  # chains pair and copy: number, number + 10, number + 50
    for seed in range(5):
        split = assign_splits(table, seed=seed, digests=digests)
        assert leaks(table, split, digests) == []
        for number in range(10):
            assert split[number] == split[number + 10] == split[number + 50]


def test_every_group_is_tested_in_exactly_one_fold():
    table = imbalanced()
    tested = sum((assign_splits(table, seed=0, fold=f"{k}/5") == "test").astype(int) for k in range(1, 6))
    assert (tested == 1).all()


def test_default_is_fold_one_of_five_when_no_class_is_rare():
    table = array_table([number % 2 for number in range(200)])
    assert (assign_splits(table, seed=0) == assign_splits(table, seed=0, fold="1/5")).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_class_of_three_groups_is_in_every_split(seed):
    table = array_table([0] * 60 + [1] * 3)
    split = assign_splits(table, seed=seed)
    assert set(split[60:]) == {"train", "val", "test"}


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "-1/5", "1", "1/5/5", "a/b", "", "1.0/5", "1/0"])
def test_malformed_fold(text):
    with pytest.raises(UserError, match="k/K"):
        parse_fold(text)


def test_official_split_is_kept_unless_a_fold_is_asked_for():
    official = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    table = array_table([number % 2 for number in range(100)], split=official)
    assert assign_splits(table, seed=5).tolist() == official
    assert assign_splits(table, seed=5, fold="2/5").tolist() != official


def test_val_is_cut_out_of_train_by_groups_where_it_is_missing():
    official = ["train"] * 80 + ["test"] * 20
    table = array_table([number // 2 % 2 for number in range(100)], [f"g{n // 2}" for n in range(100)], split=official)
    split = assign_splits(table, seed=0)
    assert (split[80:] == "test").all()
    assert set(split[:80]) == {"train", "val"}
    assert leaks(table, split) == []
    assert 6 <= (split == "val").sum() <= 14


@pytest.mark.parametrize(("labels", "groups"), [([0, 1], None), ([0, 1] * 10, ["a", "b"] * 10)])
def test_too_few_groups(labels, groups):
    with pytest.raises(UserError, match=r"array: .*(too few|empty)"):
        assign_splits(array_table(labels, groups), seed=0)


def test_more_folds_than_images():
    with pytest.raises(UserError, match="at most 5 folds"):
        assign_splits(array_table([0, 1] * 5), seed=0, fold="1/9")


def test_leaks_name_the_pair_and_the_reason():
    table = array_table([0, 1, 0, 1], ["a", "a", "b", "c"], near_duplicates=(("img00002", "img00003"),))
    split = np.array(["train", "test", "train", "val"])
    found = leaks(table, split, ["x", "y", "y", "z"])
    assert set(found) == {
        ("img00002", "img00003", "near-duplicates"),
        ("img00000", "img00001", "same group"),
        ("img00001", "img00002", "identical images"),
    }


def test_export_and_import(tmp_path):
    table = imbalanced()
    split = assign_splits(table, seed=0)
    path = tmp_path / "splits.csv"
    export_splits(path, table.ids, split)
    assert path.read_text().splitlines()[0] == "id,split"
    assert (import_splits(path, table.ids[::-1]) == split[::-1]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("", "cannot read"),
        ("id\na\n", "no column 'split'"),
        ("id,split\na,train\n", "no split for 1 of 2 images, the first is 'b'"),
        ("id,split\na,train\nb,holdout\n", "unknown split 'holdout'"),
        ("id,split\na,train\na,val\nb,val\n", "'a' is listed twice"),
    ],
)
def test_bad_split_files(tmp_path, content, message):
    path = tmp_path / "splits.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        import_splits(path, ["a", "b"])
    assert str(path) in str(caught.value)
