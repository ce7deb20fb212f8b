"""What the rest of a plan is worth now: its subgoals followed to the end, the best ones after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import pack
from vine_vla.core.protocols import AFTER_REACHED, GOAL, REACHED, SLIPPED, Forecast, PlanningModel
from vine_vla.search.config import SearchConfig, split_members


def forecast(
    model: PlanningModel,
    graph: SceneGraph,
    instruction: str,
    subgoals: Sequence[Subgoal],
    budget: int,
    config: SearchConfig,
) -> Forecast:
    """P(goal before failure) if `subgoals` are followed from `graph`, without choosing among others.

    One model call a subgoal. Where a subgoal slips, and after the last, the best continuation is assumed
    (the model's V). A subgoal that the model does not propose, or for which no budget is left, fails.
    """
    here = pack([graph], model.schema, budget=budget)
    chain: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    calls, known = 0, True
    for place, subgoal in enumerate(subgoals):
        if place >= budget:
            known = False
            break
        answer = model.expand(here, [instruction], config.k)
        calls += 1
        if subgoal not in answer.subgoals[0]:
            known = False
            break
        at = answer.subgoals[0].index(subgoal)
        chain.append((answer.p[:, 0, at].astype(np.float64), answer.value[:, 0, at].astype(np.float64)))
        here = answer.next.select((slice(None), at, AFTER_REACHED))
    if not chain:
        return Forecast(0.0, 0.0, calls)
    _, reporting = split_members(len(chain[0][0]), config.split)
    after = chain[-1][1][:, 0] if known else np.zeros(len(chain[0][0]))
    for p, value in reversed(chain):
        after = p[:, GOAL] + p[:, REACHED] * after + p[:, SLIPPED] * value[:, 1]
    found = after[reporting]
    return Forecast(float(found.mean()), float(found.std()), calls)
