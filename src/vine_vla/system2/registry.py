"""The registry of backends: those of this package, and those that installed packages bring by an entry point.

Another package registers a kind with an entry point of the group `vine.backends` whose value is its
`BackendKind`:

    [project.entry-points."vine.backends"]
    tabular = "my_package.tabular:BACKEND"
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from vine_vla.core.errors import VineError
from vine_vla.system2.backend import BackendKind

GROUP = "vine.backends"
BUILT_IN = {"compact": "vine_vla.system2.compact"}
"""Name -> module with a `BACKEND`; imported when asked for."""


def backend_names() -> tuple[str, ...]:
    """Names of all kinds, this package's first; nothing is imported."""
    return (*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILT_IN)))


@cache
def find_backend(name: str) -> BackendKind:
    """The kind called `name`.

    Raises:
        VineError: there is none, or the package that brings it does not work.
    """
    if name in BUILT_IN:
        found = import_module(BUILT_IN[name]).BACKEND
    else:
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            raise VineError(f"unknown backend {name!r}", hint=f"known backends: {', '.join(backend_names())}")
        try:
            found = points[0].load()
        except Exception as error:  # somebody else's package: whatever it raises is bad input to us
            raise VineError(
                f"backend {name!r} cannot be loaded: {type(error).__name__}: {error}", where=points[0].value
            ) from error
    if not isinstance(found, BackendKind) or found.name != name:
        raise VineError(
            f"the backend {name!r} is no `BackendKind` of that name", hint="see vine_vla.system2.backend"
        )
    return found
