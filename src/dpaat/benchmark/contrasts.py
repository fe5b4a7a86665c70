"""Contrasts over several conditions at once: areas under curves, and recipes against the front of a sweep."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from dpaat.evaluation.fronts import upper_hull
from dpaat.evaluation.replicates import Fold, find_moments
from dpaat.evaluation.statistics import SIGNIFICANT, Contrast, contrast


@dataclass(frozen=True, eq=False)
class Point:
    """A recipe in a plane of two metrics, such as clean balanced accuracy and robust area, on the same images."""

    x: Sequence[Fold]  # outcomes behind the abscissa, one per fold
    y: Sequence[Fold]  # outcomes behind the ordinate
    metric: str  # key of `find_moments` that both are read by

    @property
    def place(self) -> tuple[float, float]:
        """The values of both."""
        x, y = (find_moments(folds, paired=True)[self.metric].value for folds in (self.x, self.y))
        return x, y


def combine(parts: Sequence[tuple[float, Sequence[Fold]]]) -> list[Fold]:
    """Add outcomes on the same images with weights, image by image; outcomes are one per fold.

    Every metric of a `Fold` is linear in its outcomes, so the metric of the sum is the sum of the metrics, and the
    jackknife over lesions takes in that the parts are correlated.
    """
    weights = [weight for weight, _ in parts]

    def total(arrays: Sequence[Any]) -> Any:
        whole = all(each is not None for each in arrays)
        return reduce(np.add, map(operator.mul, weights, arrays)) if whole else None

    return [
        replace(
            folds[0],
            **{name: total([getattr(fold, name) for fold in folds]) for name in ("correct", "precision", "resampled")},
        )
        for folds in zip(*(folds for _, folds in parts), strict=True)
    ]


def front_contrast(challenger: Point, baselines: Mapping[str, Point]) -> tuple[Contrast, list[str]]:
    """Compare a recipe with the upper concave hull of others, at the recipe's own abscissa: challenger minus hull.

    The hull is what others attain if they may choose by lot between two of their models, image by image: for balanced
    accuracy and its area exactly, for mAP it is only the straight line. With a and b the neighbours of the challenger c
    on the hull and `t = (x_c - x_a) / (x_b - x_a)`, its height at `x_c` is `(1 - t) y_a + t y_b`. Since `x_c`, `x_a`
    and `x_b` are estimates too, the variance is that of the difference to first order, with the slope s of the line,
    `(y_c - s x_c) - (1 - t) (y_a - s x_a) - t (y_b - s x_b)`, image by image.

    The hull is nowhere above one of its lines, drawn on; so to be above one is enough. To be below counts only if, at
    either end of the line, the recipe is told from that point in x, or is below the next line, drawn on, as well:
    beside a bend it may be chance which line it is at. The interval then ends where that from the next line does,
    but not above that from the lowest point of the hull.

    Beyond its ends the front goes on at the height of its last point: on the left another point is better in both
    metrics, on the right this favours the front. But that a recipe is outside at all may be chance. So the interval
    there also holds that against the last line, drawn on, and the bound and the p-value are the worse of the two. Where
    the front is one point, that is the line to the rightmost of the points below it.

    `baselines` are the others by name, at least one. Returns the contrast, and the names of the one or two of them that
    the challenger is compared with.
    """
    metric = challenger.metric
    places = {name: point.place for name, point in baselines.items()}
    front = upper_hull(places)
    x = challenger.place[0]
    left = sum(places[name][0] <= x for name in front)
    neighbours = front[max(left - 1, 0) : left + 1]
    if len(neighbours) == 2:
        found = _line_contrast(challenger, *(baselines[name] for name in neighbours))
        if found["difference"] < 0:
            found = _hold_beside_bends(found, challenger, [baselines[name] for name in front], left)
        return found, neighbours
    end = contrast(challenger.y, baselines[neighbours[0]].y)[metric]
    if len(front) == 1:
        below = [name for name in places if places[name][0] < places[front[0]][0]]
        if not below:
            return end, front
        front = [max(below, key=lambda name: places[name]), *front]
    last_line = front[-2:] if left else front[:2]
    return _hold_both(end, _line_contrast(challenger, *(baselines[name] for name in last_line))), last_line


def _line_contrast(challenger: Point, a: Point, b: Point) -> Contrast:
    """Compare a recipe with the line through two others, at its own abscissa."""
    (x_a, y_a), (x_b, y_b) = a.place, b.place
    slope, t = (y_b - y_a) / (x_b - x_a), (challenger.place[0] - x_a) / (x_b - x_a)
    ours, left, right = (combine([(1.0, point.y), (-slope, point.x)]) for point in (challenger, a, b))
    return contrast(ours, combine([(1 - t, left), (t, right)]))[challenger.metric]


def _hold_beside_bends(found: Contrast, challenger: Point, hull: Sequence[Point], left: int) -> Contrast:
    """The difference from the line from `hull[left - 1]` to `hull[left]`, told from 0 only where no bend matters."""
    (low, high), p_value = found["interval"], found["p_value"]
    highest = contrast(challenger.y, hull[-1].y)[challenger.metric]["interval"][1]
    for bend, line in ((left - 1, hull[left - 2 : left]), (left, hull[left : left + 2])):
        if 0 < bend < len(hull) - 1:
            beside = contrast(challenger.x, hull[bend].x)[challenger.metric]
            beyond = _line_contrast(challenger, *line)
            p_value = max(p_value, min(beside["p_value"], beyond["p_value"]))
            if beside["p_value"] > SIGNIFICANT:
                high = max(high, min(beyond["interval"][1], highest))
    return {**found, "interval": [low, high], "p_value": p_value}


def _hold_both(first: Contrast, second: Contrast) -> Contrast:
    """The difference of the first contrast, told from 0 only where both are, in the same direction."""
    agree = first["difference"] * second["difference"] > 0
    return Contrast(
        difference=first["difference"],
        interval=[min(first["interval"][0], second["interval"][0]), max(first["interval"][1], second["interval"][1])],
        bound=min(first["bound"], second["bound"]),
        p_value=max(first["p_value"], second["p_value"]) if agree else 1.0,
    )
