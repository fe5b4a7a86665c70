"""Pareto fronts of two scores, such as clean accuracy and robustness."""

from collections.abc import Mapping

Places = Mapping[str, tuple[float, float]]  # name to point


def pareto_front(places: Places) -> list[str]:
    """Names of the points that no other reaches in both metrics, by ascending abscissa."""
    front: list[str] = []
    for name in sorted(places, key=lambda each: places[each], reverse=True):
        if not front or places[name][1] > places[front[-1]][1]:
            front.append(name)
    return front[::-1]


def upper_hull(places: Places) -> list[str]:
    """Names of the points of the Pareto front that lie on or above every line between two others of it.

    Along it the price of robustness grows: from point to point, by ascending abscissa, the line descends more steeply.
    """

    def slope(first: str, second: str) -> float:
        (x_a, y_a), (x_b, y_b) = places[first], places[second]
        return (y_b - y_a) / (x_b - x_a)

    hull: list[str] = []
    for name in pareto_front(places):
        while len(hull) > 1 and slope(*hull[-2:]) < slope(hull[-1], name):
            hull.pop()
        hull.append(name)
    return hull
