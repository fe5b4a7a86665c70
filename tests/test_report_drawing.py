"""Nothing in a drawing is cut or runs into another."""

from itertools import pairwise

import pytest

from dpaat.report import drawing
from dpaat.report.figures import Estimate, whisker_plot

LONG = "worst of APGD-CE-20, APGD-T-10 at 4/255"


@pytest.mark.parametrize("radii", [(1, 2, 4, 8), (2, 4, 8), (0.5, 1, 2, 4), (1, 2, 3, 4, 5, 6, 7, 8), (16,)])
@drawing.STYLED
def test_names_of_radii_stay_apart(radii):
    axes = drawing.axes_of(2.9)
    drawing.radius_ticks(axes, [0.0, *(radius / 255 for radius in radii)])
    axes.set_xlim(-0.04 * radii[-1] / 255, 1.04 * radii[-1] / 255)
    drawing.label_ends(axes, [("a name of twenty one", 0.5, "#000000")])
    axes.get_figure(root=True).draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) > 1
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_the_legend_names_the_radius_of_a_long_condition():
    plot = whisker_plot({LONG: {"pgd": Estimate(0.1, (0.0, 0.2))}}, x_label="points", caption="Differences.")
    assert LONG in plot.svg
