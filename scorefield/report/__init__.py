"""The report: one self-contained HTML page made from the files of a run folder."""

from scorefield.report.page import build_report

__all__ = ["build_report"]
