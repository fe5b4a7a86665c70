"""Localization scores: attribution maps against lesion masks, with chance levels.

Ties are scored by the mean over all ways to break them, so that an empty and a uniform map score exactly their chance
level, whichever of their pixels a sort would put first.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import hypergeom
from torch import Tensor

Array = np.ndarray


def energy_inside(maps: Tensor, masks: Tensor) -> Array:
    """Share of a map's total that lies inside the mask; chance level: the mask's share of the area.

    Args:
        maps: `(B, H, W)`, finite, 0 or larger.
        masks: `(B, H, W)` bool, at least one pixel True in each.

    Returns:
        `(B,)` float64 in [0, 1]; of an empty map the chance level.

    Raises:
        ValueError: other shapes or values.

    Source: H. Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR
    Workshops 2020, arXiv 1910.01279, section 4.3 (energy-based pointing game).
    """
    values, inside = _flat(maps, masks)
    total = values.sum(axis=1)
    share = np.divide((values * inside).sum(axis=1), total, out=inside.mean(axis=1), where=total > 0)
    return np.asarray(np.minimum(share, 1.0))


def pointing_game(maps: Tensor, masks: Tensor) -> Array:
    """Whether a map's highest pixel lies inside the mask, `(B,)` in [0, 1]; chance: the mask's share of the area.

    Where several pixels are highest, the share of them inside. Unlike in the source there is no margin of tolerance,
    which would need another size for every resolution. Arguments as for `energy_inside`.

    Source: J. Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, arXiv 1608.00507, section
    4.2.
    """
    values, inside = _flat(maps, masks)
    highest = values == values.max(axis=1, keepdims=True)
    return np.asarray((highest & inside).sum(axis=1) / highest.sum(axis=1))


def top_area_iou(maps: Tensor, masks: Tensor) -> Array:
    """Intersection over union of the mask and the map's highest pixels, as many as the mask has, `(B,)` in [0, 1].

    With k pixels in the mask and I of the top k inside it, IoU = I / (2k - I). Taking equal areas leaves no threshold
    to choose. Chance level: `iou_chance`; arguments as for `energy_inside`.
    """
    values, inside = _flat(maps, masks)
    found = np.empty(len(values))
    for row, (value, mask) in enumerate(zip(values, inside, strict=True)):
        k = int(mask.sum())
        threshold = np.partition(value, -k)[-k]
        above, tied = value > threshold, value == threshold
        sure = int((above & mask).sum())
        found[row] = _expected_iou(k, sure, int(tied.sum()), int((tied & mask).sum()), k - int(above.sum()))
    return found


def area_chance(masks: Tensor) -> Array:
    """Chance level of energy and pointing game: the mask's share of the area, `(B,)`."""
    return np.asarray(masks.cpu().flatten(1).double().mean(dim=1).numpy())


def iou_chance(masks: Tensor) -> Array:
    """Chance level of `top_area_iou`: its mean over all sets of as many pixels as the mask has, `(B,)`."""
    size = masks[0].numel()
    return np.array([_expected_iou(k, 0, size, k, k) for k in masks.flatten(1).sum(dim=1).tolist()])


def _expected_iou(k: int, sure: int, tied: int, tied_inside: int, wanted: int) -> float:
    """Mean IoU where `wanted` of the `tied` pixels are drawn at random to join those that are sure."""
    drawn = np.arange(max(0, wanted - (tied - tied_inside)), min(wanted, tied_inside) + 1)
    chance = hypergeom.pmf(drawn, tied, tied_inside, wanted)
    both = sure + drawn
    return float(np.sum(chance * both / (2 * k - both)) / np.sum(chance))


def _flat(maps: Tensor, masks: Tensor) -> tuple[Array, Array]:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must be of one shape (B, H, W)")
    values = maps.detach().flatten(1).cpu().double().numpy()
    inside = masks.flatten(1).bool().cpu().numpy()
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("maps must be finite and 0 or larger")
    if not inside.any(axis=1).all():
        raise ValueError("an empty mask has no score; leave such images out")
    return values, inside
