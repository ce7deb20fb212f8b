"""The report: one self-contained HTML page that shows what a run found and why the planner chose so.

`write_report` makes the page, `write_decision` a page of one decision; `figures` draws PNG pictures for
documents.
"""

from vine_vla.report.inputs import Results, load_results
from vine_vla.report.page import Decided, ReportConfig, build_report, write_decision, write_report
from vine_vla.report.traces import Frame, Trace, load_trace, trace_files

__all__ = [
    "Decided",
    "Frame",
    "ReportConfig",
    "Results",
    "Trace",
    "build_report",
    "load_results",
    "load_trace",
    "trace_files",
    "write_decision",
    "write_report",
]
