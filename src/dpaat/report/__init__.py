"""Reports on runs: one HTML page, or a model card."""

from dpaat.registry import import_all
from dpaat.report.page import write_report

__all__ = ["write_report"]

import_all("dpaat.report.sections", "dpaat.sections")
