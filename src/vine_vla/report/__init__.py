"""The report: one self-contained HTML page that shows what a run found and why the planner chose so."""

from vine_vla.report.inputs import Results, load_results
from vine_vla.report.traces import Trace, load_trace, trace_files

__all__ = ["Results", "Trace", "load_results", "load_trace", "trace_files"]
