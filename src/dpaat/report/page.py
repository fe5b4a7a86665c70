"""Write everything about one or several runs on one page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

import dpaat
from dpaat.errors import UserError
from dpaat.report.content import SCORES, compare, differences, perturbation_plots, training_plots
from dpaat.report.plots import own_ids
from dpaat.report.view import RunView, read_run
from dpaat.runs import write_text


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write one self-contained HTML page about one run or several side by side.

    It needs no network and no JavaScript. What a run does not have yet (evaluation, log) the page says is missing.

    Args:
        runs: run folders, in the order wanted.
        out: the file to write.

    Returns:
        `out`.

    Raises:
        UserError: no run, not a run folder, or a file that cannot be read or written.
    """
    if not runs:
        raise UserError("give at least one run folder to report on")
    text = render([read_run(path, name) for path, name in zip(runs, _names(runs), strict=True)])
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written ({error.strerror})") from None
    return out


def render(runs: Sequence[RunView]) -> str:
    """Fill the template; everything but our own drawings is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dpaat.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count(1)
    environment.filters["svg"] = lambda plot: Markup(own_ids(plot.svg, f"figure{next(numbers)}-"))
    return environment.get_template("template.html.j2").render(
        runs=runs,
        first=runs[0],
        synthetic=any(run.info.get("synthetic") for run in runs),
        same_data=len({run.info["fingerprint"] for run in runs}) == 1,
        differences=differences(runs),
        comparisons=compare(runs),
        unevaluated=[run.name for run in runs if run.evaluation is None],
        scores=list(SCORES.values()),
        perturbation=[(run, plots) for run in runs if (plots := perturbation_plots(run))],
        training=[(run, plots) for run in runs if (plots := training_plots(run))],
        licences=_unique(runs, "licence"),
        citations=_unique(runs, "citation"),
        version=dpaat.__version__,
    )


def _unique(runs: Sequence[RunView], field: str) -> list[str]:
    return list(dict.fromkeys(text for run in runs if (text := run.info.get(field))))


def _names(runs: Sequence[Path]) -> list[str]:
    short = [path.resolve().name for path in runs]
    return short if len(set(short)) == len(short) else [str(path) for path in runs]
