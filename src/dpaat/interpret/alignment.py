"""Alignment of input gradient and image."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln
from torch import Tensor


def gradient_alignment(gradient: Tensor, x: Tensor) -> np.ndarray:
    """Absolute cosine between input gradient and image `(B, C, H, W)`, both freed of their mean in every channel.

    Without that, the cosine would tell how bright the image is. Robust linear classifiers are aligned exactly. Returns
    `(B,)` float64 in [0, 1]; 0 where either is uniform.

    Source: C. Etmann et al., "On the Connection Between Adversarial Robustness and Saliency Map Interpretability",
    ICML 2019, arXiv 1905.04172, section 2 (there without absolute value and centring).
    """
    if gradient.shape != x.shape or x.ndim != 4:
        raise ValueError(f"gradient {tuple(gradient.shape)} and images {tuple(x.shape)} must be of one shape")
    one, two = (_centred(part) for part in (gradient, x))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    dot = np.abs((one * two).sum(axis=1))
    return np.asarray(np.minimum(np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths > 0), 1.0))


def alignment_chance(channels: int, height: int, width: int) -> float:
    """Mean absolute cosine with a random direction among images freed of their means.

    In d dimensions gamma(d / 2) / (sqrt(pi) gamma((d + 1) / 2)), about sqrt(2 / (pi d)).
    """
    d = channels * (height * width - 1)
    return float(np.exp(gammaln(d / 2) - gammaln((d + 1) / 2)) / np.sqrt(np.pi)) if d else 0.0


def _centred(images: Tensor) -> np.ndarray:
    values = images.detach().cpu().double()
    centred = values - values.mean(dim=(2, 3), keepdim=True)
    # Rounding leaves a uniform image a direction of its own.
    centred[centred.abs() <= 1e-12 * values.abs().amax(dim=(2, 3), keepdim=True)] = 0
    return np.asarray(centred.flatten(1).numpy())
