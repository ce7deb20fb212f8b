"""Recorded episodes on disk: one JSON file each with small JPEG images beside it, for the report.

The format is the one `report.traces` reads.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vine_vla.agent import Decision, Execution, outcome_probabilities
from vine_vla.core.protocols import SkillSignals
from vine_vla.core.text import format_graph
from vine_vla.evaluation.episodes import Episode
from vine_vla.storage.files import write_bytes

QUALITY = 88
"""JPEG quality: a 96 px image takes about 3 kB."""


def trace_name(episode: Episode) -> str:
    """File name without suffix, unique in a run: `0417_success-only_slips-removed_t0_p0`."""
    key = episode.key
    arm = re.sub(r"[^a-z0-9]+", "-", f"{key.arm} {key.variant}".lower()).strip("-")
    return f"{key.scene:04d}_{arm}_t{key.training_seed}_p{key.policy_seed}"


def write_trace(episode: Episode, folder: Path, *, instruction: str = "") -> Path:
    """Write the episode under `folder`; images first, so that the JSON never names a missing one."""
    name, key, record = trace_name(episode), episode.key, episode.record
    frames = []
    for frame in record.frames:
        images = {}
        for camera, image in frame.images.items():
            picture = f"{name}/{frame.step:04d}_{camera}.jpg"
            write_bytes(folder / picture, encode_jpeg(image))
            images[camera] = picture
        frames.append({"step": frame.step, "images": images, "graph": format_graph(frame.graph)})
    results = [*(str(o) for o in episode.outcomes), *["censored"] * len(record.executions)]
    data = {
        **{field: getattr(key, field) for field in key.__dataclass_fields__},
        "instruction": instruction or record.instruction,
        "success": bool(episode.row["success"]),
        "outcome": episode.row["outcome"],
        "reason": episode.row["reason"],
        "frames": frames,
        "executed": [
            _execution(e, record.decisions[e.decision], results[i]) for i, e in enumerate(record.executions)
        ],
        "decisions": [_decision(d) for d in record.decisions],
        "seconds": dict(record.seconds),
    }
    file = folder / f"{name}.json"
    write_bytes(file, (json.dumps(data, default=_plain) + "\n").encode())
    return file


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """An RGB image [height, width, 3] as JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _execution(execution: Execution, decision: Decision, result: str) -> dict[str, Any]:
    plan = decision.plan
    p = outcome_probabilities(plan, execution.place)
    first = execution.place == 0 and bool(plan.options)
    return {
        "start": execution.start,
        "end": execution.end,
        "subgoal": str(execution.subgoal),
        "text": execution.text,
        "predicted": None if p is None else p[0] + p[1],
        "lower": None,
        "upper": None,
        "q": plan.feasibility if first else None,
        "result": result,
        "verdict": str(execution.verdict),
        "agreement": execution.agreement,
        "done": [[round(float(v), 4) for v in row] for row in execution.done],
    } | _signals(execution)


def _signals(execution: Execution) -> dict[str, Any]:
    """What the skill knew of itself at every chunk, by the name of the signal; nothing if not on record."""
    if execution.signals is None:
        return {}
    rows = zip(SkillSignals._fields, execution.signals.T, strict=True)
    return {"signals": {n: [round(float(v), 4) if np.isfinite(v) else None for v in row] for n, row in rows}}


def _decision(decision: Decision) -> dict[str, Any]:
    plan = decision.plan
    predicts = bool(plan.options)
    return {
        "step": decision.step,
        "cause": decision.cause,
        "budget": decision.budget,
        "status": str(plan.status),
        "reason": plan.reason,
        "feasibility": plan.feasibility if predicts else None,
        "lower": plan.lower if predicts else None,
        "upper": plan.upper if predicts else None,
        "spread": plan.spread if predicts else None,
        "seconds": plan.seconds,
        "model_calls": plan.model_calls,
        "subgoals": [str(s) for s in plan.subgoals],
        "tree": plan.tree,
    }


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
