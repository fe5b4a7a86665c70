"""Reports on runs: one HTML page, or a model card."""

import datetime
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import dpaat
from dpaat.errors import UserError, unknown
from dpaat.report.blocks import Facts, make_sections
from dpaat.report.card import model_card
from dpaat.report.comparison import Report, side_by_side
from dpaat.report.drawing import Plot
from dpaat.report.gallery import data_uri
from dpaat.report.sections.masking import overview_tables
from dpaat.report.view import read_run, window_text
from dpaat.storage import refuse_overwriting, write_text, writing
from dpaat.tables import code_html

FORMATS = {"html": "<!doctype html>", "md": "---\n"}
"""How a file of each begins."""
USE = "For research. Not a medical device, and not for use in diagnosis or treatment."
FILE = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '
"""How a drawing begins in a file of its own."""


def write_report(
    runs: Sequence[Path], out: Path, *, format: str = "html", images: bool = True, title: str = "", author: str = ""
) -> Path:
    """Write one self-contained HTML page, or a model card, about one run or several side by side.

    The page needs no network and no JavaScript. What a run does not have yet (evaluation, explanation, log) it says is
    missing.

    Args:
        runs: run folders, in the order wanted.
        out: the file to write.
        format: "html" for the page, "md" for a model card as model hubs take it.
        images: show images of the data on the page, which needs the data and the checkpoints.
        title: of the report, by default the runs and the data.
        author: who answers for it, by default not named.

    Returns:
        `out`.

    Raises:
        UserError: no run, not a run folder, or a file that cannot be read or written.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    refuse_overwriting(out, FORMATS[format])
    if not runs:
        raise UserError("give at least one run folder to report on")
    views = [read_run(path, name) for path, name in zip(runs, _names(runs), strict=True)]
    names, data = ([*dict.fromkeys(each)] for each in zip(*((v.name, v.info["data"]) for v in views), strict=True))
    title = title or f"{', '.join(names)} on {', '.join(data)}"
    report = Report(views, side_by_side(views), images=images and format == "html", title=title, author=author)
    text = model_card(report) if format == "md" else render(report)
    with writing(out, "the report cannot be written"):
        write_text(out, text)
    return out


def templates() -> jinja2.Environment:
    """The templates of pages; everything but our own drawings is escaped."""
    loader, numbers = jinja2.PackageLoader("dpaat.report"), itertools.count(1)
    rules: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, autoescape=True, **rules)

    def svg(plot: Plot) -> Markup:
        """A drawing with ids of its own, so that several can be on one page."""
        return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\1figure{next(numbers)}-", plot.svg))

    environment.filters["svg"] = svg
    environment.filters["file_uri"] = lambda plot: data_uri("image/svg+xml", plot.svg.replace("<svg ", FILE, 1))
    environment.filters["csv_uri"] = lambda text: data_uri("text/csv", text)
    environment.filters["code"] = code_html
    return environment


def render(report: Report) -> str:
    """Fill the template of the report."""
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            report=report,
            facts=_facts(report),
            synthetic=any(run.info.get("synthetic") for run in report.runs),
            same_data=len(report.unique("fingerprint")) == 1,
            overview=overview_tables(report.comparisons),
            sections=make_sections(report),
            licences=report.unique("licence"),
            citations=report.unique("citation"),
            version=dpaat.__version__,
        )
    )


def _facts(report: Report) -> Facts:
    """Date, author, data and use, for the head of the page."""
    described = []
    for info in {run.info["fingerprint"]: run.info for run in report.runs}.values():
        counts, sizes = info.get("split_counts") or {}, info.get("split_sizes") or {}  # sizes where labels are several
        splits = {name: sizes.get(name, sum(each.values())) for name, each in counts.items()}
        images = f"{sum(splits.values()):,} images ({', '.join(f'{n:,} {name}' for name, n in splits.items())}), "
        licence = info.get("licence") or "unknown"
        text = f"{info['data']}: {images if splits else ''}{len(info['classes'])} classes, licence {licence}"
        described.append(text + window_text(info.get("window")))
    sizes = sorted({run.config.image_size for run in report.runs})
    networks = ", ".join(dict.fromkeys(run.config.model for run in report.runs))
    pixels = ", ".join(f"{size} x {size}" for size in sizes)
    facts = [("date", f"{datetime.date.today():%d %B %Y}"), *([("author", report.author)] if report.author else [])]
    facts += [("data", "; ".join(described)), ("networks", f"{networks}, images of {pixels} pixels")]
    return Facts([*facts, ("intended use", USE)])


def _names(runs: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in runs]
    if len(set(names)) < len(names):
        return [str(path) for path in runs]
    # The cells of a benchmark end alike, in network, data, fold and seed.
    parts = [name.split("-") for name in names]
    while len(names) > 1 and min(map(len, parts)) > 1 and len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]
    return ["-".join(each) for each in parts]
