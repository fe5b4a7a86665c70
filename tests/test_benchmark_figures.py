"""The figures of a benchmark, from tables made by hand."""

from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from dpaat.benchmark.figures import Plane, pareto_panel, write_forest
from dpaat.report.drawing import look

PLACES = {
    "standard": (0.552, 0.06),
    "pgd-1": (0.53, 0.20),
    "pgd-2": (0.50, 0.21),
    "pgd-4": (0.40, 0.30),
    "ours": (0.55, 0.12),
}


def table(places: dict[str, tuple[float, float]], fronts: dict) -> dict:
    def score(value: float) -> dict:
        return {"value": value, "interval": [value - 0.04, value + 0.04]}

    rows = [
        {
            "recipe": name,
            "family": "pgd" if name.startswith("pgd") else None,
            "scores": {"x": score(x), "y": score(y)},
            "fronts": fronts if name == "ours" else {},
        }
        for name, (x, y) in places.items()
    ]
    return {"data": "folder", "model": "m", "rows": rows}


def panel(shown: dict):
    axes = Figure().subplots()
    names = {row["family"] or row["recipe"]: look(0) for row in shown["rows"]}
    pareto_panel(axes, shown, Plane("x", "y", "", ""), names)
    axes.figure.draw_without_rendering()
    return axes


def test_ticks_of_the_pareto_plot_say_where_they_are():
    axes = panel(table({"standard": PLACES["standard"]}, {}))
    for axis in (axes.xaxis, axes.yaxis):
        shown = [float(label.get_text().removesuffix(" %")) for label in axis.get_ticklabels()]
        assert shown == pytest.approx(100 * axis.get_ticklocs())


def test_the_pareto_plot_shows_the_front_that_is_compared_with():
    """`pgd-2` lies below the line from `pgd-1` to `pgd-4`; `pgd-8`, with fewer runs, would stand above all."""
    members = ["standard", "pgd-1", "pgd-2", "pgd-4"]
    axes = panel(table(PLACES | {"pgd-8": (0.53, 0.40)}, {"pgd": {"members": members}}))
    (dashed,) = [line for line in axes.lines if line.is_dashed()]
    corners = [PLACES[name] for name in ("pgd-4", "pgd-1", "standard")]
    assert [tuple(point) for point in dashed.get_xydata()] == corners


def comparison(difference: float, interval: list[float], p: float) -> dict:
    return {"difference": difference, "interval": interval, "p_adjusted": p}


def drawn(path) -> tuple[str, list[str]]:
    root = ElementTree.parse(path).getroot()
    return "".join(root.itertext()), [use.get("style", "") for use in root.iter("{http://www.w3.org/2000/svg}use")]


def test_the_forest_fills_only_what_is_beyond_chance(tmp_path):
    found = {
        "area": comparison(0.05, [-0.01, 5.0], 0.09),
        "map@1/255": comparison(0.09, [0.07, 0.13], 1e-4),
        "map@2/255": comparison(0.06, [0.04, 0.1], 0.049),
    }
    document = {"tables": [table(PLACES, {"pgd": {"differences": found}})], "evaluation": {"eps": [1 / 255, 2 / 255]}}
    assert write_forest(document, tmp_path / "forest.svg")
    text, marks = drawn(tmp_path / "forest.svg")
    assert all(word in text for word in ("folder, m", "ours vs pgd", "area", "mAP at 1/255", "mAP at 2/255"))
    filled = [mark for mark in marks if "fill: #0072b2" in mark]
    hollow = [mark for mark in marks if "fill: #ffffff" in mark and "stroke: #0072b2" in mark]
    arrows = 2  # where the intervals of the area and of mAP at 2/255 leave their panels
    assert (len(filled), len(hollow)) == (2 + arrows, 1)


def test_without_a_front_there_is_no_forest(tmp_path):
    out = tmp_path / "forest.svg"
    out.write_text("of an earlier summary")
    assert not write_forest({"tables": [table(PLACES, {})], "evaluation": {"eps": [1 / 255]}}, out)
    assert not out.exists()
