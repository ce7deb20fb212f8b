"""Scenes of PlugInsertion: what stands where, in which colour; frozen lists per split.

A scene is a pure function of (split, number). `seen` and `unseen` have the frozen lists 0-199 (dev), 200-399
(calibration) and 400-999 (test); demonstrations come from a separate stream, `demo`, with the look of `seen`.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from vine_vla.core.errors import VineError

COLOURS = ("blue", "green", "red", "yellow", "purple", "orange")
SPLITS = ("seen", "unseen", "demo", "pushed", "pushed-demo")
"""`pushed` looks like `seen`, but while the robot works somebody carries another neighbour to a socket;
`pushed-demo` are demonstrations in which that happens now and then."""
DEMONSTRATIONS = ("demo", "pushed-demo")
"""Splits without frozen lists."""
GRASPS = ("long", "short")
_STREAM = {"seen": 1, "unseen": 2, "demo": 3, "pushed": 4, "pushed-demo": 5}
FROZEN = {"dev": range(0, 200), "calibration": range(200, 400), "test": range(400, 1000)}
TALL_HEIGHT = {"x": 0.0695, "y": 0.0695}  # metres; a finger that meets it leaves the prongs above the holes
TALL_FROM = 0.05
HIDDEN_SIDE = {"x": -1, "y": 1}
"""Sides that face away from both cameras. Tall neighbours stand there: on the others they would hide the
holes from the wrist camera in the very grasps that fit, as no one would mount a camera; low ones stand on any
side."""
FACE_GAP = 0.008  # metres between the seated plug's face and a neighbour


@dataclass(frozen=True)
class Block:
    """A fixed neighbour of a socket.

    Args:
        side: `x` (at a face that the `long` grasp's fingers take) or `y` (the `short` grasp's).
        sign: +1 or -1, in the socket's frame.
        height, depth, width: metres; depth is along `side`, width across it.
        rgba: colour.
        carried: whether it was brought here during the episode.
    """

    side: str
    sign: int
    height: float
    depth: float
    width: float
    rgba: tuple[float, float, float]
    carried: bool = False

    @property
    def tall(self) -> bool:
        """Whether it stops a finger before the plug is seated."""
        return self.height > TALL_FROM


@dataclass(frozen=True)
class Socket:
    """A socket at (x, y) metres, turned by yaw (rad); `two_pin` fits the plug, `round` does not."""

    kind: str
    colour: str
    rgba: tuple[float, float, float]
    x: float
    y: float
    yaw: float
    blocks: tuple[Block, ...]

    def good(self, grasp: str) -> bool:
        """Whether a plug held by `grasp` fits here without a finger meeting a tall neighbour."""
        side = "x" if grasp == "long" else "y"
        return self.kind == "two_pin" and not any(b.tall and b.side == side for b in self.blocks)


@dataclass(frozen=True)
class Push:
    """Somebody carries a tall neighbour to a socket, as soon as the hand is out of the way.

    Args:
        step: first action during which that may happen; `NEVER` leaves the neighbour where it waits.
        socket: index. block: as it stands there in the end.
        waits: where it stands until then: x, y (m), yaw (rad).
    """

    step: int
    socket: int
    block: Block
    waits: tuple[float, float, float]


NEVER = 10**6


@dataclass(frozen=True)
class PlugScene:
    """Everything that a reset sets; home and plug jitter come from the episode's seed instead."""

    split: str
    number: int
    instruction: str
    rack: tuple[float, float, float]
    sockets: tuple[Socket, ...]
    plug_rgba: tuple[float, float, float]
    table_rgba: tuple[float, float, float]
    rack_rgba: tuple[float, float, float]
    push: Push | None = None

    @property
    def blocks(self) -> list[Block]:
        """All neighbours, the one that is carried last: the order of their bodies and ids."""
        own = [b for s in self.sockets for b in s.blocks if not b.carried]
        return own if self.push is None else [*own, self.push.block]

    def after_push(self) -> PlugScene:
        """The scene with the carried neighbour in its place."""
        assert self.push is not None
        sockets = list(self.sockets)
        mine = sockets[self.push.socket]
        sockets[self.push.socket] = replace(mine, blocks=(*mine.blocks, self.push.block))
        return replace(self, sockets=tuple(sockets))

    def good_plans(self) -> list[tuple[str, int]]:
        """(grasp, socket index) pairs that no neighbour spoils."""
        return [(g, i) for g in GRASPS for i, s in enumerate(self.sockets) if s.good(g)]

    def nearest(self, compatible_only: bool = True) -> int:
        """Index of the socket nearest to the rack, of the fitting kind if asked."""
        x, y, _ = self.rack
        order = sorted(
            range(len(self.sockets)), key=lambda i: np.hypot(self.sockets[i].x - x, self.sockets[i].y - y)
        )
        return next(i for i in order if not compatible_only or self.sockets[i].kind == "two_pin")

    def habit_is_brittle(self, grasp: str = "long") -> bool:
        """Whether the habitual plan, `grasp` and the nearest fitting socket, meets a tall neighbour."""
        return not self.sockets[self.nearest()].good(grasp)

    def needs_lookahead(self) -> bool:
        """Whether exactly one of the two grasps leaves a good socket."""
        return len({g for g, _ in self.good_plans()}) == 1


INSTRUCTIONS = {
    "seen": (
        "insert the plug into a matching socket",
        "put the plug into a socket that fits",
        "plug it into a two pin socket",
        "seat the plug in a fitting socket",
    ),
    "unseen": (
        "connect the plug to any socket it fits",
        "find a suitable two pin socket and push the plug in",
        "get the plug seated in one of the matching sockets",
    ),
}
_HUES = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "green": 0.36, "blue": 0.6, "purple": 0.78}
_TABLES = {
    "seen": ((0.62, 0.56, 0.5), (0.5, 0.52, 0.55), (0.72, 0.7, 0.66)),
    "unseen": ((0.4, 0.34, 0.3), (0.55, 0.62, 0.58), (0.8, 0.78, 0.8)),
}
_PLUGS = {
    "seen": ((0.92, 0.92, 0.9), (0.25, 0.27, 0.3)),
    "unseen": ((0.8, 0.86, 0.95), (0.35, 0.25, 0.22)),
}


def plug_scene(split: str, number: int) -> PlugScene:
    """Scene `number` of `split`; a pure function.

    Raises:
        VineError: unknown split, or a number outside the frozen lists (0-999) of `seen` and `unseen`.
    """
    if split not in SPLITS:
        raise VineError(f"unknown split {split!r}", hint=f"known splits: {', '.join(SPLITS)}")
    if number < 0 or (split not in DEMONSTRATIONS and number > 999):
        raise VineError(
            f"no scene {number} in split {split!r}", hint="scenes 0 to 999 are dev, calibration and test"
        )
    rng = np.random.default_rng([_STREAM[split], number, 20261122])
    look = "unseen" if split == "unseen" else "seen"
    # Two properties are drawn first, and layouts until one has them: how often the habit is a trap and how
    # often one of the grasps leaves no good socket are then the same in every split.
    brittle, lookahead = bool(rng.random() < 0.62), bool(rng.random() < 0.5)
    while True:
        scene = _draw(split, number, look, rng)
        if (
            scene.good_plans()
            and scene.habit_is_brittle() == brittle
            and scene.needs_lookahead() == lookahead
        ):
            if not split.startswith("pushed"):
                return scene
            pushed = _with_push(scene, rng, share=0.6 if split == "pushed-demo" else 1.0)
            if pushed is not None:
                return pushed


def _with_push(scene: PlugScene, rng: np.random.Generator, share: float) -> PlugScene | None:
    """`scene` with a neighbour that is carried to a socket that fits; None if no face is free for it.

    Something good must be left afterwards. It waits behind the sockets, between two of them.
    """
    free = [
        (i, side)
        for i, socket in enumerate(scene.sockets)
        for side in "xy"
        if socket.kind == "two_pin" and not any(b.side == side for b in socket.blocks)
    ]
    if not free:
        return None
    index, side = free[int(rng.integers(len(free)))]
    rgba = next((b.rgba for s in scene.sockets for b in s.blocks), _grey(rng, False))
    height = TALL_HEIGHT[side] + rng.uniform(-0.002, 0.002)
    width = (0.032 if side == "x" else 0.040) * rng.uniform(0.95, 1.05)
    block = Block(side, HIDDEN_SIDE[side], float(height), 0.024, float(width), rgba, carried=True)
    waits = (
        float(rng.uniform(0.675, 0.69)),
        float(rng.choice((-0.072, 0.072)) + rng.uniform(-0.008, 0.008)),
        float(rng.uniform(-0.3, 0.3)),
    )
    step = int(rng.integers(4, 46)) if rng.random() < share else NEVER
    found = replace(scene, push=Push(step, index, block, waits))
    return found if found.after_push().good_plans() else None


def _draw(split: str, number: int, look: str, rng: np.random.Generator) -> PlugScene:
    unseen = look == "unseen"
    rounds = int(rng.choice(3, p=(0.35, 0.45, 0.2)))
    kinds = ["round"] * rounds + ["two_pin"] * (3 - rounds)
    rng.shuffle(kinds)
    colours = [str(c) for c in rng.choice(COLOURS, 3, replace=False)]
    block_rgba = _grey(rng, unseen)
    spacing = rng.uniform(0.128, 0.155) if unseen else 0.145
    tilt = rng.uniform(-0.2, 0.2) if unseen else 0.0
    sockets = []
    for slot in range(3):
        y = (slot - 1) * spacing + rng.uniform(-0.01, 0.01)
        x = 0.575 + tilt * y + rng.uniform(-0.018, 0.018)
        yaw = float(rng.uniform(-0.28, 0.28) if unseen else rng.uniform(-0.2, 0.2))
        blocks = _draw_blocks(rng, unseen, block_rgba)
        rgba = _shade(colours[slot], rng, unseen)
        sockets.append(Socket(kinds[slot], colours[slot], rgba, float(x), float(y), yaw, blocks))
    reach = 0.13 if unseen else 0.11
    rack = (
        float(0.395 + rng.uniform(-0.012, 0.012)),
        float(rng.uniform(-reach, reach)),
        float(rng.uniform(-0.3, 0.3)),
    )
    return PlugScene(
        split,
        number,
        str(rng.choice(INSTRUCTIONS[look])),
        rack,
        tuple(sockets),
        _jitter(_PLUGS[look][rng.integers(len(_PLUGS[look]))], rng),
        _jitter(_TABLES[look][rng.integers(len(_TABLES[look]))], rng),
        _jitter((0.42, 0.3, 0.2), rng),
    )


def _draw_blocks(
    rng: np.random.Generator, unseen: bool, rgba: tuple[float, float, float]
) -> tuple[Block, ...]:
    """Nothing, a tall neighbour on the x or y side, both, or low ones, which no finger meets."""
    sides = {0: "", 1: "x", 2: "y", 3: "xy"}[int(rng.choice(4, p=(0.2, 0.4, 0.28, 0.12)))]
    blocks = []
    for side in "xy":
        if side in sides:
            spread = 0.003 if unseen else 0.002
            height = TALL_HEIGHT[side] + rng.uniform(-spread, spread)
        elif rng.random() < 0.25:
            height = rng.uniform(0.018, 0.036) if unseen else rng.uniform(0.022, 0.032)
        else:
            continue
        width = 0.032 if side == "x" else 0.040
        width *= rng.uniform(0.8, 1.2) if unseen else rng.uniform(0.95, 1.05)
        depth = rng.uniform(0.02, 0.026) if unseen else 0.024
        sign = HIDDEN_SIDE[side] if side in sides else int(rng.choice((-1, 1)))
        blocks.append(Block(side, sign, float(height), float(depth), float(width), rgba))
    return tuple(blocks)


def _shade(colour: str, rng: np.random.Generator, unseen: bool) -> tuple[float, float, float]:
    """RGB of a named colour: full ones in `seen`, pale or dark ones in `unseen`."""
    hue = (_HUES[colour] + rng.uniform(-0.012, 0.012)) % 1.0
    if not unseen:
        return colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 0.9), rng.uniform(0.75, 0.9))
    if rng.random() < 0.5:
        return colorsys.hsv_to_rgb(hue, rng.uniform(0.45, 0.6), rng.uniform(0.88, 0.97))
    return colorsys.hsv_to_rgb(hue, rng.uniform(0.85, 1.0), rng.uniform(0.5, 0.62))


def _grey(rng: np.random.Generator, unseen: bool) -> tuple[float, float, float]:
    value = float(rng.uniform(0.25, 0.4) if unseen else rng.uniform(0.75, 0.92))
    return _jitter((value, value, value), rng)


def _jitter(rgb: tuple[float, float, float], rng: np.random.Generator) -> tuple[float, float, float]:
    r, g, b = np.clip(np.asarray(rgb) + rng.uniform(-0.04, 0.04, 3), 0, 1)
    return float(r), float(g), float(b)
