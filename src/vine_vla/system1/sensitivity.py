"""Instruction sensitivity: whether a policy's actions change with the subgoal, in one and the same situation.

A policy that was trained on many tasks may ignore which one it is asked for: users report that of pi0 and
SmolVLA. Under a planner such a policy does the same whatever was planned. Here it receives the same
observation under different subgoals with the same noise. What then changes is compared with what other noise
changes: a policy is insensitive to subgoals that move its actions less than noise does.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from lerobot.configs import PreTrainedConfig

from vine_vla.compute.progress import Report
from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal, candidate_subgoals
from vine_vla.core.protocols import Float, Observation, Skill
from vine_vla.core.text import describe
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.sidecars.files import EPISODE
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig

NO_TEXT = ("act", "diffusion", "vqbet", "tdmpc")
"""Types of LeRobot policies that do not read `task`."""


class Situation(NamedTuple):
    """An observation and what could be asked for in it: subgoals with their sentences."""

    observation: Observation
    graph: SceneGraph
    subgoals: tuple[tuple[Subgoal, str], ...]


class PairChange(NamedTuple):
    """How much the actions change between two kinds of subgoals.

    Args:
        pair: their verbs, or one verb `with other objects`.
        count: pairs of subgoals that were compared.
        change: with the same noise; root of the mean square over a chunk, in units of the actions' spread.
        noise: the same for one subgoal under other noise.
        sensitive: whether the change is large enough.
    """

    pair: str
    count: int
    change: float
    noise: float
    sensitive: bool


@dataclass(frozen=True)
class Sensitivity:
    """What the check found; the policy is sensitive if it is to every kind of pair."""

    situations: int
    pairs: tuple[PairChange, ...]

    @property
    def sensitive(self) -> bool:
        return all(pair.sensitive for pair in self.pairs)


def situations(dataset: DemoDataset, count: int, most: int = 6) -> list[Situation]:
    """Frames with a scene graph, spread evenly over the dataset, and the subgoals of their scenes.

    Args:
        dataset: demonstrations with scene graphs, or an export of skills (first frames of its clips).
        count: frames at most. most: subgoals a frame at most, as many verbs among them as there are.

    Raises:
        VineError: there is no frame in whose graph two subgoals are possible.
    """
    places = []
    for demonstration in dataset.demonstrations:
        for frame, graph in demonstration.graphs.items():
            possible = candidate_subgoals(graph, dataset.schema)
            chosen = _mixed([s for s in possible if s.verb != EPISODE.name], most)
            if frame < demonstration.length and len(chosen) > 1:
                places.append((demonstration.episode_index, frame, graph, chosen))
    if not places:
        raise VineError(
            "no frame has a scene graph in which two subgoals are possible",
            where=str(dataset.root),
            hint="annotate segments and boxes (`vine annotate`), or give another dataset",
        )
    spread = {int(i) for i in np.linspace(0, len(places) - 1, min(count, len(places))).round()}
    found = []
    for place in sorted(spread):
        episode, frame, graph, chosen = places[place]
        images = {role: dataset.images(episode, [frame], role)[0] for role in dataset.cameras}
        observation = Observation(images, dataset.proprioception(episode)[frame].copy())
        texts = tuple((subgoal, describe(subgoal, graph, dataset.schema)) for subgoal in chosen)
        found.append(Situation(observation, graph, texts))
    return found


def _mixed(subgoals: Sequence[Subgoal], most: int) -> list[Subgoal]:
    """At most so many of them, one of each verb in turn."""
    by_verb: dict[str, list[Subgoal]] = defaultdict(list)
    for subgoal in subgoals:
        by_verb[subgoal.verb].append(subgoal)
    turns = itertools.zip_longest(*by_verb.values())
    return [subgoal for turn in turns for subgoal in turn if subgoal is not None][:most]


def action_spread(dataset: DemoDataset) -> Float:
    """Standard deviation of each action, infinite for those that never change; float32 [A]."""
    actions = np.concatenate([dataset.actions(d.episode_index) for d in dataset.demonstrations])
    deviation = actions.std(0)
    if not (deviation > 1e-6).any():
        raise VineError("no action ever changes", where=str(dataset.root), hint="give another dataset")
    return np.where(deviation > 1e-6, deviation, np.inf).astype(np.float32)


def measure_sensitivity(
    skill: Skill,
    situations: Sequence[Situation],
    spread: Float,
    *,
    steps: int = 8,
    least: float = 0.05,
    seed: int = 0,
    report: Report | None = None,
) -> Sensitivity:
    """Run `skill` in every situation under every subgoal, twice: with one noise for all, and with another.

    Args:
        spread: of the actions, see `action_spread`.
        steps: actions that are compared.
        least: change, in units of the spread, from which a policy counts as sensitive. It must also be
            larger than what other noise changes.
        seed: of the noise.
        report: called with a name, how many situations are done, and how many there are.
    """
    changes: dict[str, list[float]] = defaultdict(list)
    noises: dict[str, list[float]] = defaultdict(list)
    for number, situation in enumerate(situations):
        chunks, others = [], []
        for subgoal, text in situation.subgoals:
            chunk, other = (_chunk(skill, situation, subgoal, text, s, steps) for s in (seed, seed + 1))
            chunks.append(chunk)
            others.append(_distance(chunk, other, spread))
        for (i, (a, _)), (j, (b, _)) in itertools.combinations(enumerate(situation.subgoals), 2):
            pair = _pair(a.verb, b.verb)
            changes[pair].append(_distance(chunks[i], chunks[j], spread))
            noises[pair].append((others[i] + others[j]) / 2)
        if report is not None:
            report("frames", number + 1, len(situations))
    pairs = []
    for pair, found in changes.items():
        change, noise = float(np.mean(found)), float(np.mean(noises[pair]))
        pairs.append(PairChange(pair, len(found), change, noise, change >= least and change > noise))
    return Sensitivity(len(situations), tuple(pairs))


def _pair(one: str, other: str) -> str:
    """The name of a kind of pair, whichever of the two verbs comes first."""
    return f"{one} with other objects" if one == other else ", ".join(sorted((one, other)))


def _chunk(skill: Skill, situation: Situation, subgoal: Subgoal, text: str, seed: int, steps: int) -> Float:
    """The first `steps` actions from this situation, float32 [steps, A]; nothing moves in between."""
    skill.start(subgoal, text, seed)
    actions = skill.act(situation.observation, situation.graph).actions
    while len(actions) < steps:
        actions = np.concatenate([actions, skill.act(situation.observation, situation.graph).actions])
    return actions[:steps]


def _distance(one: Float, other: Float, spread: Float) -> float:
    """Root of the mean square difference of two chunks, over actions that ever change."""
    scaled = ((one - other) / spread)[:, np.isfinite(spread)]
    return float(np.sqrt(np.square(scaled).mean()))


def advice(found: Sensitivity, config: PreTrainedConfig | None) -> str:
    """Why a policy is insensitive, as far as its configuration tells, and what to do; one line."""
    insensitive = [pair for pair in found.pairs if not pair.sensitive]
    names = "; ".join(pair.pair for pair in insensitive)
    if config is None:  # behind a server, which reads the sentence as its prompt
        return f"the server hardly acts on its prompt ({names}): serve a policy conditioned on language"
    reads_vector = bool(config.env_state_feature)
    reads_text = config.text if isinstance(config, VineSkillConfig) else config.type not in NO_TEXT
    if not reads_vector and (not reads_text or all(pair.change == 0 for pair in found.pairs)):
        return (
            "the policy reads neither `task` nor `observation.environment_state`: train it on `vine export "
            "skills` with `observation.environment_state` among its inputs, or take a policy that is "
            "conditioned on language"
        )
    if len(insensitive) < len(found.pairs) and all("other objects" in pair.pair for pair in insensitive):
        return (
            f"the policy is sensitive to the verb, not to the object ({names}): train it on `vine export "
            "skills` with crops, whose `observation.environment_state` holds the object's boxes, or take a "
            "policy that is conditioned on language"
        )
    inputs = [n for n, read in (("task", reads_text), ("environment_state", reads_vector)) if read]
    return (
        f"the policy may read {' and '.join(inputs)}, but hardly acts on it ({names}): train it longer on "
        "`vine export skills`, on scenes in which several subgoals are shown"
    )


def change_lines(found: Sensitivity) -> list[str]:
    """A table: how much each kind of pair changes the actions, and other noise."""
    width = max(len("subgoals"), *(len(pair.pair) for pair in found.pairs))
    lines = [
        f"{found.situations} frames; changes in units of the actions' spread",
        f"{'subgoals':<{width}}  pairs  change  other noise",
    ]
    for pair in found.pairs:
        mark = "" if pair.sensitive else "  insensitive"
        lines.append(f"{pair.pair:<{width}}  {pair.count:>5}  {pair.change:>6.3f}  {pair.noise:>11.3f}{mark}")
    return lines
