"""Similarity of attribution maps, and the sanity check that rests on it: parameter randomization."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchmetrics.functional.image import structural_similarity_index_measure

from dpaat.interpret.layers import Layer
from dpaat.interpret.maps import Explain

WINDOW = 11
FAIL, WARN = 0.5, 0.25  # mean correlation with the maps of the randomized model from which the check fails, or warns


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation of two maps `(B, H, W)` over their pixels, `(B,)` float64 in [-1, 1].

    A uniform map is like another uniform one (1) and unlike any other (0).
    """
    return _cosine(*_ranks(first, second))


def specific_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation of what is special to each image's map `(B, H, W)`, `(B,)` float64 in [-1, 1].

    The ranks are taken less their mean over all images, at least 2: strides draw the same grid into every gradient, and
    lesions mostly lie in the middle, so maps of different models, even of different images, correlate by position
    alone. 1 where both maps are the same for all images, 0 where one of them is.
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
    side = min(WINDOW, *one.shape[2:])
    # The Gaussian window is always of 11 pixels; on a smaller map the plain one, of an odd side, takes its place.
    options = {"gaussian_kernel": side == WINDOW, "kernel_size": side - 1 + side % 2}
    found = structural_similarity_index_measure(one, two, data_range=1.0, reduction="none", **options)
    assert isinstance(found, Tensor)
    return np.asarray(found.reshape(-1).cpu().double().numpy())


def scaled(maps: Tensor) -> Tensor:
    """Maps `(B, H, W)`, each divided by its highest value, in [0, 1]; empty ones as they are."""
    values = maps.detach().cpu().double()
    highest = values.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, values / highest.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


@dataclass(frozen=True)
class Verdict:
    """Verdict of the randomization check: "pass", "warn" or "fail", and one sentence with the numbers."""

    verdict: str
    evidence: str


def randomize(model: nn.Module, x: Tensor, *, seed: int = 0) -> nn.Module:
    """Copy a model and shuffle the values of every parameter among themselves, in the modes of the model.

    That keeps the scale of every layer, for any kind of layer, and nothing that was learned beyond it. Running
    statistics of normalization layers are taken anew from images `x` `(B, C, H, W)`, or the shuffled network could
    answer with constants.
    """
    random = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in random.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    if len(x) == 1:
        x = x.repeat(2, 1, 1, 1)  # one image leaves BatchNorm a single value where the map is 1 x 1
    with torch.random.fork_rng():  # dropout
        torch.manual_seed(seed)
        update_bn([x], random)
    return random


def randomization_check(
    explain: Explain, model: nn.Module, x: Tensor, y: Tensor, *, layer: Layer | None = None, seed: int = 0
) -> Verdict:
    """Compare the maps of a model with those of the same model, randomized; `explain` is as `Attribution.function`.

    Source: J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, arXiv 1810.03292, section 3 (there
    parameters are initialized anew, layer by layer).
    """
    return judge(explain(model, x, y, layer), explain(randomize(model, x, seed=seed), x, y, layer))


def judge(before: Tensor, after: Tensor) -> Verdict:
    """Compare maps of a model `(N, H, W)` with those of the randomized one."""
    if len(before) < 2:
        return Verdict("skipped", "needs at least 2 images")
    correlation = float(np.mean(specific_correlation(before, after)))
    similarity = float(np.mean(structural_similarity(before, after)))
    numbers = f"correlation with the maps of the randomized model {correlation:.2f}, SSIM {similarity:.2f}"
    if correlation >= FAIL:
        return Verdict("fail", f"maps survive, so they do not show what was learned: {numbers} (limit {FAIL:g})")
    if correlation >= WARN:
        return Verdict("warn", f"a part of the maps shows the image rather than what was learned: {numbers}")
    return Verdict("pass", f"maps are destroyed: {numbers}")


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.ndim != 3 or first.shape != second.shape:
        raise ValueError(f"maps {tuple(first.shape)} and {tuple(second.shape)} must be of one shape (B, H, W)")
    return first, second


def _ranks(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    one, two = (rankdata(maps.detach().flatten(1).cpu().double().numpy(), axis=1) for maps in _pair(first, second))
    return one - one.mean(axis=1, keepdims=True), two - two.mean(axis=1, keepdims=True)


def _cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Cosine of every row; 1 where both are nil, 0 where one is."""
    squares = (one**2).sum(axis=1), (two**2).sum(axis=1)
    # Ranks and their means are whole or half numbers, so what is left by rounding is far below 1.
    nil = [square < 1e-6 for square in squares]
    found = np.where(nil[0] & nil[1], 1.0, 0.0)
    np.divide((one * two).sum(axis=1), np.sqrt(squares[0] * squares[1]), out=found, where=~(nil[0] | nil[1]))
    return np.asarray(np.clip(found, -1, 1))
