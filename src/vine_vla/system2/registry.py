"""The registry of backends.

Another package registers a kind with an entry point of the group `vine.backends` whose value is its
`BackendKind`:

    [project.entry-points."vine.backends"]
    tabular = "my_package.tabular:BACKEND"
"""

from __future__ import annotations

from vine_vla.core.registry import Registry
from vine_vla.system2.backend import BackendKind

BACKENDS = Registry("backend", BackendKind, "vine.backends", {"compact": "vine_vla.system2.compact"})

backend_names, find_backend = BACKENDS.names, BACKENDS.find
