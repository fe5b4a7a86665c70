"""Similarity of attribution maps: rank correlation and SSIM."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

_WINDOW = 11


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation of two maps `(B, H, W)` over their pixels, `(B,)` float64 in [-1, 1].

    A uniform map is like another uniform one (1) and unlike any other (0).
    """
    return _cosine(*_ranks(first, second))


def specific_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation of what is special to each image's map.

    The ranks are taken less their mean over all images: strides draw the same grid into every gradient, and lesions
    mostly lie in the middle, so maps of different models, even of different images, correlate by position alone.

    Args:
        first: maps of B different images `(B, H, W)`, at least 2.
        second: other maps of the same images.

    Returns:
        `(B,)` float64 in [-1, 1]; 1 where both maps are the same for all images, 0 where one of them is.

    Raises:
        ValueError: shapes that do not fit, or a single image.
    """
    one, two = _ranks(first, second)
    if len(one) < 2:
        raise ValueError("one image has no map that is special to it")
    return _cosine(one - one.mean(axis=0), two - two.mean(axis=0))


def structural_similarity(first: Tensor, second: Tensor) -> np.ndarray:
    """SSIM of maps `(B, H, W)`, 0 or larger, each divided by its highest value; `(B,)` float64 in [-1, 1].

    Gaussian window of 11 pixels, smaller on smaller maps.

    Source: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13 (2004).
    """
    one, two = (scaled(maps)[:, None] for maps in _pair(first, second))
    side = min(_WINDOW, *one.shape[2:])
    found = structural_similarity_index_measure(
        one,
        two,
        # The Gaussian window is always of 11 pixels; on a smaller map the plain one, of an odd side, stands in.
        gaussian_kernel=side == _WINDOW,
        kernel_size=side - 1 + side % 2,
        data_range=1.0,
        reduction="none",
    )
    assert isinstance(found, Tensor)
    return np.asarray(found.reshape(-1).cpu().double().numpy())


def _ranks(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    one, two = (rankdata(maps.detach().flatten(1).cpu().double().numpy(), axis=1) for maps in _pair(first, second))
    return one - one.mean(axis=1, keepdims=True), two - two.mean(axis=1, keepdims=True)


def _cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Cosine of every row; 1 where both are nil, 0 where one is."""
    squares = (one**2).sum(axis=1), (two**2).sum(axis=1)
    # Ranks and their means are whole or half numbers, so what is left by rounding is far below 1.
    nil = [square < 1e-6 for square in squares]
    lengths = np.sqrt(squares[0] * squares[1])
    found = np.where(nil[0] & nil[1], 1.0, 0.0)
    np.divide((one * two).sum(axis=1), lengths, out=found, where=~(nil[0] | nil[1]))
    return np.asarray(np.clip(found, -1, 1))


def scaled(maps: Tensor) -> Tensor:
    """Maps `(B, H, W)`, each divided by its highest value, in [0, 1]; empty ones as they are."""
    values = maps.detach().cpu().double()
    highest = values.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, values / highest.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.ndim != 3 or first.shape != second.shape:
        raise ValueError(f"maps {tuple(first.shape)} and {tuple(second.shape)} must be of one shape (B, H, W)")
    return first, second
