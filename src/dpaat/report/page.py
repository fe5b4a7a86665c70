"""The HTML page about one or several runs."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

import dpaat
from dpaat.errors import UserError, unknown
from dpaat.report.card import model_card
from dpaat.report.comparisons import compare
from dpaat.report.drawing import own_file, own_ids
from dpaat.report.overview import overview_tables
from dpaat.report.sections import all_sections
from dpaat.report.view import RunView, read_run, unique
from dpaat.storage import write_text
from dpaat.tables import code_html

FORMATS = ("html", "md")


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
    text = model_card(views) if format == "md" else render(views, images=images)
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written ({error.strerror})") from None
    return out


def render(runs: Sequence[RunView], *, images: bool) -> str:
    """Fill the template; everything but our own drawings is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dpaat.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count(1)
    environment.filters["svg"] = lambda plot: Markup(own_ids(plot.svg, f"figure{next(numbers)}-"))
    environment.filters["file_uri"] = lambda plot: _uri("image/svg+xml", own_file(plot.svg))
    environment.filters["csv_uri"] = lambda text: _uri("text/csv", text)
    environment.filters["code"] = code_html
    comparisons = compare(runs)
    return environment.get_template("page.html.j2").render(
        runs=runs,
        first=runs[0],
        synthetic=any(run.info.get("synthetic") for run in runs),
        same_data=len({run.info["fingerprint"] for run in runs}) == 1,
        overview=overview_tables(comparisons),
        sections=all_sections(runs, comparisons, images=images),
        licences=unique(runs, "licence"),
        citations=unique(runs, "citation"),
        version=dpaat.__version__,
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
