"""Common corruptions of synthetic images, and their summary by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dpaat.data.synthetic import CLASSES, render
from dpaat.errors import UserError
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.corruption_images import CAST_STRENGTH, CORRUPTIONS, HAIRS, RULER
from dpaat.evaluation.corruptions import SEVERITIES, corrupt, corruption_summary, corruptions_for, run_corruptions
from dpaat.evaluation.images import RowView

COLOUR = np.stack([render(k % len(CLASSES), k, 0)[0].transpose(2, 0, 1) for k in range(14)])
GREY = np.rint(COLOUR.mean(axis=1, keepdims=True)).astype(np.uint8)
IDS = [f"syn-{k}" for k in range(len(COLOUR))]
CHANCE = ("noise", "brightness", "vignette", "hairs", "ruler", "colour-cast")


class Mean(nn.Module):
    """Light above the middle of the range, else dark."""

    def forward(self, x: Tensor) -> Tensor:
        light = x.mean(1) - 0.47
        return torch.stack([-light, light], 1)


def cases() -> list[tuple[str, str]]:
    return [(name, kind) for kind, channels in (("colour", 3), ("grey", 1)) for name in corruptions_for(channels)[0]]


def images_of(kind: str, side: int = 64) -> np.ndarray:
    images = COLOUR if kind == "colour" else GREY
    return np.stack(
        [
            [np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BILINEAR)) for c in image]
            for image in images
        ]
    )


def change(corrupted: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean absolute change of each image, grey levels."""
    return np.abs(corrupted.astype(float) - images).mean(axis=(1, 2, 3))


def likeness(corrupted: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Correlation with the original within channels, per image."""
    a, b = (x - x.mean(axis=(2, 3), keepdims=True) for x in (corrupted.astype(float), images.astype(float)))
    axes = (1, 2, 3)
    return np.asarray((a * b).sum(axes) / np.sqrt((a**2).sum(axes) * (b**2).sum(axes)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_its_company(name):
    together = corrupt(COLOUR, name, 3, seed=5, ids=IDS)
    order = np.array([9, 2, 5])
    np.testing.assert_array_equal(corrupt(COLOUR[order], name, 3, seed=5, ids=np.array(IDS)[order]), together[order])
    np.testing.assert_array_equal(corrupt(COLOUR, name, 3, seed=np.int64(5), ids=IDS), together)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_chance_is_keyed_by_seed_and_id(name):
    twins = np.repeat(COLOUR[:1], 8, axis=0)
    first = corrupt(twins, name, 4, seed=0, ids=IDS[:8])
    assert (len(np.unique(first.reshape(8, -1), axis=0)) > 1) == (name in CHANCE)
    assert (first != corrupt(twins, name, 4, seed=1, ids=IDS[:8])).any() == (name in CHANCE)


@pytest.mark.parametrize(("name", "kind"), cases())
@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (224, 224)])
def test_type_and_shape_are_kept_and_the_input_left_alone(name, kind, shape):
    channels = 3 if kind == "colour" else 1
    images = np.random.default_rng(0).integers(0, 256, (2, channels, *shape), dtype=np.uint8)
    before = images.copy()
    for severity in (1, 5):
        corrupted = corrupt(images, name, severity, seed=0, ids=["a", "b"])
        assert (corrupted.dtype, corrupted.shape) == (np.uint8, images.shape)
        assert (corrupted != images).any()
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(("name", "kind"), cases())
@pytest.mark.parametrize("side", [32, 64])
def test_severity_goes_from_mild_to_strong(name, kind, side):
    images = images_of(kind, side)
    corrupted = [corrupt(images, name, severity, seed=0, ids=IDS) for severity in SEVERITIES]
    changes = np.array([change(x, images) for x in corrupted])
    assert (np.diff(changes.mean(axis=1)) > 0).all()
    assert 0.2 < changes[0].mean() < 12
    assert changes[4].mean() > 2 * changes[0].mean()
    assert likeness(corrupted[0], images).mean() > 0.8
    assert likeness(corrupted[4], images).mean() > 0.3


@pytest.mark.parametrize("name", ["noise", "brightness", "contrast", "vignette", "hairs", "colour-cast"])
def test_every_single_image_suffers_more_at_a_higher_severity(name):
    changes = [change(corrupt(COLOUR, name, severity, seed=0, ids=IDS), COLOUR) for severity in SEVERITIES]
    assert (np.diff(changes, axis=0) > 0).all()


@pytest.mark.parametrize("name", ["blur", "vignette", "hairs", "ruler"])
def test_lengths_scale_with_the_image(name):
    small, large = images_of("colour", 48), images_of("colour", 192)
    changes = [change(corrupt(x, name, 4, seed=0, ids=IDS), x).mean() for x in (small, large)]
    assert changes[1] == pytest.approx(changes[0], rel=0.15)


def uniform(level: int, side: int = 64, channels: int = 3) -> np.ndarray:
    return np.full((1, channels, side, side), level, dtype=np.uint8)


def test_noise_has_the_deviation_of_its_table():
    noisy = corrupt(uniform(128, 128), "noise", 2, seed=0, ids=["a"]) / 255
    assert noisy.std() == pytest.approx(0.06, rel=0.02)
    assert noisy.mean() == pytest.approx(128 / 255, abs=0.002)


def test_brightness_shifts_up_or_down():
    levels = {int(corrupt(uniform(100), "brightness", 3, seed=0, ids=[name]).mean()) for name in IDS}
    assert levels == {100 - 33, 100 + 33}


def test_contrast_keeps_mean_and_colour():
    flat = corrupt(COLOUR, "contrast", 3, seed=0, ids=IDS).astype(float)
    np.testing.assert_allclose(flat.mean(axis=(2, 3)), COLOUR.mean(axis=(2, 3)), atol=0.3)
    np.testing.assert_allclose(flat.std(axis=(2, 3)), 0.5 * COLOUR.std(axis=(2, 3)), rtol=0.02)


def test_blur_and_jpeg_and_pixels_leave_a_uniform_image_alone():
    for name in ("blur", "contrast", "jpeg", "pixelation"):
        np.testing.assert_array_equal(corrupt(uniform(128), name, 5, seed=0, ids=["a"]), uniform(128))


def test_blur_has_the_width_of_its_table():
    points = np.zeros((1, 1, 100, 100), dtype=np.uint8)
    points[0, 0, :, 50] = 255
    profile = corrupt(points, "blur", 5, seed=0, ids=["a"])[0, 0, 50].astype(float)
    assert np.sqrt((profile * (np.arange(100) - 50) ** 2).sum() / profile.sum()) == pytest.approx(5.0, rel=0.03)


def test_pixelation_leaves_squares():
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64), dtype=np.uint8)
    coarse = corrupt(image, "pixelation", 4, seed=0, ids=["a"])[0, 0].reshape(16, 4, 16, 4)
    assert (coarse == coarse[:, :1, :, :1]).all()
    np.testing.assert_allclose(coarse[:, 0, :, 0], image.reshape(16, 4, 16, 4).mean(axis=(1, 3)), atol=1)


def test_vignette_darkens_corners_and_leaves_the_centre():
    dark = corrupt(uniform(200), "vignette", 5, seed=0, ids=["a"])[0, 0]
    assert (dark[24:40, 24:40] == 200).all()
    assert (dark[[0, 0, -1, -1], [0, -1, 0, -1]] == 40).all()  # a fifth of the light is left


def test_hairs_are_thin_dark_and_as_many_as_their_table_says():
    covered = []
    for severity in SEVERITIES:
        image = corrupt(np.repeat(uniform(200, 128), 14, axis=0), "hairs", severity, seed=0, ids=IDS)
        assert image.max() == 200
        assert (image[:, 0].astype(int) >= image[:, 2]).all()  # brown
        covered.append((200 - image[:, 1].astype(float)).mean() / 160)  # green: a fifth of the light passes
    # A hair of mean width w and mean length 1 covers w of the image, less what lies outside or under another.
    drawn = np.array([number * width for number, width in HAIRS])
    assert (covered < 1.1 * drawn).all()
    assert (covered > 0.5 * drawn).all()


def test_ruler_marks_are_ticks_along_some_edges():
    for severity, (edges, length, opacity) in zip(SEVERITIES, RULER, strict=True):
        marked = corrupt(uniform(200, 128), "ruler", severity, seed=0, ids=["a"])[0, 0]
        assert marked.min() == pytest.approx(200 * (1 - opacity), abs=30)
        # Long ticks end at 0.04 + 1.8 length; between the corners each band shows one edge's marks.
        bands = [marked[:34], marked[:-35:-1], marked.T[:34], marked.T[:-35:-1]]
        dark = [(band[:, 34:94] < 190).any(axis=1) for band in bands]
        drawn = [np.flatnonzero(rows) for rows in dark if rows.any()]
        assert len(drawn) == edges
        for rows in drawn:
            assert rows.min() == pytest.approx(0.04 * 128, abs=2)
            assert rows.max() == pytest.approx((0.04 + 1.8 * length) * 128, abs=2)
        assert (marked[34:94, 34:94] == 200).all()


def test_ruler_marks_are_white_on_grey_images():
    marked = corrupt(uniform(100, 128, channels=1), "ruler", 5, seed=0, ids=["a"])
    assert (marked.min(), marked.max()) == (100, 255)


def test_colour_cast_gains_multiply_to_one():
    for name in IDS:
        gains = np.log(corrupt(uniform(150), "colour-cast", 5, seed=0, ids=[name])[0, :, 0, 0] / 150)
        assert gains.sum() == pytest.approx(0, abs=0.01)
        assert np.linalg.norm(gains) == pytest.approx(1.5**0.5 * CAST_STRENGTH[4], rel=0.03)


def test_grey_images_have_all_but_the_colour_cast():
    names, skipped = corruptions_for(1)
    assert skipped == ["colour-cast"]
    assert names == [name for name in CORRUPTIONS if name != "colour-cast"]
    assert corruptions_for(3) == (list(CORRUPTIONS), [])


@pytest.mark.parametrize(
    ("images", "name", "severity", "told"),
    [
        (COLOUR, "nois", 1, "nearest: noise"),
        (COLOUR, "blur", 0, "severity 0"),
        (COLOUR, "blur", 6, "severity 6"),
        (GREY, "colour-cast", 1, "grey"),
        (COLOUR[:, :, :15], "blur", 1, "15x64"),
    ],
)
def test_user_errors_are_told_in_one_line(images, name, severity, told):
    with pytest.raises(UserError) as caught:
        corrupt(images, name, severity, seed=0, ids=IDS)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [COLOUR / 255, COLOUR[0], COLOUR[:, :2], COLOUR[:3]])
def test_other_arrays_are_refused(images):
    with pytest.raises(ValueError, match="images"):
        corrupt(images, "blur", 1, seed=0, ids=IDS)


OURS = {"noise": [0.2, 0.3, 0.4, 0.5, 0.6], "blur": [0.2, 0.2, 0.2, 0.2, 0.2]}


def test_summary_by_hand():
    found = corruption_summary(OURS, 0.1)
    assert found["per_corruption"] == pytest.approx({"noise": 0.4, "blur": 0.2})
    assert found["per_severity"] == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4])
    assert found["mean_corruption_error"] == pytest.approx(0.3)
    assert found["relative_corruption_error"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("errors", "clean"),
    [({}, 0.1), ({"noise": [0.1] * 4}, 0.1), ({"noise": [0.1, 0.2, 0.3, 0.4, 1.5]}, 0.1), ({"noise": [0.1] * 5}, -0.1)],
)
def test_errors_that_are_none_are_refused(errors, clean):
    with pytest.raises(ValueError, match="error"):
        corruption_summary(errors, clean)


def test_grey_images_are_corrupted_as_grey_ones_for_a_model_of_three_channels():
    grey = np.full((6, 1, 32, 32), 120, np.uint8)
    views = {channels: RowView(grey, np.arange(6), channels) for channels in (1, 3)}
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Mean())
    found = {}
    for channels, view in views.items():
        with Attacker(model, view, np.array([0, 1] * 3), num_classes=2, progress=False) as attacker:
            found[channels] = run_corruptions(attacker, np.array(list("abcdef")), ["dark", "light"])
    assert found[1] == found[3]
    assert found[3]["skipped"] == ["colour-cast"]
