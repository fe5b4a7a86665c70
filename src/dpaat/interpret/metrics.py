"""Metrics of attribution maps: localization with chance levels, faithfulness, alignment with the image.

Ties in a map are scored by the mean over all ways to break them, so that an empty and a uniform map score exactly their
chance level, whichever of their pixels a sort would put first.
"""

import numpy as np
import torch
from scipy.special import gammaln
from scipy.stats import hypergeom
from torch import Tensor, nn

from dpaat.attacks.gradient import evaluation_mode
from dpaat.interpret.maps import mean_colour

Array = np.ndarray
STEPS = 16  # parts into which deletion and insertion cut the pixels


def energy_inside(maps: Tensor, masks: Tensor) -> Array:
    """Share of a map's total that lies inside the mask, `(B,)` in [0, 1]; of an empty map the chance level.

    Maps `(B, H, W)` are finite, 0 or larger; masks are bool of that shape with at least one pixel True in each. Chance
    level: the mask's share of the area. Raises ValueError for other shapes or values.

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
    found = []
    for value, mask in zip(*_flat(maps, masks), strict=True):
        k = int(mask.sum())
        threshold = np.partition(value, -k)[-k]
        above, tied = value > threshold, value == threshold
        sure = int((above & mask).sum())
        found.append(_expected_iou(k, sure, int(tied.sum()), int((tied & mask).sum()), k - int(above.sum())))
    return np.array(found)


def area_chance(masks: Tensor) -> Array:
    """Chance level of energy and pointing game: the mask's share of the area, `(B,)`."""
    return np.asarray(masks.cpu().flatten(1).double().mean(dim=1).numpy())


def iou_chance(masks: Tensor) -> Array:
    """Chance level of `top_area_iou`: its mean over all sets of as many pixels as the mask has, `(B,)`."""
    size = masks[0].numel()
    return np.array([_expected_iou(k, 0, size, k, k) for k in masks.flatten(1).sum(dim=1).tolist()])


def deletion_insertion(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    maps: Tensor,
    *,
    steps: int = STEPS,
    generator: torch.Generator | None = None,
    several: bool = False,
) -> tuple[Array, Array]:
    """Areas under the deletion (lower is better) and the insertion curve (higher is better), each `(B,)` in [0, 1].

    Deletion paints the pixels of images `(B, C, H, W)` in their mean colour, those first that are highest in `maps`
    `(B, H, W)`; insertion begins with nothing but that colour and shows them in the same order, `steps` times an equal
    part. The curve is the probability of class `y` (of `several` labels, of that one) over the share of pixels, its
    area by the trapezoidal rule. Pixels of equal importance come in random order, by the generator on the device of
    `maps`: what the areas are by chance a map of one value tells. Raises ValueError for shapes that do not fit, or no
    steps.

    Source: V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC
    2018, arXiv 1806.07421, section 4.3.
    """
    if steps < 1 or maps.shape != (len(x), *x.shape[2:]):
        raise ValueError(f"maps {tuple(maps.shape)} do not fit images {tuple(x.shape)}, or steps {steps} below 1")
    values = maps.flatten(1)
    shuffled = torch.rand(values.shape, generator=generator, device=values.device).argsort(dim=1)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    place = order.argsort(dim=1).reshape(maps.shape)
    plain = mean_colour(x)
    curves = []
    with evaluation_mode(model), torch.no_grad():
        for step in range(steps + 1):
            chosen = (place < round(maps[0].numel() * step / steps))[:, None]
            for image in (torch.where(chosen, plain, x), torch.where(chosen, x, plain)):
                logits = model(image).cpu().double()
                probability = logits.sigmoid() if several else logits.softmax(dim=1)
                curves.append(probability.gather(1, y.cpu()[:, None])[:, 0].numpy())
    deletion, insertion = np.array(curves[0::2]), np.array(curves[1::2])
    return np.trapezoid(deletion, axis=0) / steps, np.trapezoid(insertion, axis=0) / steps


def gradient_alignment(gradient: Tensor, x: Tensor) -> Array:
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


def _centred(images: Tensor) -> Array:
    values = images.detach().cpu().double()
    centred = values - values.mean(dim=(2, 3), keepdim=True)
    # Rounding leaves a uniform image a direction of its own.
    centred[centred.abs() <= 1e-12 * values.abs().amax(dim=(2, 3), keepdim=True)] = 0
    return np.asarray(centred.flatten(1).numpy())
