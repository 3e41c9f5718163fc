"""A run directory in, one self-contained HTML file out."""

from rapidun.report.page import write_report

__all__ = ["write_report"]
