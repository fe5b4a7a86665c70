"""Several labels an image: data, losses, attacks, scores and DPAAT's criterion."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from broken_models import masking_checks
from dpaat.attacks import find_attack
from dpaat.attacks.losses import cross_entropy, fooled, kl_divergence, label_losses, label_weights, margin, weighing
from dpaat.benchmark.archive import _pack, _unpack
from dpaat.benchmark.outcomes import Outcome, scores_of
from dpaat.config import TrainConfig
from dpaat.data import load_table, prepare
from dpaat.data.label_sets import as_text, from_text
from dpaat.data.splits import assign_splits, refusals
from dpaat.data.table import in_order
from dpaat.errors import UserError
from dpaat.evaluation.labels import choose_thresholds, label_metrics
from dpaat.evaluation.metrics import classification_metrics
from dpaat.evaluation.replicates import Predictions, find_fold
from dpaat.evaluation.resampling import SCORES, resampled_scores
from dpaat.evaluation.specs import AttackSpec
from dpaat.evaluation.statistics import intervals, paired_difference
from dpaat.evaluation.subgroups import subgroups
from dpaat.evaluation.suite import Cascade, evaluate_model
from dpaat.methods import MethodContext, build_method, find_method
from dpaat.methods.imbalance import learning_loss
from dpaat.methods.teacher import SelfTeacher
from dpaat.perturbation import AdaptivePerturbation
from dpaat.thresholds import LabelMeans, mean
from dpaat.training import train

RNG = np.random.default_rng(5)
Y = torch.tensor([[1, 0, -1], [0, 0, 1], [1, 1, 1], [-1, -1, -1]], dtype=torch.int8)
Z = torch.tensor([[2.0, -1.0, 9.0], [0.5, -2.0, -0.1], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])


def chest_file(path, count=60, labels=14, **changes):
    arrays = {}
    for split, n in (("train", count), ("val", count // 2), ("test", count // 2)):
        y = (RNG.random((n, labels)) < np.linspace(0.6, 0.3, labels)).astype(np.uint8)
        arrays |= {f"{split}_images": RNG.integers(0, 255, (n, 28, 28), dtype=np.uint8), f"{split}_labels": y}
    np.savez(path, **arrays | changes)
    return path


def table_file(folder, text):
    for number in range(9):
        Image.fromarray(RNG.integers(0, 255, (9, 9), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "list.csv").write_text(text)
    return f"csv:{folder / 'list.csv'}"


# Data


def test_chestmnist_has_14_labels_and_its_own_splits(tmp_path):
    table = load_table(f"medmnist:chestmnist:{chest_file(tmp_path / 'c.npz')}")
    assert table.multilabel
    assert table.labels.shape == (120, 14)
    assert table.labels.dtype == np.int8
    assert table.classes[0] == "atelectasis"
    assert table.classes[13] == "hernia"
    assert (assign_splits(table, seed=0) == table.frame["split"]).all()


def test_unknown_files_of_several_columns_are_labels_too(tmp_path):
    table = load_table(f"medmnist:mine:{chest_file(tmp_path / 'c.npz', labels=3)}")
    assert table.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pathmnist", {}, "one class an image"),
        ("chestmnist", {"val_labels": np.zeros((30, 3), np.uint8)}, "differ in how many labels"),
        ("mine", {"train_labels": np.full((60, 14), 2, np.uint8)}, "0, 1 or -1"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, changes, message):
    with pytest.raises(UserError, match=message):
        load_table(f"medmnist:{name}:{chest_file(tmp_path / 'c.npz', **changes)}")


@pytest.mark.parametrize(("uncertain", "value"), [("", -1), (",uncertain=zeros", 0), (",uncertain=ones", 1)])
def test_a_column_for_each_label(tmp_path, uncertain, value):
    rows = "path,edema,mass,age\n0.png,1,0,50\n1.png,-1,1,60\n2.png,,0.0,\n3.png,1.0,1,70\n"
    table = load_table(table_file(tmp_path, rows) + ",labels=edema+mass" + uncertain)
    assert table.labels.tolist() == [[1, 0], [value, 1], [0, 0], [1, 1]]
    assert table.classes == ("edema", "mass")
    assert any("1 empty" in note for note in table.notes)
    assert any("1 uncertain" in note for note in table.notes)
    assert "age" in table.frame


def test_names_with_separators(tmp_path):
    rows = "path,findings,patient\n0.png,Mass|Edema,a\n1.png,No Finding,a\n2.png,Edema ; Nodule,b\n3.png,,c\n"
    table = load_table(table_file(tmp_path, rows) + ",labels=findings,group=patient")
    assert table.classes == ("Edema", "Mass", "Nodule")
    assert table.labels.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert table.frame["group"].nunique() == 3
    assert any("2 images have none" in note for note in table.notes)


def test_a_label_is_not_taken_for_a_column_of_groups(tmp_path):
    cells = ("1,1,a", "0,0,a", "1,1,b", "0,-1,b", "1,0,c", "0,1,c")
    rows = "\n".join(["path,edema,nodule,lesion", *(f"{number}.png,{cell}" for number, cell in enumerate(cells))])
    spec = table_file(tmp_path, rows) + ",labels=edema+nodule"
    (line,) = load_table(spec).warnings
    assert "column 'lesion' looks like" in line
    (tmp_path / "list.csv").write_text(rows.replace(",lesion", ",site"))
    assert load_table(spec).warnings == ()


@pytest.mark.parametrize("nothing", ["", "nan", "NaN", "None", "N/A", "NA", "null", "<NA>", "#N/A"])
def test_missing_values_are_no_labels(tmp_path, nothing):
    rows = f"path,findings\n0.png,Mass\n1.png,{nothing}\n2.png,Edema|{nothing}\n3.png,{nothing}\n"
    table = load_table(table_file(tmp_path, rows) + ",labels=findings")
    assert table.classes == ("Edema", "Mass")
    assert table.labels.tolist() == [[0, 1], [0, 0], [1, 0], [0, 0]]
    assert any("2 images have none" in note for note in table.notes)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("path,edema,mass\n0.png,1,2\n", ",labels=edema+mass", "row 2: mass is '2'"),
        ("path,edema,mass\n0.png,1,0\n1.png,-1,1\n", "", r"labels=edema\+mass"),
        ("path,edema\n0.png,1\n1.png,0\n", ",labels=edema", "call it label"),
        ("path,findings\n0.png,\n1.png,nan\n", ",labels=findings", r"0 class\(es\)"),
        ("path,edema,mass\n0.png,1,0\n", ",labels=edema+mas", "no column 'mas'"),
        ("path,edema,mass\n0.png,1,0\n", ",labels=edema+mass,uncertain=maybe", "uncertain"),
        ("path,label\n0.png,a\n1.png,b\n", ",uncertain=ones", "uncertain= is for columns"),
        ("path,findings\n0.png,a|b\n1.png,a\n", ",labels=findings,uncertain=ones", "uncertain= is for columns"),
        ("path,edema,mass\n0.png,1,0\n", ",labels=edema+mass+edema", "'edema' twice"),
        ("path,label\n0.png,a\n1.png,b\n", ",labels=", "labels= names no column"),
        ("path,label,a,b\n0.png,a,1,1\n1.png,b,1,2\n", ",group=a,group=b", "group is given twice"),
        ("path,label\n0.png,a|b\n1.png,a\n", "", "labels=label"),
        ("path,labels\n0.png,a=?|b\n1.png,b\n", ",labels=labels", "another name"),
    ],
)
def test_tables_that_are_refused(tmp_path, rows, options, message):
    with pytest.raises(UserError, match=message):
        load_table(table_file(tmp_path, rows) + options)


def test_no_group_on_two_sides_and_labels_alike_on_each():
    table = load_table("synthetic:600,labels=multi")
    assert pd.Series(assign_splits(table, seed=0)).groupby(table.frame["group"]).nunique().max() == 1
    table = replace(table, frame=table.frame.drop(columns="split"))
    split = assign_splits(table, seed=0)
    assert pd.Series(split).groupby(table.frame["group"]).nunique().max() == 1
    yes = table.labels == 1
    shares = {name: float((split == name).mean()) for name in ("train", "val", "test")}
    assert shares["train"] == pytest.approx(0.7, abs=0.02)
    for name, share in shares.items():
        of_labels = yes[split == name].sum(axis=0) / yes.sum(axis=0)
        assert np.abs(of_labels - share).max() < 0.06
    folds = np.array([assign_splits(table, seed=0, fold=f"{k}/3") == "test" for k in (1, 2, 3)])
    assert (folds.sum(axis=0) == 1).all()
    shuffled = table.frame.sample(frac=1, random_state=1)
    again = assign_splits(replace(table, frame=shuffled.reset_index(drop=True)), seed=0)
    assert dict(zip(shuffled["id"], again, strict=True)) == dict(zip(table.ids, split, strict=True))


def test_a_label_that_no_image_lacks_cannot_be_learned():
    table = load_table("synthetic:60,labels=2")
    table.frame["label"] = [(1, label[1]) for label in table.frame["label"]]
    assert "spot" in refusals(table, np.full(60, "train"))[1]


def test_the_embedded_set_is_frozen(tmp_path):
    data = prepare("synthetic:60,labels=multi", image_size=32, progress=False, cache_dir=tmp_path)
    assert data.fingerprint == "3aa6c560d7554fe9"
    assert load_table("synthetic:60,labels=5").labels.shape == (60, 5)
    with pytest.raises(UserError, match="labels"):
        load_table("synthetic:60,labels=15")


def test_labels_as_text_and_in_another_order():
    labels, classes = Y.numpy(), ("a", "b", "c")
    assert as_text(labels, classes) == ["a|c=?", "c", "a|b|c", "a=?|b=?|c=?"]
    assert as_text(np.zeros((1, 3), np.int8), classes) == ["no label"]
    assert (from_text([*as_text(labels, classes), "no label"], classes)[:4] == labels).all()
    table = load_table("synthetic:60,labels=3")
    other = in_order(table, table.classes[::-1])
    assert (other.labels == table.labels[:, ::-1]).all()


# Losses and attacks


def test_cross_entropy_is_the_mean_over_known_labels():
    expected = F.binary_cross_entropy_with_logits(Z[0, :2], torch.tensor([1.0, 0.0]))
    assert float(cross_entropy(Z, Y)[0]) == pytest.approx(float(expected))
    assert float(cross_entropy(Z, Y)[3]) == 0.0
    assert margin(Z, Y).tolist()[:3] == pytest.approx([-1.0, 0.5, -1.0])
    assert fooled(Z, Y).tolist() == [False, True, False, False]


def test_one_label_is_the_question_of_two_classes():
    z, y = torch.randn(8, 1), torch.arange(8) % 2
    two = torch.cat([torch.zeros_like(z), z], 1)
    of_label = y[:, None].to(torch.int8)
    assert torch.allclose(cross_entropy(z, of_label), cross_entropy(two, y))
    assert torch.equal(fooled(z, of_label), fooled(two, y))
    assert torch.allclose(
        kl_divergence(z, z + 1, torch.ones_like(z)), kl_divergence(two, two + torch.tensor([0.0, 1.0]))
    )
    labels = torch.tensor([0, 0, 0, 1] * 3)
    for imbalance in ("none", "balanced-softmax", "weights"):
        one = learning_loss(imbalance, labels, 2)(two, y)
        assert torch.allclose(learning_loss(imbalance, labels[:, None].to(torch.int8), 1)(z, of_label), one)


def test_imbalance_of_labels():
    labels = torch.tensor([[1, 0], [0, 0], [0, 0], [0, 1]], dtype=torch.int8)
    z = torch.randn(4, 2)
    expected = F.binary_cross_entropy_with_logits(
        z, labels.float(), pos_weight=torch.tensor([3.0, 3.0]), reduction="none"
    )
    assert torch.allclose(learning_loss("pos-weight", labels, 2)(z, labels), expected.mean(1))
    p = z.sigmoid()
    q = (p - 0.05).clamp(min=0)
    asymmetric = torch.where(labels == 1, -p.log(), -(q**4) * (1 - q).log()).mean(1)
    assert torch.allclose(learning_loss("asymmetric", labels, 2)(z, labels), asymmetric, atol=1e-6)
    with pytest.raises(UserError, match="sampler"):
        learning_loss("sampler", labels, 2)
    with pytest.raises(UserError, match="pos-weight is for several labels"):
        learning_loss("pos-weight", torch.tensor([0, 1]), 2)


def network(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, classes))


@pytest.mark.parametrize(
    "name", ["fgsm", "pgd", "pgd-margin", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square", "ddn"]
)
def test_attacks_turn_answers_within_the_ball(name):
    model, x = network(), torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    y = (model(x) > 0).to(torch.int8)
    y[0, 0], y[1] = -1, -1
    norm = "l2" if name == "ddn" else "linf"
    options = {} if name == "fgsm" else {"steps": 200 if name == "square" else 20}
    eps = 2.0 if norm == "l2" else 0.3
    x_adv = find_attack(name).function(
        model, x, y, eps=eps, norm=norm, generator=torch.Generator().manual_seed(0), **options
    )
    assert float((x_adv - x).flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2).max()) <= eps * 1.001
    assert not fooled(model(x), y).any()
    assert int(fooled(model(x_adv), y).sum()) >= 8
    assert not bool(fooled(model(x_adv), y)[1])


def test_unknown_labels_are_not_attacked():
    model, x = network(), torch.rand(6, 3, 4, 4)
    y = torch.full((6, 3), -1, dtype=torch.int8)
    y[:, 1] = (model(x)[:, 1] > 0).to(torch.int8)
    alone = nn.Sequential(*model[:3], nn.Linear(16, 1))
    alone[3].weight.data, alone[3].bias.data = model[3].weight.data[1:2], model[3].bias.data[1:2]
    pgd = find_attack("pgd").function
    assert torch.equal(
        pgd(model, x, y, eps=0.1, steps=5), pgd(Twice(alone), x, y[:, 1].repeat(2, 1).T, eps=0.1, steps=5)
    )


def test_positives_and_negatives_of_a_label_are_attacked_alike():
    labels = torch.tensor([[1, 0], [0, 0], [0, 1], [0, -1]], dtype=torch.int8)
    weights = label_weights(labels)
    assert torch.allclose(weights, torch.tensor([[2.0, 3 / 2], [4 / 6, 3 / 4]]))
    of_each = label_losses(z := torch.randn(4, 2), labels)
    with weighing(weights):
        assert torch.allclose(cross_entropy(z, labels)[0], (2 * of_each[0, 0] + 0.75 * of_each[0, 1]) / 2)
        assert torch.allclose(cross_entropy(z, labels)[3], 2 / 3 * of_each[3, 0])
        assert torch.allclose(
            cross_entropy(z, labels[:, 0].long()), F.cross_entropy(z, labels[:, 0].long(), reduction="none")
        )
    assert torch.allclose(cross_entropy(z, labels)[0], of_each[0].mean())
    assert label_weights(torch.tensor([0, 1])) is None


class Raised(nn.Module):
    """A pixel for each label, and a last one that raises the logits of all."""

    def forward(self, x):
        x = x.flatten(1)
        return 4 * x[:, :-1] + 12 * x[:, -1:] - 8


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-ce"])
def test_attacks_lower_auroc_where_most_labels_are_negative(name):
    # An attack on the plain mean raises all logits, and with them no image's place in the order.
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(120, 8, generator=generator) < 0.1).to(torch.int8)
    x = torch.cat([0.3 + 0.4 * (labels + torch.rand(120, 8, generator=generator)) / 2, torch.full((120, 1), 0.5)], 1)
    spec = AttackSpec(name, None if name == "fgsm" else 5)
    common = {"classes": "abcdefgh", "radii": [0.02], "specs": [spec], "progress": False}
    clean, attacked = evaluate_model(Raised(), x.reshape(120, 1, 3, 3).numpy(), labels.numpy(), **common)
    plain = find_attack(name).function(Raised(), x.reshape(120, 1, 3, 3), labels, eps=0.02)
    unweighed = label_metrics(labels.numpy(), labels.numpy(), "abcdefgh", Raised()(plain).numpy())["auroc"]
    assert clean.metrics["auroc"] > 0.85
    assert attacked.metrics["auroc"] < unweighed - 0.15


class Twice(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).repeat(1, 2)


def test_a_label_falls_with_the_first_attack_that_turns_it_and_an_image_with_the_first_label():
    labels = np.array([[1, 0], [1, -1], [0, 0]], np.int8)
    cascade = Cascade(labels, np.array([[1, 1], [1, 1], [1, 1]], np.int8))  # the last has no right answer
    assert cascade.fell.tolist() == [np.inf, np.inf, 0.0]
    cascade.note("A", np.arange(2), np.array([[1, 0], [0, 0]], np.int8), 0.2)
    cascade.note("B", np.arange(1), np.array([[0, 0]], np.int8), np.array([0.1]))
    predicted, by = cascade.at(0.15)
    assert predicted[0].tolist() == [0, 1]
    assert by.tolist() == ["B", "", "clean"]
    assert cascade.at(0.2)[1].tolist() == ["B", "A", "clean"]
    assert cascade.fell.tolist() == [0.1, 0.2, 0.0]


# Scores


def some_labels(n=80, k=4):
    rng = np.random.default_rng(3)
    labels = (rng.random((n, k)) < np.linspace(0.5, 0.15, k)).astype(np.int8)
    logits = rng.normal(size=(n, k)) + 1.5 * labels
    logits = np.round(logits, 1)  # ties
    labels[rng.random((n, k)) < 0.1] = -1
    return labels, logits


def test_auroc_and_map_are_scikit_learns():
    labels, logits = some_labels()
    classes = ("a", "b", "c", "d")
    found = label_metrics(logits > 0, labels, classes, logits)
    known = [labels[:, k] >= 0 for k in range(4)]
    each = [(labels[known[k], k], logits[known[k], k]) for k in range(4)]
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(y, z) for y, z in each]), abs=1e-12)
    assert found["map"] == pytest.approx(np.mean([average_precision_score(y, z) for y, z in each]), abs=1e-12)
    assert found["per_class_recall"]["a"] == pytest.approx((each[0][1] > 0)[each[0][0] == 1].mean())
    scores = resampled_scores(logits > 0, labels, logits, np.arange(80) // 2)
    assert scores[:, 0] == pytest.approx([found[name] for name in SCORES], abs=1e-9)
    weights = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40))[np.arange(80) // 2]
    for number, score in ((2, average_precision_score), (3, roc_auc_score)):
        expected = [score(y, z, sample_weight=weights[known[k]]) for k, (y, z) in enumerate(each)]
        assert scores[number, 1] == pytest.approx(np.mean(expected), abs=1e-9)
    y, z = some_labels(40)
    whole = label_metrics(z > 0, np.abs(y), classes, z)  # macro, without unknown labels, in one call
    assert whole["auroc"] == pytest.approx(roc_auc_score(np.abs(y), z, average="macro"), abs=1e-12)
    assert whole["map"] == pytest.approx(average_precision_score(np.abs(y), z, average="macro"), abs=1e-12)


def test_thresholds_maximize_sensitivity_and_specificity():
    labels, logits = some_labels()
    at = choose_thresholds(logits, labels)
    for k in range(4):
        y, z = labels[labels[:, k] >= 0, k] == 1, logits[labels[:, k] >= 0, k]
        youden = [(z > t)[y].mean() + (z <= t)[~y].mean() for t in [at[k], *(np.unique(z) + 0.05), z.min() - 1]]
        assert youden[0] == pytest.approx(max(youden))
    assert choose_thresholds(logits[:, :1], np.ones((80, 1), np.int8)).tolist() == [0.0]


def test_intervals_hold_their_scores_and_differences_are_paired():
    labels, logits = some_labels()
    groups, ids = np.arange(80) // 2, np.arange(80).astype(str)
    found = intervals((logits > 0).astype(np.int8), expit(logits), labels, groups, tuple("abcd"))
    scores = label_metrics(logits > 0, labels, tuple("abcd"), logits)
    for name in ("accuracy", "balanced_accuracy", "map"):
        low, high = found[name]
        assert low < scores[name] < high
        assert high - low < 0.35
    runs = [
        Predictions(ids, labels, groups, (z > 0).astype(np.int8), expit(z), tuple("abcd"))
        for z in (logits, logits, logits - 2 * labels)
    ]
    same = paired_difference(runs[:1], runs[1:2])["map"]
    assert (same["difference"], same["interval"], same["p_value"]) == (0.0, [0.0, 0.0], 1.0)
    worse = paired_difference(runs[2:], runs[:1])["map"]
    assert worse["interval"][1] < 0
    assert worse["p_value"] < 0.01


def test_one_patient_tells_nothing_of_others():
    labels, logits = some_labels()
    ids, groups = np.arange(80).astype(str), np.zeros(80, np.int64)
    runs = [
        Predictions(ids, labels, groups, (z > 0).astype(np.int8), expit(z), tuple("abcd"))
        for z in (logits, logits, logits - 2 * labels)
    ]
    worse = paired_difference(runs[2:], runs[:1])["map"]
    assert worse["difference"] < -0.1
    assert worse["interval"][0] < 0 < worse["interval"][1]
    assert worse["p_value"] > 0.05
    same = paired_difference(runs[:1], runs[1:2])["map"]
    assert (same["difference"], same["interval"], same["p_value"]) == (0.0, [0.0, 0.0], 1.0)


def test_published_outcomes_keep_all_that_scores_are_made_of():
    labels, logits = some_labels()
    ids, groups, classes = np.arange(80).astype(str), (np.arange(80) // 2).astype(str), list("abcd")
    folds = [
        find_fold(Predictions(ids, labels, groups, (z > 0).astype(np.int8), scores, classes))
        for z in (logits, logits - labels)
        for scores in (expit(z), None)
    ]
    eps = 4 / 255
    outcome = Outcome(folds[0], {eps: folds[3]}, {eps: folds[2]})
    again = _unpack("main", _pack("main", outcome), classes, [eps])
    found = scores_of(again, [eps])
    assert found == scores_of(outcome, [eps])
    clean = label_metrics(logits > 0, labels, classes, logits)
    assert found["map"] == pytest.approx(clean["map"])
    assert found["map@4/255"] < found["map"]
    assert found["auroc"] == pytest.approx(clean["auroc"])
    assert found["auroc@4/255"] < found["auroc"]
    assert found["area"] == pytest.approx((found["balanced_accuracy"] + found["balanced_accuracy@4/255"]) / 2)


def test_subgroups_compare_within_labels():
    labels, logits = some_labels(200)
    right = (logits > 0) == (labels == 1)
    sex = np.where(np.arange(200) % 2, "f", "m")
    right[sex == "f"] &= RNG.random((100, 4)) < 0.5
    found = subgroups(pd.DataFrame({"sex": sex}), right, labels, np.arange(200), tuple("abcd"))["sex"]
    assert found["f"]["excess_interval"][1] < 0 < found["m"]["excess_interval"][0]
    assert found["f"]["per_class"]["a"]["n"] == (labels[sex == "f", 0] == 1).sum()


def test_classes_given_as_labels_rank_models_alike():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 120)
    columns = np.eye(4, dtype=np.int8)[y]
    models = [rng.normal(size=(120, 4)) + strength * columns for strength in (0.5, 1, 2, 3)]
    classes = tuple("abcd")
    as_classes = [classification_metrics(torch.tensor(z).softmax(1), torch.tensor(y), classes)["map"] for z in models]
    as_labels = [label_metrics(z > 0, columns, classes, z)["map"] for z in models]
    assert np.argsort(as_classes).tolist() == np.argsort(as_labels).tolist()


def test_any_module_is_evaluated():
    x, model = (255 * torch.rand(16, 3, 4, 4)).byte().numpy(), network()
    labels = (model(torch.from_numpy(x).float() / 255) > 0).numpy().astype(np.int8)
    budget = {"pgd": 2, "apgd-ce": 2, "apgd-t": 2, "fab-t": 2, "square": 5}
    found = evaluate_model(model, x, labels, classes="abc", radii=[0.1], steps=budget, progress=False)
    clean, worst = found[0], found[-1]
    assert clean.metrics["exact"] == 1.0
    assert worst.predicted.shape == (16, 3)
    assert worst.metrics["standing"] == pytest.approx(worst.metrics["exact"])
    assert worst.metrics["accuracy"] <= min(result.metrics["accuracy"] for result in found[:-1])
    with pytest.raises(UserError, match="several labels"):
        evaluate_model(model, x, labels[:, :2], classes="abc", radii=[0.1], progress=False)


def test_masking_is_judged_by_right_answers_turned():
    x = (255 * torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(2))).byte().numpy()
    model = network()
    labels = (model(torch.from_numpy(x).float() / 255) > 0).numpy().astype(np.int8)
    labels[::4] = 1 - labels[::4]  # every fourth has no right answer
    found = {
        check.name: check
        for check in masking_checks(
            model, x, labels, classes="abc", eps=0.3, steps=5, queries=30, max_samples=40, progress=False
        )
    }
    assert found["predictions"].values["correct"] == 30
    assert found["gradient"].verdict == "pass"
    assert found["large radius"].values["limit"] == 0.5
    assert found["large radius"].values["balanced_accuracy"] < 0.2
    assert found["black box"].values["images"] == 30
    assert max(found["targets"].values["fallen"]) > 3


# The criterion


def test_thresholds_are_the_mean_losses_of_positives_and_of_negatives():
    labels = torch.tensor([[1, 0], [0, 0], [1, -1]], dtype=torch.int8)
    means = LabelMeans(labels)
    means.collect(torch.arange(3), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 99.0]]))
    # label 0 where it is 0; label 1 where it is 0; label 0 where it is 1
    assert means.means().tolist()[:3] == [3.0, 3.0, 3.0]
    assert bool(means.means()[3].isnan())
    assert means.of(torch.arange(2), torch.tensor([1.0, 2.0, 10.0, 20.0])).tolist() == [[10.0, 2.0], [1.0, 2.0]]


def test_a_size_is_the_mean_of_those_solved_for_its_labels():
    labels = torch.tensor([[1, 0, -1], [0, 0, 0], [-1, -1, -1]], dtype=torch.int8)
    state = AdaptivePerturbation(3, 10 / 255, label_means=LabelMeans(labels), damping=0.0, renew_every=1000)
    state.criterion.copy_(torch.tensor([0.2, 0.4, 0.6, 0.8, 0.4, 0.4]))  # of negatives, then of positives
    state._until_renewal = 1000
    clean = torch.tensor([[0.6, 0.1, 0.0], [0.3, 0.3, 0.1], [0.1, 0.1, 0.1]])
    state.update(torch.arange(3), clean + 0.1, clean)
    # From 2/255, where each loss rises by 0.1: label 0 to 0.8, label 1 to 0.4; label 2 is unknown.
    assert (255 * state.eps[0]).item() == pytest.approx((4 + 6) / 2, abs=1e-3)
    # The first loss lies above its threshold, so the smallest size; the others reach theirs at 2 and beyond 10.
    assert (255 * state.eps[1]).item() == pytest.approx((2 + 2 + 10) / 3, abs=1e-3)
    assert state.eps[2] == state.eps_init
    assert state.loss.tolist() == pytest.approx([0.35, 0.7 / 3, 0.0])
    # Log 2 is met first by the label nearest to it.
    assert (255 * state.distance[:2].float()).tolist() == pytest.approx([20 * (0.6931 - 0.6), 20 * 0.3931], rel=1e-2)
    assert state.distance[2] == 0
    state.update(torch.arange(0), torch.ones(0, 3), torch.ones(0, 3))  # a batch of which nothing was attacked


def test_hard_images_still_move():
    # The mean loss of every image lies above its mean threshold; three of its four losses do not.
    labels = torch.zeros(20, 4, dtype=torch.int8)
    state = AdaptivePerturbation(20, 8 / 255, label_means=LabelMeans(labels))
    clean = torch.tensor([0.1, 0.2, 0.1, 3.0]).repeat(20, 1)
    state.criterion.copy_(torch.full((8,), 0.5))
    state._until_renewal = 100
    state.update(torch.arange(20), clean + 0.3, clean)
    assert (state.eps > state.eps_min).all()


@pytest.mark.parametrize("columns", [1, 2])
def test_the_criterion_reduces_to_that_of_classes(columns):
    # for one label, and for two that exclude each other, tau is the mean loss of the class
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([0, 0, 0, 1, 0, 1, 0, 0, 1, 0])
    several = torch.stack([classes, 1 - classes], 1)[:, :columns].to(torch.int8)
    common = {"renew_every": 1}
    by_class = AdaptivePerturbation(10, 8 / 255, labels=classes, num_classes=2, **common)
    by_label = AdaptivePerturbation(10, 8 / 255, label_means=LabelMeans(several), **common)
    for batch in torch.arange(10).split(5):
        clean, rise = torch.rand(5, generator=generator), 0.1 * torch.rand(5, generator=generator)
        by_class.update(batch, clean + rise, clean)
        by_label.update(batch, *(each[:, None].expand(5, columns) for each in (clean + rise, clean)))
    assert torch.allclose(by_label.eps, by_class.eps)
    assert torch.allclose(by_label.distance, by_class.distance)
    assert (by_class.eps != by_class.eps[0]).any()
    expected = mean(by_class.loss, classes, torch.ones(10, dtype=torch.bool), 2)
    assert torch.allclose(by_label.label_means.of(torch.tensor([0, 3]), by_label.criterion)[:, 0], expected)


def test_losses_of_another_shape_are_refused():
    state = AdaptivePerturbation(4, 8 / 255, label_means=LabelMeans(torch.zeros(4, 3, dtype=torch.int8)))
    with pytest.raises(ValueError, match=r"\(B,\) and \(B, 3\), not \(4,\) and \(4,\)"):
        state.update(torch.arange(4), torch.ones(4), torch.ones(4))


def test_old_losses_fade():
    labels = torch.tensor([[1], [0]] * 4, dtype=torch.int8)
    means = LabelMeans(labels)
    for value in (9.0, *[1.0] * 12):
        means.collect(torch.arange(8), torch.full((8, 1), value))
    assert means.means().tolist() == pytest.approx([1.0, 1.0])
    again = LabelMeans(labels)
    again.load_state_dict(means.state_dict())
    assert "labels" not in means.state_dict()
    assert torch.equal(again.means(), means.means())


def test_the_state_takes_no_more_than_16_bytes_a_sample():
    labels = (torch.rand(4000, 14) < 0.2).to(torch.int8)
    state = AdaptivePerturbation(4000, 8 / 255, label_means=LabelMeans(labels))
    saved = sum(value.numel() * value.element_size() for value in state.state_dict().values() if torch.is_tensor(value))
    assert saved / 4000 <= 16


def test_the_teacher_teaches_every_label():
    model, x = network(), torch.rand(5, 3, 4, 4)
    teacher = SelfTeacher(model, 1.0)
    p, q = (model(x) / 2).sigmoid(), (model(x) / 2 + 0.5).sigmoid()
    binary = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    y = torch.ones(5, 3, dtype=torch.int8)
    assert torch.allclose(teacher.divergence(model(x) + 1, x, y), 4 * binary.mean(1), atol=1e-5)
    y[:, 1] = -1
    assert torch.allclose(teacher.divergence(model(x) + 1, x, y), 4 * binary[:, [0, 2]].mean(1), atol=1e-5)


def label_context(labels, teacher, *, imbalance, clean_weight):
    return MethodContext(
        labels=labels,
        num_classes=3,
        epochs=4,
        learn_loss=learning_loss(imbalance, labels, 3),
        eps=8 / 255,
        steps=2,
        norm="linf",
        clean_weight=clean_weight,
        teacher=teacher,
    )


@pytest.mark.parametrize(
    ("name", "weight"), [("pgd", 0.0), ("trades", 0.0), ("pgd", 1.0), ("trades", 0.5), ("dpaat", 1.0)]
)
def test_ignored_labels_are_neither_learned_nor_attacked(name, weight):
    labels = torch.tensor([[1, -1, -1], [0, -1, -1]] * 4, dtype=torch.int8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    teacher = SelfTeacher(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), weight) if weight else None
    context = label_context(labels, teacher, imbalance="none", clean_weight=0.0)
    method = build_method(find_method(name), context, {})
    method(model, torch.arange(8), torch.rand(8, 3, 4, 4), labels).loss.backward()
    gradient = model[1].weight.grad.abs().sum(1)
    assert gradient[0] > 0
    assert gradient[1:].tolist() == [0, 0]


CONTROLS = [{"radius": name} for name in ("mean", "class-mean", "permuted", "uniform")]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(
            (name, {})
            for name in ("standard", "pgd", "trades", "fgsm-rs", "n-fgsm", "dpaat", "dpaat-half", "dpaat-paper")
        ),
        *(("dpaat", options) for options in CONTROLS),
    ],
)
def test_methods_take_a_step_on_labels(name, options):
    labels = (torch.rand(12, 3, generator=torch.Generator().manual_seed(0)) < 0.4).to(torch.int8)
    labels[0, 1] = -1
    model = network()
    weight = 0.0 if name == "trades" else 0.5
    context = label_context(labels, SelfTeacher(model, 0.5), imbalance="balanced-softmax", clean_weight=weight)
    method = build_method(find_method(name), context, options)
    x, index = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12)
    for _ in range(2):
        output = method(model, index, x, labels)
        output.loss.backward()
        method.after_step(output)
    assert output.loss.isfinite()
    assert output.logits.shape == (12, 3)
    if name == "dpaat":
        assert (method.perturbation.visits > 0).any()
        assert method.perturbation.criterion.shape == (6,)
        assert method.perturbation.criterion.isfinite().any()


def test_a_median_of_label_losses_is_not_kept(tmp_path):
    about = {"data": "synthetic:60,labels=3", "image_size": 16, "model": "test_resnet", "epochs": 1}
    config = TrainConfig(method="dpaat", options={"statistic": "median"}, **about)
    with pytest.raises(UserError, match="statistic must be mean"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("method", ["mart", "gairat", "robustlt", "fat", "iaat"])
def test_methods_for_classes_are_refused_before_anything_is_written(tmp_path, method):
    config = TrainConfig(data="synthetic:60,labels=3", method=method, image_size=16, model="test_resnet", epochs=1)
    with pytest.raises(UserError, match=f"{method!r} is for one class per image; of several labels learn .*dpaat"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
