"""Pages for people: the report of a run, the comparison of generators, and their charts."""

from augmill.tasks.report.comparison import cut, cuts, enlarge, lines, measured, page, plot, ratio_of, table, totals
from augmill.tasks.report.report import ReportEvidence, Sample, render_report, report_markdown, report_table

__all__ = [
    "ReportEvidence",
    "Sample",
    "cut",
    "cuts",
    "enlarge",
    "lines",
    "measured",
    "page",
    "plot",
    "ratio_of",
    "render_report",
    "report_markdown",
    "report_table",
    "table",
    "totals",
]
