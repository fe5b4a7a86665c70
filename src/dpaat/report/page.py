"""Reports on runs: one HTML page, or a model card."""

import base64
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import dpaat
from dpaat.errors import UserError, unknown
from dpaat.report.blocks import make_sections
from dpaat.report.card import model_card
from dpaat.report.drawing import Plot
from dpaat.report.sections.masking import overview_tables
from dpaat.report.view import Report, compare, read_run
from dpaat.storage import write_text
from dpaat.tables import code_html

FORMATS = ("html", "md")
FILE = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '
"""How a drawing begins in a file of its own."""


def write_report(runs: Sequence[Path], out: Path, *, format: str = "html", images: bool = True) -> Path:
    """Write one self-contained HTML page, or a model card, about one run or several side by side.

    The page needs no network and no JavaScript. What a run does not have yet (evaluation, explanation, log) it says is
    missing.

    Args:
        runs: run folders, in the order wanted.
        out: the file to write.
        format: "html" for the page, "md" for a model card as model hubs take it.
        images: show images of the data on the page, which needs the data and the checkpoints.

    Returns:
        `out`.

    Raises:
        UserError: no run, not a run folder, or a file that cannot be read or written.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if not runs:
        raise UserError("give at least one run folder to report on")
    views = [read_run(path, name) for path, name in zip(runs, _names(runs), strict=True)]
    report = Report(views, compare(views), images=images and format == "html")
    text = model_card(report) if format == "md" else render(report)
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written ({error.strerror})") from None
    return out


def templates() -> jinja2.Environment:
    """The templates of pages; everything but our own drawings is escaped."""
    loader, numbers = jinja2.PackageLoader("dpaat.report"), itertools.count(1)
    rules: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, autoescape=True, **rules)

    def svg(plot: Plot) -> Markup:
        """A drawing with ids of its own, so that several can stand on one page."""
        return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\1figure{next(numbers)}-", plot.svg))

    environment.filters["svg"] = svg
    environment.filters["file_uri"] = lambda plot: _uri("image/svg+xml", plot.svg.replace("<svg ", FILE, 1))
    environment.filters["csv_uri"] = lambda text: _uri("text/csv", text)
    environment.filters["code"] = code_html
    return environment


def render(report: Report) -> str:
    """Fill the template of the report."""
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            runs=report.runs,
            first=report.runs[0],
            synthetic=any(run.info.get("synthetic") for run in report.runs),
            same_data=len(report.unique("fingerprint")) == 1,
            overview=overview_tables(report.comparisons),
            sections=make_sections(report),
            licences=report.unique("licence"),
            citations=report.unique("citation"),
            version=dpaat.__version__,
        )
    )


def _uri(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _names(runs: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in runs]
    if len(set(names)) < len(names):
        return [str(path) for path in runs]
    # The cells of a benchmark end alike, in network, data, fold and seed.
    parts = [name.split("-") for name in names]
    while len(names) > 1 and min(map(len, parts)) > 1 and len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]
    return ["-".join(each) for each in parts]
