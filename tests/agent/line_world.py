"""A small real robot for tests: a hand on a line that takes a plug and lets it go at a socket.

`grasp_long` fits only sockets whose `side` is free, `grasp_short` the others: a choice that is fine now
and fails later, as in PlugInsertion. Everything the agent needs stands behind the real protocols; the
world also satisfies `evaluation.world.SimulatedTask`.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from vine_vla.core.graph import Box, Relation, SceneGraph, SceneObject, Schema, Verb
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.packing import pack, unpack
from vine_vla.core.protocols import Expansion, Neighbours, Observation, PruningRule, SkillOutput

SCHEMA = Schema(
    classes=("plug", "socket", "gripper"),
    attributes={"grip": ("open", "holding"), "held": ("none", "long", "short"), "side": ("free", "blocked")},
    predicates=("held", "inside"),
    verbs=(
        Verb("grasp_long", ("plug",), "grasp {0} the long way"),
        Verb("grasp_short", ("plug",), "grasp {0} the short way"),
        Verb("insert", ("plug", "socket"), "insert {0} into {1}"),
    ),
    cameras=("front",),
)
GRASPS = ("none", "long", "short")
LENGTH = 20
BLOCKED_LUCK = 0.2
"""Share of insertions past a blocked side that go well all the same."""


@dataclass
class LineWorld:
    """State: place of the hand, how the plug is held, where it is, whether it is lost.

    Actions [2]: move by sign of the first; the second is the grip (0 open, 1 long, 2 short).
    """

    split: str = "seen"
    render: bool = True
    steps: int = 0
    hand: int = 0
    grip: int = 0
    plug: int = 2
    seated: str = ""
    lost: bool = False
    sockets: dict[str, tuple[int, str]] = field(default_factory=dict)
    broken_at: int = 10**9  # the robot stops at this step
    turned_at: int = 10**9  # at this step somebody turns the sockets: what was free is blocked
    SCHEMA = SCHEMA

    instruction = "plug it in"

    def reset(self, scene: int, seed: int) -> Observation:
        layout = np.random.default_rng([scene, 1])
        self.rng = np.random.default_rng([scene, seed, 2])
        side = ("free", "blocked") if layout.uniform() < 0.5 else ("blocked", "free")
        places = sorted(int(p) for p in layout.choice(np.arange(8, LENGTH), 2, replace=False))
        self.sockets = {f"socket_{i + 1}": (p, side[0]) for i, p in enumerate(places)}
        if layout.uniform() < 0.5:
            self.sockets["socket_2"] = (places[1], side[1])
        self.hand, self.grip, self.plug = int(self.rng.integers(4, 7)), 0, 2
        self.seated, self.lost, self.steps = "", False, 0
        return self.observe()

    def observe(self) -> Observation:
        image = np.zeros((8, LENGTH * 4, 3), np.uint8)
        if self.render:
            image[:, self.hand * 4] = 255
        return Observation({"front": image}, np.array([self.hand, self.grip, self.plug], np.float32))

    def step(self, action) -> bool:
        self.steps += 1
        if self.steps == self.turned_at:
            other = {"free": "blocked", "blocked": "free"}
            self.sockets = {name: (place, other[side]) for name, (place, side) in self.sockets.items()}
        grip = round(float(action[1]))
        self.hand = int(np.clip(self.hand + np.sign(action[0]), 0, LENGTH - 1))
        if self.grip and self.plug >= 0:
            self.plug = self.hand
        if grip and not self.grip and self.hand == self.plug and not self.seated and not self.lost:
            self.grip = grip
        elif not grip and self.grip:
            self._let_go()
        return self.steps >= self.broken_at

    def _let_go(self) -> None:
        how, self.grip = GRASPS[self.grip], 0
        for name, (place, side) in self.sockets.items():
            if place == self.plug:
                fits = (how == "long") == (side == "free") or self.rng.uniform() < BLOCKED_LUCK
                self.seated, self.lost = (name, False) if fits else ("", True)
                return
        self.lost = self.plug != 2

    def true_graph(self, earlier=None) -> SceneGraph:
        held = self.grip > 0
        objects = [
            SceneObject("plug", "plug", {"front": _box(self.plug)}, {"held": GRASPS[self.grip]}),
            *(
                SceneObject(name, "socket", {"front": _box(place)}, {"side": side})
                for name, (place, side) in self.sockets.items()
            ),
            SceneObject(
                "gripper", "gripper", {"front": _box(self.hand)}, {"grip": "holding" if held else "open"}
            ),
        ]
        relations = [Relation("held", "plug", "gripper")] if held else []
        if self.seated:
            relations.append(Relation("inside", "plug", self.seated))
        return SceneGraph(tuple(objects), tuple(relations))

    def subgoal_status(self, subgoal: Subgoal) -> Outcome | None:
        if self.lost:
            return Outcome.DEAD
        if subgoal.verb == "insert":
            return Outcome.REACHED if self.seated == subgoal.args[1] else None
        return Outcome.REACHED if GRASPS[self.grip] == subgoal.verb.removeprefix("grasp_") else None

    def is_success(self) -> bool:
        return bool(self.seated) and not self.grip

    def is_dead(self) -> bool:
        return self.lost

    def save_state(self):
        own = (self.hand, self.grip, self.plug, self.seated, self.lost, self.steps, dict(self.sockets))
        return own, self.rng.bit_generator.state

    def restore_state(self, state) -> None:
        (self.hand, self.grip, self.plug, self.seated, self.lost, self.steps, self.sockets), bits = state
        self.rng.bit_generator.state = bits

    def scripted_skill(self, s: float = 0.3) -> "LineSkill":
        return LineSkill()


def _box(place: int) -> Box:
    return Box(place / LENGTH, 0.4, (place + 1) / LENGTH, 0.6)


def place_of(item: SceneObject) -> int:
    return round(item.boxes["front"].x_min * LENGTH)


@dataclass
class TrueEyes:
    """A perceiver that reads the world (this world's images show too little)."""

    world: LineWorld

    def perceive(self, observations, instructions, earlier=None) -> list[SceneGraph]:
        return [self.world.true_graph(before) for before in earlier or [None] * len(observations)]


@dataclass
class LineSkill:
    """Walks to the subgoal's last argument by its box and grips or lets go, `chunk` steps at a time.

    `never_done` keeps the done head at `running`; `clumsy` is the share of starts after which it does
    nothing; `gives_up` makes it say `failed` then.
    """

    chunk: int = 2
    never_done: bool = False
    clumsy: float = 0.0
    gives_up: bool = False
    started: list[tuple[Subgoal, str, int]] = field(default_factory=list)

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        self.subgoal, self.rng = subgoal, np.random.default_rng(seed)
        self.started.append((subgoal, text, seed))
        self.idle = bool(self.rng.uniform() < self.clumsy)

    def act(self, observation: Observation, graph: SceneGraph) -> SkillOutput:
        hand, target = place_of(graph["gripper"]), place_of(graph[self.subgoal.args[-1]])
        grip = GRASPS.index(str(graph["plug"].attributes["held"]))
        goal = 0 if self.subgoal.verb == "insert" else GRASPS.index(self.subgoal.verb.removeprefix("grasp_"))
        finished = grip == goal and not self.idle
        actions = []
        for _ in range(self.chunk):
            move = 0 if grip == goal or self.idle else int(np.sign(target - hand))
            if move == 0 and not self.idle:
                grip = goal
            hand += move
            actions.append([move, grip])
        if self.idle:
            state = [0.1, 0.0, 0.9] if self.gives_up else [1.0, 0.0, 0.0]
        else:
            state = [0.1, 0.9, 0.0] if finished and not self.never_done else [0.9, 0.1, 0.0]
        return SkillOutput(np.array(actions, np.float32), self.chunk, np.array(state, np.float32))


@dataclass
class LineModel:
    """The world's true chances as a planning model; `members` agree exactly.

    `blind` takes every insertion for equally good, as a model that never saw a failure does.
    """

    members: int = 2
    blind: bool = False
    tau: float = 0.0
    support: float = 1.0
    schema: Schema = SCHEMA

    @property
    def pruning(self) -> PruningRule:
        names = [v.name for v in SCHEMA.verbs]
        return PruningRule(
            tau=dict.fromkeys(names, self.tau) if self.tau else {}, tau_stop=0.05, min_support=0.1
        )

    def expand(self, graphs, instructions, k, context=None) -> Expansion:
        scenes = unpack(graphs, SCHEMA)
        flat, after, chances = [], [], []
        for scene, budget in zip(scenes, graphs.budget, strict=True):
            options = self._options(scene)[:k]
            flat.append([o[0] for o in options])
            chances.append(options)
            after.append((scene, int(budget)))
        b, width = len(scenes), k
        p = np.zeros((self.members, b, width, 4), np.float32)
        p[..., 3] = 1
        prior = np.zeros((b, width), np.float32)
        value = np.zeros((self.members, b, width, 2), np.float32)
        mask = np.zeros((b, width), bool)
        follow = []
        for i, options in enumerate(chances):
            scene, budget = after[i]
            for j in range(width):
                if j < len(options):
                    _, chance, reached, guess = options[j]
                    p[:, i, j], mask[i, j], prior[i, j] = chance, True, 1 / len(options)
                    value[:, i, j] = guess if budget > 1 else 0.0
                    follow += [reached, scene]
                else:
                    follow += [scene, scene]
        packed = pack(follow, SCHEMA, objects=graphs.cls.shape[-1]).reshape(b, width, 2)
        packed = packed.with_budget(np.maximum(graphs.budget[:, None, None] - 1, 0))
        support = np.full((b, width), self.support, np.float32)
        return Expansion(flat, prior, mask, p, packed, value, support)

    def _options(self, scene):
        held = str(scene["plug"].attributes.get("held", "none"))
        if held == "none":
            return [
                (Subgoal(f"grasp_{h}", ("plug",)), (0, 1, 0, 0), _grasped(scene, h), 0.5) for h in GRASPS[1:]
            ]
        found = []
        for socket in scene.of_class("socket"):
            fits = self.blind or (held == "long") == (socket.attributes["side"] == "free")
            chance = (1.0, 0, 0, 0) if fits else (BLOCKED_LUCK, 0, 0, 1 - BLOCKED_LUCK)
            found.append((Subgoal("insert", ("plug", socket.id)), chance, _seated(scene, socket.id), 0.0))
        return found

    def nearest(self, graph, subgoal, count=3) -> Neighbours:
        return Neighbours((), ())


def _grasped(scene: SceneGraph, how: str) -> SceneGraph:
    objects = []
    for item in scene.objects:
        if item.id == "plug":
            item = replace(item, attributes={"held": how})
        elif item.id == "gripper":
            item = replace(item, attributes={"grip": "holding"}, boxes=scene["plug"].boxes)
        objects.append(item)
    return SceneGraph(tuple(objects), (Relation("held", "plug", "gripper"),))


def _seated(scene: SceneGraph, socket: str) -> SceneGraph:
    objects = []
    for item in scene.objects:
        if item.id == "plug":
            item = replace(item, attributes={"held": "none"}, boxes=scene[socket].boxes)
        elif item.id == "gripper":
            item = replace(item, attributes={"grip": "open"}, boxes=scene[socket].boxes)
        objects.append(item)
    return SceneGraph(tuple(objects), (Relation("inside", "plug", socket),))
