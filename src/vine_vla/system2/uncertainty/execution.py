"""Execution calibration: outcomes of single subgoals that System 1 carried out on calibration scenes.

Demonstrations say how often operators reach a subgoal; probes say how often this System 1 does. What is
learned stays, only its scale, the pruning thresholds and `V` follow the probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Demonstration, Split, Subgoal
from vine_vla.core.packing import pack
from vine_vla.core.protocols import Int
from vine_vla.system2.folder import read_info, read_schema
from vine_vla.system2.registry import find_backend
from vine_vla.system2.segments import CENSORED, SegmentTable


class Probe(NamedTuple):
    """One subgoal executed once by System 1 on a calibration scene.

    Args:
        graph, subgoal, instruction: what was tried, where.
        outcome: GOAL, REACHED, SLIPPED or DEAD (`protocols`); CENSORED ones are left out.
        scene: number of the scene; probes of one scene are not independent.
    """

    graph: SceneGraph
    subgoal: Subgoal
    instruction: str
    outcome: int
    scene: int = 0


def probe_table(probes: Sequence[Probe], schema: Schema) -> SegmentTable:
    """Probes as segments; each scene counts as an episode."""
    probes = [p for p in probes if p.outcome != CENSORED]
    graphs = pack([p.graph for p in probes], schema)
    arity = max([1, *(len(v.arguments) for v in schema.verbs)])
    args = np.full((len(probes), arity), -1, np.int64)
    for row, p in enumerate(probes):
        place = {o.id: slot for slot, o in enumerate(p.graph.objects)}
        args[row, : len(p.subgoal.args)] = [place[a] for a in p.subgoal.args]
    names = [v.name for v in schema.verbs]
    scenes, owner = np.unique([p.scene for p in probes], return_inverse=True)
    verbs: Int = np.array([names.index(p.subgoal.verb) for p in probes], np.int64)
    return SegmentTable(
        schema=schema,
        graphs=graphs,
        after=graphs,
        has_after=np.zeros(len(probes), bool),
        subgoals=tuple(p.subgoal for p in probes),
        verbs=verbs,
        args=args,
        outcome=np.array([p.outcome for p in probes], np.int64),
        episode=owner.astype(np.int64),
        instructions=tuple(p.instruction for p in probes),
        episodes=tuple(f"scene_{s}" for s in scenes),
        success=np.full(len(scenes), -1, np.int64),
        splits=(Split.CALIBRATION,) * len(scenes),
    )


def calibrate_variant(
    folder: Path,
    name: str,
    probes: Sequence[Probe],
    demonstrations: Sequence[Demonstration],
    *,
    device: str | None = None,
) -> Path:
    """Write the variant `name` of the System 2 in `folder` once more, with execution calibration.

    Args:
        demonstrations: what the variant was trained on; `V` is learned from their scenes again.
        device: see `load_system2`.

    Returns:
        The folder `NAME-executed`, with metrics, reliability plot and model card as training writes them;
        the scores are of probes, by a calibration that did not see their scene.

    Raises:
        VineError: no such variant, it was trained on other episodes, or there are too few probes.
    """
    info = read_info(folder)
    table = probe_table(probes, read_schema(folder, info))
    if len(table) < 20:
        raise VineError(f"{len(table)} probes are too few to calibrate on", hint="execute 100 or more")
    kind = find_backend(info["kind"])
    if kind.calibrate is not None:
        return kind.calibrate(folder, name, table, demonstrations, device=device)
    from vine_vla.system2.training import calibrate_from_outside  # late: it imports this module's users

    return calibrate_from_outside(folder, name, table, demonstrations, device=device)
