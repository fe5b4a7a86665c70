"""Sections of a report, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Sequence

from dpaat.report.blocks import Section
from dpaat.report.comparisons import Comparison
from dpaat.report.sections.accuracy import accuracy_section
from dpaat.report.sections.attribution import attribution_section
from dpaat.report.sections.fragility import fragility_section
from dpaat.report.sections.masking import masking_section
from dpaat.report.sections.reproduction import reproduction_section
from dpaat.report.sections.robustness import robustness_section
from dpaat.report.sections.subgroups import subgroups_section
from dpaat.report.sections.training import training_section
from dpaat.report.view import RunView


def all_sections(runs: Sequence[RunView], comparisons: Sequence[Comparison], *, images: bool) -> list[Section]:
    """Answer all questions about runs side by side and their results by images; `images`: show images of the data."""
    return [
        training_section(runs),
        accuracy_section(runs, comparisons),
        robustness_section(comparisons),
        masking_section(comparisons),
        subgroups_section(comparisons),
        attribution_section(runs, images=images),
        fragility_section(runs, images=images),
        reproduction_section(runs),
    ]
