"""Sections of a report: each registers itself where it is defined."""
