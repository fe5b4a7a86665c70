"""One page where people look at runs rather than read logs."""

from __future__ import annotations

from dpaat.report.page import write_report

__all__ = ["write_report"]
