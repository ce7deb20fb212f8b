"""Arms: what is compared. A frozen description each; the parts are built from a run directory.

All subgoal arms share perception, proposals and System 1 with its done head: they differ in the outcome
and value nets and in the planner alone. Every rival is given what `vine` is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from vine_vla.agent import Replanning
from vine_vla.core.errors import VineError
from vine_vla.system2 import EXECUTED

PlannerKind = Literal[
    "tree",
    "greedy",
    "exhaustive",
    "imitate",
    "random",
    "constant",
    "whole",
    "oracle-value",
    "right-plan",
]
Skills = Literal["learned", "scripted", "flat", "flat-all"]


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison.

    Args:
        name, variant: as in `episodes.csv`.
        about: one line for tables.
        model: variant directory of System 2's outcome and value nets; None where no model is asked.
        planner: how subgoals are chosen; `whole` gives the instruction to System 1 as it is.
        perception: learned from images, or the simulator's true graph.
        skill: who moves: the shared System 1, the scripted expert, or a flat policy of its own.
        plans: best-of-K tries this many plans from the same start.
        replanning: as the agent has it.
        trained_words: whether the planner is conditioned on an instruction of the demonstrations instead of
            the scene's.
    """

    name: str
    about: str
    variant: str = ""
    model: str | None = None
    planner: PlannerKind = "tree"
    perception: Literal["learned", "true"] = "learned"
    skill: Skills = "learned"
    plans: int = 1
    replanning: Replanning = Replanning.ON_FAILURE
    trained_words: bool = False

    @property
    def label(self) -> str:
        """`success-only (slips-removed)`: how tables call it."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def constant(self) -> str:
        """Name of the task's constant policy that this arm follows; empty for other arms."""
        return self.name.removeprefix(ALWAYS) if self.planner == "constant" else ""

    @property
    def is_flat(self) -> bool:
        return self.planner == "whole"


VINE = Arm(
    "vine", "outcomes and values from all segments, failed episodes included; tree search", model="all"
)
SUCCESS_ONLY = replace(
    VINE, name="success-only", model="withhold", about="VINE without failed, truncated and unknown episodes"
)
IMITATE = Arm(
    "imitate", "top proposal, prior from successful episodes, no value", model="all", planner="imitate"
)

MATCHED = replace(
    SUCCESS_ONLY,
    variant="matched-count",
    model="withhold-matched",
    about="as many successful episodes as `vine` has episodes",
)
SLIPS_REMOVED = replace(
    SUCCESS_ONLY, variant="slips-removed", model="withhold-slips", about="slips removed as well"
)


def _executed(arm: Arm) -> Arm:
    """`arm` with execution calibration (`vine calibrate`), the second row of a comparison."""
    variant = f"{arm.variant}-execution" if arm.variant else "execution"
    about = f"`{arm.label}` calibrated on what System 1 executed"
    return replace(arm, variant=variant, model=f"{arm.model}{EXECUTED}", about=about)


_ARMS = (
    Arm("flat", "System 1's architecture on whole successful episodes", planner="whole", skill="flat"),
    Arm("flat-all", "the same on all episodes", planner="whole", skill="flat-all"),
    IMITATE,
    replace(IMITATE, name="imitate-all", model="imitate-all", about="top proposal, prior from all episodes"),
    SUCCESS_ONLY,
    SLIPS_REMOVED,
    MATCHED,
    replace(VINE, name="greedy", planner="greedy", about="VINE with look-ahead 1"),
    VINE,
    *(_executed(arm) for arm in (VINE, SUCCESS_ONLY, SLIPS_REMOVED, MATCHED)),
    replace(VINE, variant="never", replanning=Replanning.NEVER, about="plans once, retries what failed"),
    replace(VINE, variant="fixed", replanning=Replanning.FIXED, about="plans after every subgoal"),
    replace(
        VINE,
        variant="uncertainty",
        replanning=Replanning.UNCERTAINTY,
        about="plans when a subgoal failed, or when the rest of the plan has become doubtful",
    ),
    replace(
        VINE,
        variant="trained-words",
        trained_words=True,
        about="conditioned on an instruction of the demonstrations, where `vine` has the scene's",
    ),
    replace(VINE, variant="exhaustive", planner="exhaustive", about="VINE with exhaustive search"),
    Arm("random", "any of the proposals, all alike", model="all", planner="random"),
    replace(VINE, name="best-of-K", plans=3, about="success if any of the top 3 plans succeeds"),
    replace(VINE, name="oracle-perception", perception="true", about="VINE on true graphs"),
    replace(
        VINE,
        name="oracle-value",
        planner="oracle-value",
        perception="true",
        about="mean of 4 System 1 roll-outs from the saved state with the best continuation",
    ),
    Arm(
        "oracle-plan",
        "a plan that nothing spoils, from the simulator",
        planner="right-plan",
        perception="true",
    ),
    replace(VINE, name="oracle-skill", skill="scripted", about="VINE with the scripted expert as System 1"),
)

ARMS: dict[str, Arm] = {arm.label: arm for arm in _ARMS}
"""Label -> arm."""


def replaced_parts(perception: object, skill: object) -> list[str]:
    """Sentences on what a run has in place of learned parts, for whoever reads its figures."""
    found = []
    if perception == "true":
        found.append("No perception from images: every arm plans on the simulator's own scene graphs.")
    if skill == "scripted":
        found.append("No learned System 1: the task's scripted expert executes the subgoals of every arm.")
    return found


ALWAYS = "always-"
"""Begins the names of the arms that are constant policies; which there are is the task's to say."""


def find_arm(name: str) -> Arm:
    """The arm called `name`: its label, or `name:variant` for the command line; VineError lists them."""
    label = name
    if name.startswith(ALWAYS) and ":" not in name:
        return Arm(name, "a fixed choice of the task's", planner="constant")
    if ":" in name:
        base, _, variant = name.partition(":")
        label = f"{base} ({variant})"
    if label not in ARMS:
        known = ", ".join(a.name + (f":{a.variant}" if a.variant else "") for a in _ARMS)
        known += f", {ALWAYS}NAME for the task's constant policies"
        raise VineError(f"unknown arm {name!r}", hint=f"known arms: {known}")
    return ARMS[label]
