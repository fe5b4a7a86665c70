"""The delete-one-lesion jackknife of recalls and of average precision.

When a lesion is left out, the others of its class are weighted up to the class's full size, so that the prevalence that
average precision depends on stays what it is. Where an image has several labels, which no class holds together, lesions
are drawn anew instead.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import xlogy

LEVEL = 0.95  # share of the intervals that should cover, where nothing else is asked for
MAX_BLOCKS = 50
"""A class with more lesions is cut at random into so many blocks, left out one at a time for average precision."""
RESAMPLES = 200
SCORES = ("accuracy", "balanced_accuracy", "map", "auroc")
"""Scores of several labels an image that are found on so many resamples of the lesions."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Images in clusters, each within one class; a lesion, or a block of lesions."""

    index: np.ndarray  # the cluster of every image, `(N,)` int64 in 0 to C - 1
    label: np.ndarray  # the class of every cluster, `(C,)` int64

    @property
    def size(self) -> np.ndarray:
        """Images per cluster, `(C,)`."""
        return np.bincount(self.index, minlength=len(self.label))

    def per_class(self, num_classes: int) -> np.ndarray:
        """Clusters per class, `(K,)`."""
        return np.bincount(self.label, minlength=num_classes)


@dataclass(frozen=True, eq=False)
class Moments:
    """A metric with its variance, taken apart by where the variance comes from."""

    value: float
    center: float  # the metric corrected for bias and drawn away from the ends of its range
    variances: np.ndarray  # independent parts of its sampling variance, `(M,)`
    dof: np.ndarray  # degrees of freedom with which each part is known, `(M,)`

    @property
    def variance(self) -> float:
        """Their sum."""
        return float(self.variances.sum())

    @property
    def degrees_of_freedom(self) -> float:
        """Of the variance, by Satterthwaite's approximation."""
        uncertain = np.sum(self.variances**2 / self.dof)
        return float(self.variance**2 / uncertain) if uncertain else np.inf

    def half_width(self, level: float) -> float:
        """Half the length of Student's interval."""
        if not self.variance:
            return 0.0
        return float(stats.t.ppf((1 + level) / 2, self.degrees_of_freedom) * np.sqrt(self.variance))


def find_clusters(labels: np.ndarray, groups: np.ndarray) -> Clusters:
    """Make a cluster of the images that share both lesion and class; labels and groups are `(N,)`."""
    span = int(labels.max()) + 1
    _, lesion = np.unique(groups, return_inverse=True)
    keys, index = np.unique(lesion * span + labels, return_inverse=True)
    return Clusters(index, keys % span)


def merge_clusters(clusters: Clusters, limit: int = MAX_BLOCKS) -> Clusters:
    """Merge the clusters of every class that has more than `limit` into that many, at random but always alike."""
    rng = np.random.default_rng(0)
    block = np.empty(len(clusters.label), dtype=np.int64)
    label: list[int] = []
    for k in np.unique(clusters.label):
        members = np.flatnonzero(clusters.label == k)
        count = min(len(members), limit)
        block[members] = len(label) + rng.permutation(np.arange(len(members)) % count)
        label += [int(k)] * count
    return Clusters(block[clusters.index], np.array(label))


def recall_moments(
    values: np.ndarray, clusters: Clusters, weights: np.ndarray, smoothing: float, *, paired: bool
) -> Moments:
    """Moments of a sum of recalls, weighted by `weights` `(K,)`, or of differences of recalls (`paired`).

    A recall is a ratio of sums over lesions, so the jackknife needs no repetition: leaving out a lesion with m of
    the class's n images, x of them right, moves a recall r by (x - r m) / n to first order. `values` `(N,)` are 1 for a
    right image and 0 for a wrong one, means of such, or differences.

    `smoothing` weighs a made-up lesion of average size in every class, without which a rare class with no error would
    count as known exactly: two, one right and one wrong, or one without difference. A class of one lesion shows no
    spread: it takes the largest variance that a recall can have, 1/4, or for a difference its square. Degrees of
    freedom are counted for differences; elsewhere smoothing has widened the variance enough.
    """
    present, size = np.flatnonzero(weights), clusters.size
    images = np.bincount(clusters.label, size, len(weights))[present]
    lesions = clusters.per_class(len(weights))[present]
    sums = np.bincount(clusters.index, values)
    raw = np.bincount(clusters.label, sums, len(weights))[present] / images
    made_up = np.array([0.0] if paired else [0.0, 1.0])
    share = smoothing / lesions
    rate = (raw + share * made_up.sum()) / (1 + share * len(made_up))

    all_rates = np.zeros(len(weights))
    all_rates[present] = rate
    moves = np.bincount(clusters.label, (sums - all_rates[clusters.label] * size) ** 2, len(weights))[present]
    moves = moves / images**2 + share / lesions * np.sum((made_up - rate[:, None]) ** 2, axis=1)
    spread = moves / (1 + share * len(made_up)) ** 2 * lesions / np.maximum(lesions - 1, 1)
    spread = np.where(lesions > 1, spread, raw**2 if paired else 0.25)
    w = weights[present]
    dof = np.where(paired & (lesions > 1), lesions - 1.0, np.inf)
    return Moments(float(w @ raw), float(w @ rate), w**2 * spread, dof)


def leave_out_precision(scores: np.ndarray, labels: np.ndarray, target: int, blocks: Clusters) -> np.ndarray:
    """One-vs-rest average precision of a class on all images and without each block, `(1 + C,)`.

    Images of equal score are ranked together, as in `torchmetrics.functional.binary_average_precision`. The class
    must have images; without its only block it counts 0.
    """
    positive = np.flatnonzero(labels == target)
    positive = positive[np.argsort(-scores[positive], kind="stable")]
    n = len(positive)
    # For every image, the first image of the class, in falling order, that it does not score below.
    place = np.searchsorted(-scores[positive], -scores, side="left")
    counts = np.bincount(blocks.index * (n + 1) + place, minlength=len(blocks.label) * (n + 1))
    above = counts.reshape(len(blocks.label), n + 1)[:, :n].cumsum(axis=1, dtype=float)
    everything = above.sum(axis=0)
    hits = above[blocks.label == target].sum(axis=0)

    result = np.empty(1 + len(blocks.label))
    result[0] = np.mean(hits / everything)
    size = blocks.size
    for k in np.unique(blocks.label):
        rows = np.flatnonzero(blocks.label == k)
        if k == target and len(rows) == 1:
            result[1 + rows] = 0.0
            continue
        images = size[rows].sum()
        scale = images / np.maximum(images - size[rows], 1)[:, None]
        rest = above[rows].sum(axis=0) - above[rows]
        rest *= scale
        if k == target:
            chosen = everything - hits + rest
            precision = np.divide(rest, chosen, out=np.zeros_like(rest), where=chosen > 0)
            precision *= blocks.index[positive] != rows[:, None]
            result[1 + rows] = precision.sum(axis=1) * scale[:, 0] / n
        else:
            rest += everything - above[rows].sum(axis=0)
            result[1 + rows] = np.divide(hits, rest, out=rest).mean(axis=1)
    return result


def precision_moments(
    precision: np.ndarray, blocks: Clusters, clusters: Clusters, smoothing: float, *, paired: bool
) -> Moments:
    """Moments of the mean average precision, or of a difference of two (`paired`).

    `precision` is what `leave_out_precision` gives for every class, or a mean or difference of such, `(1 + C, K)`, NaN
    for absent classes; `smoothing` weighs a made-up lesion in every class that the model misses, or that both models
    rank alike. The jackknife's estimate of the bias is taken off the center: the average precision of few images is too
    high, since each is ranked above itself. No degrees of freedom are lost: for a statistic as bent as this one the
    jackknife's variance is too large (B. Efron, C. Stein, Annals of Statistics 9, 1981).
    """
    num_classes = precision.shape[1]
    present = np.flatnonzero(~np.isnan(precision[0]))
    full, without = precision[0, present], precision[1:, present]
    bias, variances = np.zeros(len(present)), np.zeros(len(present))
    for i, k in enumerate(present):
        rows = without[blocks.label == k]
        bias += (len(rows) - 1) * (rows.mean(axis=0) - full)
        variances[i] = (len(rows) - 1) * rows.mean(axis=1).var()
    corrected = full - bias
    if not paired:
        images = np.bincount(clusters.label, clusters.size, num_classes)[present]
        share = images / images.sum()
        # No ranking has a lower average precision than the one that puts the class last.
        corrected = np.clip(corrected, 1 + xlogy(1 - share, 1 - share) / share, 1)
    lesions = clusters.per_class(num_classes)[present]
    center = corrected * lesions / (lesions + smoothing)
    alone = np.square(full) if paired else np.full(len(present), 0.25)
    own = np.where(lesions > 1, smoothing * (full / (lesions + smoothing)) ** 2, alone)
    variances += own / len(present) ** 2
    return Moments(float(full.mean()), float(center.mean()), variances, np.full(len(present), np.inf))


def resampled_scores(
    answers: np.ndarray, labels: np.ndarray, scores: np.ndarray | None, groups: np.ndarray
) -> np.ndarray:
    """Scores of `SCORES` on the images, then on resamples of their groups, `(4, 1 + RESAMPLES)`: the cluster bootstrap.

    Labels of one image, and images of one patient, are drawn together. Alike for all runs on the same images, so that
    differences are paired. NaN for mean average precision and AUROC without `scores`.
    """
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights = np.vstack([np.ones(len(labels)), drawn[:, member]])
    right, yes, no = answers.astype(bool) == (labels == 1), labels == 1, labels == 0
    mixed = [k for k in range(labels.shape[1]) if yes[:, k].any() and no[:, k].any()]
    present = np.flatnonzero((yes | no).any(axis=0))
    ranking = np.full((2, len(weights)), np.nan)
    # A resample may hold no image of a rare label, which then does not count in it.
    with np.errstate(invalid="ignore"), warnings.catch_warnings(action="ignore"):
        accuracy = (weights @ (right & (yes | no))).sum(1) / (weights @ (yes | no)).sum(1)
        sides = np.stack([weights @ (right & side) / (weights @ side) for side in (yes, no)])
        balanced = np.nanmean(np.nanmean(sides[:, :, present], axis=0), axis=1)
        if scores is not None and mixed:
            ranking = np.nanmean([_ranking(weights, labels[:, k], scores[:, k]) for k in mixed], axis=0)
    return np.stack([accuracy, balanced, *ranking])


def _ranking(weights: np.ndarray, y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Average precision and AUROC `(2, B)` of a label by weights of the images `(B, N)`, ties together."""
    order = np.flatnonzero(y >= 0)
    order = order[np.argsort(-score[order], kind="stable")]
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(weights[:, order] * (y[order] == 1), axis=1)[:, ends]
    all_ = np.cumsum(weights[:, order], axis=1)[:, ends]
    rise, false = np.diff(hits, axis=1, prepend=0), np.diff(all_ - hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        precision = np.nansum(rise * (hits / all_), axis=1) / hits[:, -1]
        return np.stack([precision, (false * (hits - rise / 2)).sum(1) / (hits[:, -1] * false.sum(1))])
