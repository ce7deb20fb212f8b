"""Named experiments of PlugInsertion, as plain data; what is not given has the experiment's own default."""

from __future__ import annotations

from typing import Any

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "plug-quick": {
        "about": "a quarter of an hour: 150 demonstrations, 200 of recovery, three arms, 30 dev scenes",
        "demonstrations": 150,
        "recovery_episodes": 200,
        "system1_steps": 3600,
        "perception_steps": 600,
        "perception_frames": 5000,
    },
    "plug-full": {
        "about": "hours: 600 demonstrations, a DAgger round, all arms, 300 test scenes",
        "scenes": "400:700",
        "demonstrations": 600,
        "pool": 1200,
        "recovery_episodes": 800,
        "system1_steps": 8000,
        "dagger_rounds": 1,
        "dagger_episodes": 400,
        "dagger_steps": 8000,
        "flat_steps": 16000,  # as many as System 1 takes in all its rounds
        "perception_steps": 3000,
        "execution_probes": 600,
        "arms": (
            "flat",
            "imitate",
            "imitate-all",
            "success-only",
            "success-only:slips-removed",
            "success-only:matched-count",
            "vine",
            "success-only:execution",
            "success-only:slips-removed-execution",
            "success-only:matched-count-execution",
            "vine:execution",
            "oracle-skill",
            "oracle-perception",
            "oracle-value",
        ),
        "slow_scenes": 60,
        "probes": 1000,
        "repeated": 100,
    },
}
