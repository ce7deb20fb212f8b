"""Warnings: what a System 2 cannot promise because its data are few, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vine_vla.core.graph import Schema
from vine_vla.core.options import Demonstration
from vine_vla.core.protocols import DEAD, GOAL, REACHED, SLIPPED, PruningRule
from vine_vla.system2.segments import Failures, SegmentTable, segment_table
from vine_vla.system2.uncertainty.calibration import LEAST_SEGMENTS

FEW = 10
"""Failed segments under which the probabilities rest on single cases."""


def data_warnings(
    schema: Schema,
    pruning: PruningRule,
    subgoals_a_plan: float,
    train: Sequence[Demonstration],
    judged: SegmentTable,
    failures: Failures,
) -> list[str]:
    """One sentence for each thing that the data do not suffice for; empty where they do.

    Args:
        pruning, subgoals_a_plan: of the model as trained and calibrated.
        train: the episodes that its variant learned from.
        judged: the decided segments it was calibrated on: of held-out episodes, or executed.
        failures: its variant.
    """
    taught = segment_table(train, schema, drop_slips=failures is Failures.WITHHOLD_SLIPS).decided()
    found = []
    without = sum(s.start not in d.graphs for d in train for s in d.segments)
    if without:
        everything = sum(len(d.segments) for d in train)
        found.append(
            f"{without} of {everything} training segments have no scene graph at their first frame and "
            "taught nothing here"
        )
    failed = int(((taught.outcome == SLIPPED) | (taught.outcome == DEAD)).sum())
    if not failed:
        found.append(
            f"no failed segment among {len(taught)}: nothing teaches what fails, every covered subgoal "
            "counts as feasible, and plans follow what successful demonstrators did most often"
        )
    elif failed < FEW:
        found.append(
            f"only {failed} failed segment{'s' * (failed > 1)} among {len(taught)}: feasibility rests on "
            "single cases, so read it as a hint"
        )
    if len(judged) < LEAST_SEGMENTS:
        found.append(
            f"not calibrated: {len(judged)} held-out segments, {LEAST_SEGMENTS} are needed; probabilities "
            "are the model's own"
        )
    alpha = pruning.alpha / max(subgoals_a_plan, 1.0)
    needed = math.ceil(1 / alpha - 1e-9) - 1
    reached = (judged.outcome == GOAL) | (judged.outcome == REACHED)
    for index, verb in enumerate(schema.verbs):
        if verb.name not in pruning.tau:
            count = int((reached & (judged.verbs == index)).sum())
            found.append(
                f"{verb.name} is never pruned: {count} of its held-out segments were reached, a threshold "
                f"for {pruning.alpha:g} of the plans needs {needed} that the training data cover"
            )
    return found
