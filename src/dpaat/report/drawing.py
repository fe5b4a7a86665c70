"""Style of all figures, and their way to inline SVG."""

import csv
import io
import itertools
import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from dpaat.radii import format_radius

# Okabe and Ito's palette, which all common kinds of colour vision tell apart, without its yellow (too pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, MUTED, RULE, GREY = "#1c1f23", "#5b626b", "#d9dde2", "#b3b9c1"
MAX_LINES = 6
USUAL = ("dpaat", "standard")
"""Runs that have a colour however many there are: the default method, and training without attacks."""
MAX_ROWS = 30
LABEL = 0.07
"""Height of a line's name beside a drawing of usual height, as a fraction."""
PLACES = [(x, y) for x, y in itertools.product((0, 7, -7, 14, -14), (6, -12, -3, 15, -21)) if x or y != -3]
"""Offsets in points at which the name of a point is tried."""
WIDTH = 4.6
"""Inches; on a phone a figure is shown at about this size, elsewhere larger."""

STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "dpaat", "text.parse_math": False, "text.color": INK, "font.size": 9},
    **{"axes.edgecolor": RULE, "axes.labelcolor": MUTED, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": "#eceef1"},
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in (("color", MUTED), ("major.size", 0))},
    **{"legend.frameon": False, "legend.labelcolor": INK, "lines.linewidth": 1.6, "lines.markersize": 4.5},
}
SVG: dict[str, Any] = {"format": "svg", "metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))}
"""Arguments of `savefig`: the same drawing is the same file, whenever it is made."""
STYLED = rc_context(STYLE)  # type: ignore[arg-type]
"""Decorates what draws."""


class Plot(NamedTuple):
    """A figure of the page."""

    svg: str  # for the body of a page
    alt: str  # its numbers in words, for those who do not see it
    caption: str
    data: str  # its numbers as CSV

    @property
    def file(self) -> str:
        """A name for the file to save it in, without an ending."""
        return re.sub(r"[^a-z0-9]+", "-", self.caption.lower()).strip("-")[:60].rstrip("-") or "figure"


def write_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a table as CSV; numbers in six digits."""
    buffer = io.StringIO()
    lines = [[f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows]
    csv.writer(buffer, lineterminator="\n").writerows([columns, *lines])
    return buffer.getvalue()


def axes_of(height: float) -> Axes:
    """An empty drawing of some inches; to be filled and finished within `STYLED`."""
    canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
    canvas.patch.set_alpha(0)
    return canvas.subplots()


def finish(axes: Axes, caption: str, told: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Plot:
    """Make a figure of a drawing; `told` are its numbers in words, `columns` and `rows` the same for a CSV."""
    return Plot(to_svg(axes.get_figure(root=True)), f"{caption} {told}", caption, write_csv(columns, rows))


def to_svg(canvas: Canvas | None) -> str:
    """The drawing as SVG, for the body of a page."""
    assert canvas is not None
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser's fonts draw the text
        canvas.savefig(buffer, **SVG)
    text = buffer.getvalue().partition("<svg")[2]
    text = re.sub(r"(?<=\.\d\d)\d+", "", text)  # a hundredth of a point is enough, and a third of the size
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Without a width and a height of its own the drawing takes those of its place on the page.
    return re.sub(r'^[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text)


def legend(axes: Axes) -> None:
    """Put the legend above the axes, in as many columns as fit the whole drawing."""
    handles, names = axes.get_legend_handles_labels()
    names = [short(name, 55) for name in names]
    columns = max(1, min(4, 60 // (max(map(len, names)) + 5)))
    place: dict[str, Any] = {"loc": "outside upper left", "borderaxespad": 0.2}
    axes.figure.legend(handles, names, ncols=columns, handlelength=1.5, columnspacing=1.0, **place)


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write names of lines to the right of the axes: name, height of the line's end, colour; none over another."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[1])
    heights = [(y - low) / (high - low) for _, y, _ in ends]
    for k in range(1, len(ends)):
        heights[k] = max(heights[k], heights[k - 1] + LABEL)
    for k in reversed(range(len(ends))):
        heights[k] = min(heights[k], 1 - LABEL * (len(ends) - 1 - k))
    for (name, _, colour), height in zip(ends, heights, strict=True):
        style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center"}
        axes.annotate(short(name, 20), (1, height), (5, 0), color=colour, fontsize=8, annotation_clip=False, **style)


def label_points(axes: Axes, points: Sequence[tuple[str, float, float]], colours: Sequence[str]) -> None:
    """Write names beside points where they touch neither a point nor another name; one without room is left out.

    To be called when limits and layout of the drawing are final.
    """
    places = [(x, y) for _, x, y in points]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform(places)]
    frame = axes.get_window_extent().padded(2)
    for (name, *_), place, colour in zip(points, places, colours, strict=True):
        for x, y in PLACES if name else ():
            style: dict[str, Any] = {"ha": "center" if abs(x) < 7 else "left" if x > 0 else "right", "fontsize": 7.5}
            label = axes.annotate(name, place, (x, y), textcoords="offset points", color=colour, **style)
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def radius_ticks(axes: Axes, radii: Sequence[float]) -> None:
    """Write radii below the axes, leaving out those that would run into each other."""
    shown = [radii[0]]
    for radius in radii[1:]:
        if radius - shown[-1] >= 0.14 * (radii[-1] - radii[0]):  # about what a label needs
            shown.append(radius)
    axes.set_xticks(shown, [format_radius(radius) for radius in shown], fontsize=8)


def percent_axis(*axes: Axis, prune: Literal["lower"] | None = None) -> None:
    """Write fractions along axes as percent; with `prune` not at the corner, where two would run into each other."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], prune=prune))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def look(number: int) -> dict[str, Any]:
    """A colour and a marker; no two of the first 49 series share both."""
    turn, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[(colour + turn) % len(MARKERS)]}


def band_look(number: int) -> dict[str, Any]:
    """How the interval around a line is drawn: pale, with an edge that is still seen where two bands cross."""
    return {"facecolor": to_rgba(COLOURS[number], 0.09), "edgecolor": to_rgba(COLOURS[number], 0.45), "linewidth": 0.5}


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names beside the rows 0, 1, ... of a drawing, the first on top."""
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)


def short(name: str, length: int = 27) -> str:
    """A name that fits beside a drawing."""
    return name if len(name) <= length else name[: length - 1] + "…"
