"""Small generated worlds with known truth, as demonstrations."""

from dataclasses import dataclass

import numpy as np

from vine_vla import Box, SceneGraph, SceneObject, Schema, Verb
from vine_vla.core.options import (
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
    Subgoal,
)
from vine_vla.core.protocols import DEAD, GOAL, REACHED, SLIPPED
from vine_vla.core.relations import PREDICATES, derive_relations
from vine_vla.search.tabular import ReachAvoid, sample_episode, tabular_schema

SIM = OutcomeSource.SIMULATOR


def episode(name, instruction, graphs, steps, outcome, split=Split.TRAIN, onset=None):
    """Demonstration of ten frames a segment; steps: (subgoal, Outcome); graphs: one more than steps."""
    segments = tuple(
        Segment(10 * i, 10 * (i + 1), subgoal, str(subgoal), found, SIM)
        for i, (subgoal, found) in enumerate(steps)
    )
    return Demonstration(
        name,
        int(name.split("_")[-1]),
        instruction,
        max(10 * len(steps), 1),
        outcome,
        None if outcome is EpisodeOutcome.UNKNOWN else SIM,
        segments,
        {10 * i: g for i, g in enumerate(graphs)},
        onset_frame=onset,
        split=split,
    )


# A world in which a neighbour on one side makes one verb fail.
SIDES = Schema(
    classes=("part", "slot", "block", "gripper"),
    attributes={"colour": ("red", "green"), "grip": ("open", "holding", "empty"), "weight": ()},
    predicates=PREDICATES,
    verbs=(
        Verb("slide", ("part", "slot"), "slide {0} into {1}"),
        Verb("drop", ("part", "slot"), "drop {0} into {1}"),
        Verb("turn", ("part",), "turn {0}"),
    ),
    cameras=("front", "wrist"),
    describing=("colour",),
)


def _at(x, y, w, h):
    return Box(x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def sides_scene(rng, slots=2):
    """A scene, and the probability that each verb succeeds at each slot {(verb, slot id): p}."""
    items = [
        SceneObject("part", "part", {"front": _at(rng.uniform(0.2, 0.8), 0.85, 0.06, 0.06)}, {"weight": 0.3})
    ]
    good = {}
    xs = np.sort(rng.uniform(0.15, 0.85, slots)) + np.linspace(-0.1, 0.1, slots)
    blocks = []
    for i, x in enumerate(xs, 1):
        y = rng.uniform(0.3, 0.6)
        box = _at(x, y, 0.1, 0.08)
        items.append(
            SceneObject(f"slot_{i}", "slot", {"front": box}, {"colour": str(rng.choice(["red", "green"]))})
        )
        beside, behind = rng.random(2) < 0.4
        if beside:
            blocks.append(_at(x + rng.choice([-1, 1]) * rng.uniform(0.075, 0.09), y, 0.03, 0.08))
        if behind:
            blocks.append(_at(x + rng.uniform(-0.01, 0.01), y - rng.uniform(0.07, 0.08), 0.08, 0.04))
        good["slide", f"slot_{i}"] = 0.02 if beside else 0.98
        good["drop", f"slot_{i}"] = 0.02 if behind else 0.98
    items += [SceneObject(f"block_{i}", "block", {"front": box}) for i, box in enumerate(blocks, 1)]
    items.append(SceneObject("gripper", "gripper", {"front": _at(0.5, 0.1, 0.1, 0.1)}, {"grip": "open"}))
    return SceneGraph(tuple(items), derive_relations(items, "front", SIDES.predicates)), good


def _moved(graph, target):
    """The part stands where the slot is."""
    box = graph[target].boxes["front"]
    items = tuple(
        SceneObject(o.id, o.cls, {"front": _at(*box.center, 0.06, 0.06)}, {**o.attributes, "weight": 0.7})
        if o.id == "part"
        else o
        for o in graph.objects
    )
    return SceneGraph(items, derive_relations(items, "front", SIDES.predicates))


def sides_demonstrations(count, seed=0, slips=0.3):
    """One choice an episode, drawn uniformly; failures slip (and are retried another way) or are final."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        graph, good = sides_scene(rng)
        options = [Subgoal(verb, ("part", slot)) for verb, slot in good]
        graphs, steps, outcome = [graph], [], EpisodeOutcome.FAILURE
        for _ in range(3):
            subgoal = options[rng.integers(len(options))]
            if rng.random() < good[subgoal.verb, subgoal.args[1]]:
                steps.append((subgoal, Outcome.REACHED))
                graphs.append(_moved(graph, subgoal.args[1]))
                outcome = EpisodeOutcome.SUCCESS
                break
            slipped = rng.random() < slips and len(steps) < 2
            steps.append((subgoal, Outcome.SLIPPED if slipped else Outcome.DEAD))
            graphs.append(graph)
            if not slipped:
                break
        split = (Split.TRAIN, Split.CALIBRATION, Split.TRAIN, Split.TRAIN, Split.TRAIN, Split.TEST)[
            number % 6
        ]
        found.append(episode(f"side_{number}", "put the part into a slot", graphs, steps, outcome, split))
    return found


# Tabular problems: a state is a category of the one object.
@dataclass(frozen=True)
class TabularWorld:
    problem: ReachAvoid
    schema: Schema

    @classmethod
    def of(cls, problem):
        plain = tabular_schema(problem.actions)
        return cls(
            problem,
            Schema(
                classes=plain.classes,
                attributes={"state": tuple(f"s{i}" for i in range(problem.states))},
                predicates=(),
                verbs=plain.verbs,
                cameras=("front",),
            ),
        )

    def graph(self, state):
        return SceneGraph((SceneObject("system", "system", {}, {"state": f"s{state}"}),))

    def demonstrations(self, count, policy, budget, seed=0, censored=0.0):
        """Episodes from random states; a share is cut off after a segment and left unknown."""
        rng = np.random.default_rng(seed)
        names = {
            GOAL: Outcome.REACHED,
            REACHED: Outcome.REACHED,
            SLIPPED: Outcome.SLIPPED,
            DEAD: Outcome.DEAD,
        }
        found = []
        for number in range(count):
            steps = sample_episode(self.problem, policy, int(rng.integers(self.problem.states)), budget, rng)
            cut = rng.random() < censored
            if cut:
                steps = steps[: int(rng.integers(1, len(steps) + 1))]
            graphs = [self.graph(s.state) for s in steps]
            last = steps[-1]
            inside = last.outcome in (REACHED, SLIPPED)
            after = (
                self.problem.next[last.state, last.action, last.outcome - REACHED] if inside else last.state
            )
            graphs.append(self.graph(int(after)))
            pairs = [(Subgoal(f"do_{s.action}", ("system",)), names[s.outcome]) for s in steps]
            if cut:
                pairs[-1] = (pairs[-1][0], Outcome.CENSORED)
                outcome = EpisodeOutcome.UNKNOWN
            else:
                outcome = EpisodeOutcome.SUCCESS if last.outcome == GOAL else EpisodeOutcome.FAILURE
            split = Split.CALIBRATION if number % 7 == 0 else Split.TRAIN
            found.append(episode(f"tab_{number}", "reach the goal", graphs, pairs, outcome, split))
        return found
