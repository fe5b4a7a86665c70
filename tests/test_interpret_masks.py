"""Scores of maps against masks, on planted cases whose values are known."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dpaat.interpret.metrics import area_chance, energy_inside, iou_chance, pointing_game, top_area_iou

SCORES = [energy_inside, pointing_game, top_area_iou]


def chance(score, masks: Tensor) -> np.ndarray:
    return iou_chance(masks) if score is top_area_iou else area_chance(masks)


@pytest.fixture
def masks() -> Tensor:
    """Lesions of 1 pixel, of 12, of 60 in two parts, and one that fills the image of 9 x 11."""
    found = torch.zeros(4, 9, 11, dtype=torch.bool)
    found[0, 8, 10] = True
    found[1, 2:5, 3:7] = True
    found[2, :4] = True
    found[2, 7, :8] = True
    found[2, 8, :8] = True
    found[3] = True
    return found


@pytest.mark.parametrize("score", SCORES)
def test_a_map_equal_to_the_mask_scores_one(score, masks):
    np.testing.assert_allclose(score(masks.float(), masks), 1)
    np.testing.assert_allclose(score(masks * 1e-30, masks), 1)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("level", [0.0, 1.0, 0.3, 1e-12])
def test_empty_and_uniform_maps_score_their_chance_level(score, level, masks):
    found = score(torch.full(masks.shape, level), masks)
    np.testing.assert_allclose(found, chance(score, masks), rtol=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_a_map_of_everything_else_scores_nothing(score, masks):
    np.testing.assert_allclose(score((~masks[:2]).float(), masks[:2]), 0)


def test_chance_levels_are_what_random_maps_score(masks):
    generator = torch.Generator().manual_seed(0)
    for k in (0, 1, 2):
        mask = masks[k].expand(1500, -1, -1)
        maps = torch.rand(mask.shape, generator=generator)
        for score in SCORES:
            values = score(maps, mask)
            error = values.std() / len(values) ** 0.5
            assert values.mean() == pytest.approx(chance(score, masks)[k], abs=4 * error), (k, score.__name__)


def test_energy_is_the_share_of_the_sum():
    maps, masks = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[True, False], [False, True]]])
    assert energy_inside(maps, masks) == pytest.approx([0.5])
    assert pointing_game(maps, masks) == pytest.approx([1])
    # The two highest are 4 inside and 3 outside: one in common of three.
    assert top_area_iou(maps, masks) == pytest.approx([1 / 3])


def test_ties_count_by_the_mean_over_all_ways_to_break_them():
    values = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0, 2.0])
    inside = torch.tensor([False, True, True, False, True, False])
    ious = []
    for order in itertools.permutations(range(6)):
        noise = torch.tensor(order) / 100
        top = set((values + noise).argsort(descending=True)[:3].tolist())
        ious.append(len(top & {1, 2, 4}) / len(top | {1, 2, 4}))
    assert top_area_iou(values[None, None], inside[None, None]) == pytest.approx([np.mean(ious)])
    highest = torch.tensor([2.0, 2.0, 2.0, 1.0, 0.0, 0.0])
    assert pointing_game(highest[None, None], inside[None, None]) == pytest.approx([2 / 3])


@pytest.mark.parametrize("score", SCORES)
def test_scale_does_not_matter_and_every_image_stands_alone(score, masks):
    maps = torch.rand(masks.shape, generator=torch.Generator().manual_seed(1))
    found = score(maps, masks)
    np.testing.assert_allclose(score(maps * 1000, masks), found)
    for k in range(len(masks)):
        np.testing.assert_allclose(score(maps[k : k + 1], masks[k : k + 1]), found[k : k + 1])
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda maps, masks: (maps[:, 1:], masks), "one shape"),
        (lambda maps, masks: (maps - 2, masks), "0 or larger"),
        (lambda maps, masks: (maps * torch.nan, masks), "finite"),
        (lambda maps, masks: (maps, masks & False), "empty mask"),
    ],
)
def test_what_cannot_be_scored_is_refused(score, spoil, told, masks):
    with pytest.raises(ValueError, match=told):
        score(*spoil(torch.rand(masks.shape), masks))
