"""The report: one self-contained HTML page that shows what a run found and why the planner chose so.

`write_report` makes the page, `write_decision` a page of one decision; `figures` draws PNG pictures for
documents.
"""

from vine_vla.report.config import ReportConfig

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

_LATE = {
    "Decided": "page",
    "Frame": "traces",
    "Results": "inputs",
    "Trace": "traces",
    "build_report": "page",
    "load_results": "inputs",
    "load_trace": "traces",
    "trace_files": "traces",
    "write_decision": "page",
    "write_report": "page",
}


def __getattr__(name: str) -> object:
    """Parts are imported when asked for, so that the command's help starts fast."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(name)
