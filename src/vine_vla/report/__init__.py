"""The report: one self-contained HTML page that shows what a run found and why the planner chose so.

`write_report` makes the page, `write_decision` a page of one decision; `figures` draws PNG pictures for
documents.
"""

import lazy_loader

from vine_vla.report.config import ReportConfig

# Imported when asked for, so that commands start fast.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inputs": ["Results", "load_results"],
        "page": ["Decided", "build_report", "write_decision", "write_report"],
        "traces": ["Frame", "Trace", "load_trace", "trace_files"],
    },
)
__all__ += ["ReportConfig"]
