import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dpaat.data import synthetic
from dpaat.data.synthetic import CLASSES, DEFAULT_IMAGES, FEATURES, SIZE, VERSION, class_counts, load
from dpaat.data.table import ImageTable, validate
from dpaat.errors import UserError

CHANCE = 1 / len(CLASSES)


def make(argument: str = "") -> ImageTable:
    return load(argument, f"synthetic:{argument}")


def balanced_rows(table: ImageTable, per_class: int) -> np.ndarray:
    return np.concatenate([np.flatnonzero(table.labels == label)[:per_class] for label in range(len(CLASSES))])


def colour_and_size(table: ImageTable, row: int) -> list[float]:
    image, inside = table.read(row).astype(float), table.read_mask(row) > 0
    lesion, skin = np.median(image[inside], axis=0), np.median(image[~inside], axis=0)
    return [inside.sum() ** 0.5, *(lesion / skin)]


def nearest_plaid(image: np.ndarray, size: int) -> int:
    """The class whose two waves, in its tint, hold the most energy after resizing."""
    small = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR), dtype=float)
    y, x = (np.mgrid[0:size, 0:size] - (size - 1) / 2) * SIZE / size
    window = np.outer(np.hanning(size), np.hanning(size))
    energies = []
    for look in synthetic._LOOKS:
        tint = np.array(look.tint) / np.linalg.norm(look.tint)
        signal = (small - small.mean((0, 1))) @ tint * window
        k = 2 * np.pi / look.wavelength * (0.5**0.5 if look.diagonal else 1)
        pair = (x + y, x - y) if look.diagonal else (x, y)
        # The weaker wave of the two, since an edge of the lesion seldom looks like both.
        energies.append(min(abs((signal * np.exp(1j * k * axis)).sum()) for axis in pair))
    return int(np.argmax(energies))


def test_pixels_are_frozen():
    # Exact, on purpose: all is float64 from RandomState, whose numbers numpy has promised to keep, so another
    # machine's sin or exp is off by about 1e-13 grey levels, and hardly ever turns a rounding to whole levels.
    # If this fails after a change here, then the change needs a new VERSION.
    digest = hashlib.sha256()
    for label in range(len(CLASSES)):
        for lesion in range(3):
            for view in range(2):
                digest.update(synthetic.render(label, lesion, view)[0].tobytes())
    assert VERSION == "v1"
    assert digest.hexdigest() == "a1f97663b235700c2afe5330d4271ea4beb45e4c517bdc62c29f98aa7a30e17b"
    layout = hashlib.sha256("\n".join(make().ids).encode()).hexdigest()[:16]
    assert layout == "d9c996807d70d3e8"


def test_the_table_is_as_documented():
    table = validate(make())
    assert len(table) == DEFAULT_IMAGES
    assert table.classes == CLASSES
    assert all(name.startswith("syn-") for name in CLASSES)
    assert (table.name, table.channels, table.synthetic) == ("synthetic", 3, True)
    assert "generated" in table.licence
    assert VERSION in table.citation
    assert make("60,features=robust").name == "synthetic-robust"
    counts = np.bincount(table.labels)
    assert counts.tolist() == class_counts(DEFAULT_IMAGES)
    assert counts[0] / len(table) == pytest.approx(0.64, abs=0.01)
    assert counts.min() >= 12
    assert set(table.frame["source"]) == {"synthetic"}
    assert table.frame["age"].between(20, 85).all()
    assert set(table.frame["sex"]) == {"female", "male"}
    assert table.frame["site"].nunique() == 6
    assert table.describe(3) == f"synthetic image {table.ids[3]}"


def test_a_quarter_of_the_lesions_have_two_views_of_one_patient():
    frame = make().frame
    views = frame.groupby("group").size()
    assert set(views) == {1, 2}
    assert (views == 2).mean() == pytest.approx(0.25, abs=0.01)
    assert (frame.groupby("group")[["label", "age", "sex", "site"]].nunique() == 1).all(axis=None)


def test_two_views_show_the_same_lesion_in_another_picture():
    table = make("features=robust")
    pairs = [rows.to_numpy() for _, rows in table.frame.groupby("group").groups.items() if len(rows) == 2][:40]
    one, two = (np.array([colour_and_size(table, pair[side]) for pair in pairs]) for side in (0, 1))
    between = one.std(axis=0)
    assert (np.abs(one - two).mean(axis=0) < 0.4 * between).all()
    assert all(np.abs(table.read(a).astype(int) - table.read(b)).mean() > 3 for a, b in pairs)


@pytest.mark.parametrize("features", FEATURES)
def test_images_depend_on_their_id_only(features):
    few, many = make(f"60,features={features}"), make(f"400,features={features}")
    assert set(few.ids) <= set(many.ids)
    copy = pickle.loads(pickle.dumps(few))
    for row in range(0, 60, 6):
        image = few.read(row)
        assert (image.dtype, image.shape) == (np.uint8, (SIZE, SIZE, 3))
        other = int(np.flatnonzero(many.ids == few.ids[row])[0])
        np.testing.assert_array_equal(image, few.read(row))
        np.testing.assert_array_equal(image, many.read(other))
        np.testing.assert_array_equal(image, copy.read(row))
        assert few.frame.loc[row].equals(many.frame.loc[other])


def test_masks_fit_the_lesions():
    table = make("300,features=robust")
    darker = []
    for row in range(100):
        image, mask = table.read(row).astype(float), table.read_mask(row)
        assert (mask.dtype, mask.shape) == (np.uint8, (SIZE, SIZE))
        assert set(np.unique(mask)) == {0, 255}
        assert 0.002 < (mask > 0).mean() < 0.95
        green = image[..., 1]
        darker.append(np.median(green[mask == 0]) - np.median(green[mask > 0]))
    assert np.mean(np.array(darker) > 8) > 0.95


def test_robust_features_tell_classes_apart_imperfectly_and_fragile_images_lack_them():
    scores = {}
    for features in ("both", "fragile"):
        table = make(f"1500,features={features}")
        rows = balanced_rows(table, 30)
        x = np.array([colour_and_size(table, row) for row in rows])
        guess = cross_val_predict(
            make_pipeline(StandardScaler(), NearestCentroid()),
            x,
            table.labels[rows],
            groups=table.frame["group"].to_numpy()[rows],
            cv=GroupKFold(5),
        )
        scores[features] = balanced_accuracy_score(table.labels[rows], guess)
    assert 0.45 < scores["both"] < 0.85
    assert scores["fragile"] < CHANCE + 0.1


@pytest.mark.parametrize("size", [64, 32])
def test_texture_names_the_class_unless_left_out(size):
    scores = {}
    for features in FEATURES:
        table = make(f"1500,features={features}")
        rows = balanced_rows(table, 20)
        guess = [nearest_plaid(table.read(row), size) for row in rows]
        scores[features] = balanced_accuracy_score(table.labels[rows], guess)
    # The filter also hears edges and hairs; trained networks do better than it.
    assert scores["both"] > 0.6
    assert scores["fragile"] > 0.6
    assert scores["robust"] < CHANCE + 0.12


def test_texture_lies_on_lesion_and_skin_and_within_four_grey_levels():
    both, robust = make("200"), make("200,features=robust")
    for row in range(40):
        difference = both.read(row).astype(int) - robust.read(row)
        inside = both.read_mask(row) > 0
        assert np.abs(difference).max() <= 4
        assert np.abs(difference[inside]).mean() > 0.4
        assert np.abs(difference[~inside]).mean() > 0.4
        np.testing.assert_array_equal(both.read_mask(row), robust.read_mask(row))


@pytest.mark.parametrize("images", [50, 51, 60, 99, 1000, 100_000])
def test_every_class_is_there_at_every_size(images):
    counts = class_counts(images)
    assert sum(counts) == images
    assert min(counts) >= 5
    assert max(counts) == counts[0]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("many", "'many'"),
        ("-5", "'-5'"),
        ("1.5", "'1.5'"),
        ("²", "'²'"),
        ("49", "between 50 and 100000"),
        ("100001", "between 50 and 100000"),
        ("9" * 5000, "between 50 and 100000"),
        ("60,", "''"),
        ("60,70", "'70'"),
        ("features=robust,60", "'60'"),
        ("60,size=3", "'size=3'"),
        ("60,features=", "robust"),
        ("60,labels=", "multi"),
        ("60,labels=2,labels=3", "labels is given twice"),
        ("60,features=fragil", "nearest: fragile"),
    ],
)
def test_bad_arguments_are_told_in_one_line(argument, told):
    with pytest.raises(UserError) as caught:
        load(argument, "synthetic:" + argument[:20])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
