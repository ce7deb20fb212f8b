"""A served agent from a run folder: System 2 plans, System 1 moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vine_vla.agent import AgentConfig, Replanning
from vine_vla.core.errors import VineError
from vine_vla.core.protocols import Planner
from vine_vla.search import SearchConfig, make_planner
from vine_vla.serving.config import AgentSettings
from vine_vla.serving.deadline import DeadlinePlanner
from vine_vla.serving.observations import ObservationKeys
from vine_vla.serving.session import Hold, ServedAgent


def load_agent(
    run: Path,
    settings: AgentSettings | None = None,
    *,
    variant: str | None = None,
    device: str | None = None,
    keys: Mapping[str, str] | None = None,
    hold: Hold | None = None,
) -> ServedAgent:
    """What `vine serve` serves.

    Args:
        run: folder with `system1` and `system2`.
        settings: how it plans and acts.
        variant: which planning model of the run; default: all, if it was trained.
        device: where nets run; default: cuda if there is one.
        keys: further keys of clients' messages, see `ObservationKeys`.
        hold: what to send when there is nothing to do; default: `still` if System 1's actions are motions,
            else `repeat`.

    Raises:
        VineError: a part is missing or damaged.
    """
    from vine_vla.system1.adapters.importing import load_run_skill, skill_actions, vet_run
    from vine_vla.system2.load import load_system2

    settings = settings or AgentSettings()
    vet_run(run / "system1")
    model = load_system2(run, variant, device=device)
    state = model.info.state
    if state is None:
        raise VineError("System 2 has no perception", where=str(run), hint="train it on data with boxes")
    skill: Any = load_run_skill(run / "system1", model.schema, device=device)
    actions = skill_actions(run / "system1", skill)
    if not actions.motions and hold != "still" and not any(p >= 0 for p in actions.places):
        raise VineError(
            "System 1 commands positions, and none of them is found in the state: before the first plan the "
            "robot could not be held where it is",
            where=str(run / "system1"),
            hint="record what is commanded in observation.state, or give --hold still if actions are steps",
        )
    pool = ThreadPoolExecutor(4, thread_name_prefix="vine-plan")
    shared = make_planner(settings.planner, model, SearchConfig(expansions=settings.expansions, evidence=0))
    config = AgentConfig(
        replanning=Replanning(settings.replanning),
        budget=model.info.budget,
        max_steps=settings.max_steps,
        subgoal_steps=settings.subgoal_steps,
    )
    new_planner: Callable[[], Planner] = lambda: DeadlinePlanner(shared, pool, settings.deadline)  # noqa: E731
    return ServedAgent(
        name=run.name,
        schema=model.schema,
        perceiver=model,
        planner=shared,
        new_skill=skill.another,
        new_planner=new_planner,
        config=config,
        keys=ObservationKeys(model.schema.cameras, state.size, dict(keys or {})),
        action_low=np.array(actions.low, np.float32),
        action_high=np.array(actions.high, np.float32),
        horizon=skill.horizon,
        fps=settings.fps,
        hold=hold or ("still" if actions.motions else "repeat"),
        switches=actions.switches,
        places=tuple(actions.places),
    )
