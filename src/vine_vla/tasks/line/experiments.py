"""Named experiments of the line, as plain data; what is not given has the experiment's own default."""

from __future__ import annotations

from typing import Any

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "line-quick": {
        "about": "minutes: 500 demonstrations, System 2 on scene graphs, three training seeds, 60 scenes",
        "scenes": "0:60",
        "demonstrations": 500,
        "training_seeds": (0, 1, 2),
        "perception": "true",
        "skill": "scripted",
        "members": 4,
        "effort": 0.3,
        "expansions": 24,
        "arms": ("success-only", "vine"),
        "workers": 1,
        "threads": 1,
    },
}
