"""The questions that a report answers, each by a section, in the order in which a reader asks them."""

from __future__ import annotations

from collections.abc import Sequence

from dpaat.report.blocks import Section
from dpaat.report.comparisons import Comparison
from dpaat.report.sections.accuracy import accuracy_section
from dpaat.report.sections.attention import attention_section
from dpaat.report.sections.belief import belief_section
from dpaat.report.sections.fragility import fragility_section
from dpaat.report.sections.people import people_section
from dpaat.report.sections.reproduction import reproduction_section
from dpaat.report.sections.robustness import robustness_section
from dpaat.report.sections.training import training_section
from dpaat.report.view import RunView


def all_sections(runs: Sequence[RunView], comparisons: Sequence[Comparison], *, images: bool) -> list[Section]:
    """Answer all questions.

    Args:
        runs: as they are to stand side by side.
        comparisons: their results, by images.
        images: show images of the data.
    """
    return [
        training_section(runs),
        accuracy_section(runs, comparisons),
        robustness_section(comparisons),
        belief_section(comparisons),
        people_section(comparisons),
        attention_section(runs, images=images),
        fragility_section(runs, images=images),
        reproduction_section(runs),
    ]
