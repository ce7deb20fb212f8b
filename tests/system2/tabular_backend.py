"""A System 2 of lookup tables, as a package of its own would bring it: a backend that plans and serves.

Outcomes are counted by what the arguments and the gripper look like, in two halves of the episodes (two
members); V is a table over whole scenes; perception is the graph of the most similar recorded picture.
Scale, thresholds, metrics and model card come from outside, as this kind has no `calibrate`.
"""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Split, candidate_subgoals
from vine_vla.core.packing import PackedGraphs, pack, unpack
from vine_vla.core.protocols import DEAD, GOAL, REACHED, Expansion, Neighbours, PruningRule
from vine_vla.storage.files import write_atomically
from vine_vla.storage.json import write_json
from vine_vla.storage.provenance import environment
from vine_vla.system2.backend import BackendInfo, BackendKind, StateSpec, TrainingConfig
from vine_vla.system2.folder import FORMAT, INFO, MODEL, read_info, read_json, read_schema, trained_variants
from vine_vla.system2.segments import check_taught, segment_table, subgoal_budget, subgoals_to_goal
from vine_vla.system2.training import usable_episodes
from vine_vla.system2.uncertainty.values import options_of, raise_values

PICTURES = "pictures.npz"


@dataclass(frozen=True)
class TabularConfig(TrainingConfig):
    """Settings of the tables."""

    smoothing: float = 0.5
    """What every outcome is counted before the first segment."""


class Tables:
    """A `Backend`: `shared` is what system2.json says, `own` what the variant's model.json says."""

    def __init__(self, folder, variant, shared, own, pictures, graphs):
        self.folder, self.shared, self.own, self.pictures, self.graphs = folder, shared, own, pictures, graphs
        self.schema = read_schema(folder, shared)
        self.pruning = PruningRule(min_support=0.05)
        state = StateSpec(tuple(shared["state"]))
        budget, plan = shared["budget"], shared["subgoals_a_plan"]
        self.info = BackendInfo("tabular", self.schema, variant, state, budget, plan, shared["provenance"])
        self.weights = f"{len(pictures)} pictures"

    def perceive(self, observations, instructions, earlier=None):
        return [
            self._perceive(o, g)
            for o, g in zip(observations, earlier or [None] * len(observations), strict=True)
        ]

    def _perceive(self, observation, earlier):
        away = np.abs(self.pictures - thumbnail(observation.images[self.schema.cameras[0]])).sum(1)
        found = unpack(self.graphs.select([int(away.argmin())]), self.schema)[0]
        if earlier is None:
            return found
        kept = tuple(replace(found[o.id], id=o.id) if o.id in found else o for o in earlier.objects)
        return replace(found, objects=kept, relations=())

    def expand(self, graphs, instructions, k, context=None):
        rows = [self._best(scene, k) for scene in unpack(graphs, self.schema)]
        b, width, count = len(rows), max(1, *map(len, rows)), graphs.cls.shape[1]
        p, support, prior = np.zeros((2, b, width, 4), np.float32), *np.zeros((2, b, width), np.float32)
        p[..., DEAD] = 1
        mask, value = np.zeros((b, width), bool), np.zeros((2, b, width, 2), np.float32)
        after = PackedGraphs(*(np.repeat(np.repeat(a[:, None, None], width, 1), 2, 2).copy() for a in graphs))
        for i, (row, scene) in enumerate(zip(rows, unpack(graphs, self.schema), strict=True)):
            left = max(int(graphs.budget[i]) - 1, 0)
            for j, (subgoal, chance) in enumerate(row):
                counts = self._counts(scene, subgoal)
                p[:, i, j], mask[i, j], prior[i, j] = counts / counts.sum(1, keepdims=True), True, chance
                seen = counts.sum() - 8 * self.own["smoothing"]
                support[i, j] = seen / (seen + 2)
                ends = [self._after(scene, subgoal), scene]
                value[:, i, j] = np.stack([self._values(end)[:, left] for end in ends], -1)
                packed = pack(ends, self.schema, budget=left, objects=count)
                for mine, theirs in zip(after, packed, strict=True):
                    mine[i, j] = theirs
        return Expansion([[s for s, _ in row] for row in rows], prior, mask, p, after, value, support)

    def _best(self, scene, k):
        """At most k candidates with the share of successful demonstrators that chose each, best first."""
        wanted = {
            s: self.own["choices"].get(key(scene, s), 0) + 0.1 for s in candidate_subgoals(scene, self.schema)
        }
        return [(s, n / sum(wanted.values())) for s, n in sorted(wanted.items(), key=lambda e: -e[1])[:k]]

    def _counts(self, scene, subgoal):
        """Outcomes in each half of the episodes. [2, 4]"""
        return np.array(self.own["counts"].get(key(scene, subgoal), np.zeros((2, 4)))) + self.own["smoothing"]

    def _after(self, scene, subgoal):
        """The scene with the arguments and the gripper as they usually are after this verb."""
        usual, hands = self.own["effects"].get(subgoal.verb, {}), {o.id for o in scene.of_class("gripper")}
        objects = (
            replace(o, attributes=usual.get(o.cls, o.attributes)) if o.id in {*subgoal.args, *hands} else o
            for o in scene.objects
        )
        return SceneGraph(tuple(objects), scene.relations)

    def _values(self, scene):
        """V with 0 to `budget` subgoals left. [2, budget + 1]"""
        return np.array(self.own["values"].get(whole(scene), np.zeros((2, self.info.budget + 1))))

    def learn_values(self, model, table):
        """V of every recorded scene, and of those that follow, from the calibrated outcomes."""
        graphs = table.graphs.with_budget(self.info.budget)
        options = options_of(model, graphs, table.instructions, 16)
        names = [whole(g) for g in unpack(graphs, self.schema)]
        ends = [whole(g) for g in unpack(options.next.reshape(-1), self.schema)]
        own = {**self.own, "values": {}}

        def value_after(budget):
            nothing = np.zeros((2, self.info.budget + 1))
            found = np.stack([np.array(own["values"].get(name, nothing))[:, budget] for name in ends], 1)
            return found.reshape(2, -1, 2).astype(np.float32)

        def fit(level, targets):
            levels = np.concatenate([np.zeros_like(targets[..., :1]), targets], -1)
            own["values"] = {name: levels[:, place].tolist() for place, name in enumerate(names)}

        raise_values(options.p, options.place, self.info.budget, value_after, fit)
        return Tables(self.folder, self.info.variant, self.shared, own, self.pictures, self.graphs)

    def nearest(self, graph, subgoal, count=3):
        won, lost = self.own["episodes"].get(key(graph, subgoal), ((), ()))
        return Neighbours(tuple(won[:count]), tuple(lost[:count]))

    def variants(self):
        return trained_variants(self.folder)

    def variant(self, name):
        return load(self.folder, name, device=None)

    def save(self, folder, variant=None):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"pictures": self.pictures, **self.graphs._asdict()}
        write_atomically(folder / PICTURES, lambda file: savez(file, arrays))
        own = folder / (variant or self.info.variant)
        own.mkdir(exist_ok=True)
        write_json(folder / INFO, self.shared)
        write_json(own / MODEL, self.own)


def savez(file, arrays):
    with open(file, "wb") as out:  # NumPy would add an ending to a path's name
        np.savez(out, **arrays)


def look(item):
    return f"{item.cls} {sorted((n, str(v)) for n, v in item.attributes.items())}"


def key(scene, subgoal):
    """What the arguments of a subgoal and the gripper look like."""
    shown = (*map(scene.__getitem__, subgoal.args), *scene.of_class("gripper"))
    return f"{subgoal.verb} {[look(o) for o in shown]}"


def whole(scene):
    """What all objects look like."""
    return str(sorted(map(look, scene.objects)))


def thumbnail(image):
    return image[::8, ::8].astype(np.float32).ravel()


def train(dataset, out, config, *, device, report):
    """Count; see `Train`."""
    schema, teach = (
        dataset.schema,
        [d for d in usable_episodes(dataset.demonstrations, config) if d.split is Split.TRAIN],
    )
    table = segment_table(teach, schema)
    check_taught(teach, table)
    counts, choices, effects = defaultdict(lambda: np.zeros((2, 4))), Counter(), defaultdict(Counter)
    episodes = defaultdict(lambda: ([], []))
    for i, scene in enumerate(unpack(table.graphs, schema)):
        subgoal, outcome, owner = table.subgoals[i], int(table.outcome[i]), int(table.episode[i])
        name, reached = key(scene, subgoal), outcome in (GOAL, REACHED)
        if outcome >= 0:
            counts[name][owner % 2, outcome] += 1
            episodes[name][not reached].append(table.episodes[owner])
        choices[name] += int(table.success[owner] == 1)
        if reached and table.has_after[i]:
            after = unpack(table.after.select([i]), schema)[0]
            for o in (*map(after.__getitem__, subgoal.args), *after.of_class("gripper")):
                effects[subgoal.verb][o.cls, tuple(o.attributes.items())] += 1
    usual = {
        verb: {cls: dict(values) for (cls, values), _ in reversed(n.most_common())}
        for verb, n in effects.items()
    }
    frames = [(d, f) for d in teach for f in d.graphs if f < d.length]
    pictures = [thumbnail(dataset.images(d.episode_index, [f], schema.cameras[0])[0]) for d, f in frames]
    states = np.concatenate([dataset.proprioception(d.episode_index) for d in teach])
    shared = {"format": FORMAT, "kind": "tabular", "schema": schema.to_json(), "provenance": environment()}
    shared |= {
        "state": states.mean(0).tolist(),
        "budget": subgoal_budget(teach),
        "subgoals_a_plan": subgoals_to_goal(teach),
    }
    own = {
        "counts": {n: c.tolist() for n, c in counts.items()},
        "choices": choices,
        "effects": usual,
        "values": {},
    }
    own |= {"episodes": episodes, "smoothing": config.smoothing, "config": asdict(config)}
    graphs = pack([d.graphs[f] for d, f in frames], schema)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / INFO, shared)
    Tables(out, config.failures.value, shared, own, np.stack(pictures), graphs).save(out)
    report("counting", 1.0)
    return out / config.failures.value


def load(folder, variant, *, device):
    """See `Load`; tables run on no device."""
    if variant not in trained_variants(folder):
        raise VineError(
            f"no variant {variant!r}", where=str(folder), hint=f"trained: {trained_variants(folder)}"
        )
    with np.load(folder / PICTURES, allow_pickle=False) as arrays:
        graphs = PackedGraphs(*(arrays[name] for name in PackedGraphs._fields))
        return Tables(
            folder,
            variant,
            read_info(folder),
            read_json(folder / variant / MODEL),
            arrays["pictures"],
            graphs,
        )


BACKEND = BackendKind("tabular", "outcome frequencies in a table", TabularConfig, train, load)
