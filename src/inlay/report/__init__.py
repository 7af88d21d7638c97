"""A run's report: one self-contained HTML page made from the files in the run's folder."""

from .html import write_report

__all__ = ["write_report"]
