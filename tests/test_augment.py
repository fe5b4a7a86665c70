import pytest
import torch
from torch import Tensor

from dpaat.config import AUGMENTATIONS
from dpaat.data.augment import CROP_SHARE, Share, augment


def images(count: int = 6, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def draw(x: Tensor, kinds: tuple[str, ...], seed: int = 0) -> Tensor:
    return augment(x, kinds, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kinds", [("flip",), ("turn",), ("flip", "turn")])
def test_flips_and_turns_only_move_pixels(kinds):
    x = images(64)
    moved = draw(x, kinds)
    assert not torch.equal(moved, x)
    # whole pixels move together, so the values of each channel stay the same, image by image
    assert torch.equal(moved.flatten(2).sort().values, x.flatten(2).sort().values)
    index = torch.arange(256.0).reshape(1, 1, 16, 16).expand(8, 3, 16, 16)
    assert torch.equal(*draw(index, kinds)[:, [0, 2]].unbind(1)), "channels must move together"


def test_turns_give_all_eight_poses_about_equally_often():
    x = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    poses = {tuple(torch.rot90(y, k, (2, 3)).flatten().tolist()) for y in (x, x.flip(-1)) for k in range(4)}
    drawn = [tuple(row.tolist()) for row in draw(x.expand(1600, 1, 4, 4), ("turn",)).flatten(1)]
    assert set(drawn) == poses
    assert min(drawn.count(pose) for pose in poses) > 140  # of 200 expected, standard deviation 13


def test_flip_is_left_to_right_and_for_half_of_the_images():
    x = images(1).expand(400, 3, 16, 16)
    flipped = [torch.equal(image, x[0].flip(-1)) for image in draw(x, ("flip",))]
    assert 150 < sum(flipped) < 250


def test_crop_shifts_whole_pixels_and_fills_by_reflection():
    side, most = 16, 16 // CROP_SHARE
    row = torch.arange(float(side))
    x = (row[:, None] * side + row).reshape(1, 1, side, side).expand(200, 1, side, side) / side**2
    padded = torch.nn.functional.pad(x[:1], (most,) * 4, mode="reflect")
    windows = {
        tuple(padded[0, 0, top : top + side, left : left + side].flatten().tolist())
        for top in range(2 * most + 1)
        for left in range(2 * most + 1)
    }
    shifted = {tuple(image.flatten().tolist()) for image in draw(x, ("crop",))}
    assert shifted <= windows
    assert len(shifted) == len(windows) == (2 * most + 1) ** 2


def test_jitter_changes_level_contrast_and_saturation_within_bounds():
    x = images(200) * 0.2 + 0.4
    jittered = draw(x, ("jitter",))
    ratio = jittered.mean((1, 2, 3)) / x.mean((1, 2, 3))
    assert ratio.min() > 0.79
    assert ratio.max() < 1.21
    assert ratio.std() > 0.05
    grey = torch.full((4, 1, 8, 8), 0.5)
    assert draw(grey, ("jitter",)).std((1, 2, 3)).max() < 1e-6, "a flat image stays flat"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extreme", [0.0, 1.0, None])
def test_all_together_stay_in_the_box_and_keep_the_shape(channels, extreme):
    x = torch.rand(32, channels, 17, 17) if extreme is None else torch.full((32, channels, 17, 17), extreme)
    result = draw(x, AUGMENTATIONS)
    assert result.shape == x.shape
    assert result.min() >= 0
    assert result.max() <= 1


def test_draws_are_keyed_by_the_generator_and_differ_between_images():
    x = images(1).expand(16, 3, 16, 16)
    assert torch.equal(draw(x, AUGMENTATIONS, 3), draw(x, AUGMENTATIONS, 3))
    assert not torch.equal(draw(x, AUGMENTATIONS, 3), draw(x, AUGMENTATIONS, 4))
    assert len({tuple(image.flatten().tolist()) for image in draw(x, AUGMENTATIONS)}) == 16
    torch.manual_seed(5)
    first = augment(x, AUGMENTATIONS)
    torch.manual_seed(5)
    assert torch.equal(first, augment(x, AUGMENTATIONS))


def test_nothing_asked_for_changes_nothing():
    x = images()
    assert torch.equal(augment(x, ()), x)


def test_one_pixel_image_survives():
    x = torch.rand(4, 3, 1, 1)
    assert torch.equal(draw(x, ("flip", "turn", "crop")), x)


@pytest.mark.parametrize("processes", [2, 4])
def test_shares_of_a_batch_meet_the_augmentations_of_the_whole(processes):
    x = images(7)
    whole = draw(x, AUGMENTATIONS)
    for rank in range(processes):
        generator = torch.Generator().manual_seed(0)
        share = augment(x[rank::processes], AUGMENTATIONS, generator, Share(7, rank, processes))
        assert torch.equal(share, whole[rank::processes])
