"""Perception: images and proprioception to a scene graph, by the trained detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import Tensor

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Attribute, Belief, Box, SceneGraph, SceneObject, Schema
from vine_vla.core.identity import assign_ids, linear_assignment, match_identity
from vine_vla.core.packing import attribute_slots
from vine_vla.core.protocols import Observation
from vine_vla.core.relations import GRIPPER, derive_relations
from vine_vla.learning.device import to_device, to_numpy
from vine_vla.system2.compact.attribute_classifier import SIDE, Reader, readable, windows
from vine_vla.system2.compact.detector import FEATURES, Detections, Detector, peaks, shrink
from vine_vla.system2.compact.tracking import centers, weigh

Float = NDArray[np.float32]

SPARE = 2
"""Further peaks of a class that are considered in a moving camera."""

DOUBT = 0.15
"""Image widths of disagreement between cameras that a much weaker peak is worth."""

ONLY_GATE = 0.3
"""Farther than this, in image widths, the cameras do not speak of the same only object."""

LINK_GATE = 0.15
"""Image shares: a detection of a further camera belongs to no object whose place it predicts farther off."""
ALONE = 0.6
"""Score from which a detection in a further camera alone makes an object."""
DETECTOR_SAYS = 0.25
"""Weight of the detector's log-probabilities beside the reader's. It is sure even in paint that it never saw;
a quarter of its word gave unseen looks the best likelihood."""
SURE = 0.98
"""Probability from which a constant category counts as known; below it the graph holds a `Belief`."""
_PLACE = "#place"  # no schema can have this name


@dataclass(frozen=True)
class PerceptionSetup:
    """What perception learned beside the weights.

    Args:
        schema: vocabulary.
        state_mean, state_scale: of proprioception. P each.
        threshold: score of a detection that counts, per class in the reference camera. C
        least, most: objects of each class that a scene ever had. C
        least_seen: of them, how many the reference camera saw at least. C
        allowed: attributes that objects of each class ever had. C
        constant: attributes that never change within an episode.
        scales: name -> (mean, spread) of numeric attributes.
    """

    schema: Schema
    state_mean: tuple[float, ...]
    state_scale: tuple[float, ...]
    threshold: tuple[float, ...]
    least: tuple[int, ...]
    most: tuple[int, ...]
    least_seen: tuple[int, ...]
    allowed: tuple[tuple[str, ...], ...]
    constant: tuple[str, ...]
    scales: Mapping[str, tuple[float, float]]

    def scaled(self, state: Float) -> Float:
        """Proprioception in units of its spread, clipped to +-4. [..., P]"""
        mean, scale = np.array(self.state_mean, np.float32), np.array(self.state_scale, np.float32)
        return np.clip((state - mean) / scale, -4.0, 4.0)


@dataclass
class _Found:
    """An object being put together: class, score, box and features in each camera that sees it."""

    cls: int
    score: float
    boxes: dict[int, Float]
    features: dict[int, Float]


class Perception:
    """`Perceiver` by the detector, and by the reader where there is one. A call takes milliseconds.

    Args:
        reader: reads categories that no hue names once more, from windows; None: the detector alone does.
    """

    def __init__(self, detector: Detector, setup: PerceptionSetup, reader: Reader | None = None) -> None:
        self.detector, self.setup, self.reader = detector.eval(), setup, reader
        self.schema = setup.schema

    def perceive_one(self, observation: Observation, earlier: SceneGraph | None = None) -> SceneGraph:
        """The scene graph of one moment.

        Args:
            observation: images of the schema's cameras, any size; a further camera may be missing.
            earlier: graph of an earlier moment: its ids, constant attributes and number of objects hold.

        Raises:
            VineError: the reference camera's image is missing, or proprioception has another length.
        """
        state = self._state(observation)
        with torch.inference_mode():
            views = self._detect(observation)
            found = self._objects(views, state, earlier)
            raw = self._raw(found, state)
            if self.reader is not None:
                self._read(self.reader, found, observation, raw, earlier is not None)
            attributes = [self._decode(f.cls, values) for f, values in zip(found, raw, strict=True)]
        cameras = self.schema.cameras
        items = [
            SceneObject(
                f"object_{i}",
                self.schema.classes[f.cls],
                {cameras[c]: Box(*(float(v) for v in box)) for c, box in sorted(f.boxes.items())},
                values,
            )
            for i, (f, values) in enumerate(zip(found, attributes, strict=True))
        ]
        objects = assign_ids(items, cameras[0]) if earlier is None else self._follow(items, earlier)
        if earlier is None:
            order = {name: rank for rank, name in enumerate(self.schema.classes)}
            objects = tuple(sorted(objects, key=lambda o: (order[o.cls], len(o.id), o.id)))
        return SceneGraph(objects, derive_relations(objects, cameras[0], self.schema.predicates))

    def _state(self, observation: Observation) -> Tensor:
        state = np.asarray(observation.proprioception, np.float32)
        if state.shape != (len(self.setup.state_mean),):
            raise VineError(
                f"proprioception has shape {state.shape}, training had {len(self.setup.state_mean)} numbers",
                hint="use the robot that the demonstrations come from",
            )
        return to_device(self.setup.scaled(state), self.detector.device)

    def _detect(self, observation: Observation) -> dict[int, Detections]:
        reference = self.schema.cameras[0]
        if reference not in observation.images:
            raise VineError(
                f"no image of camera {reference}", hint=f"cameras: {', '.join(self.schema.cameras)}"
            )
        found = {}
        for c, role in enumerate(self.schema.cameras):
            if role in observation.images:
                image = to_device(shrink(observation.images[role]), self.detector.device)
                image = image.permute(2, 0, 1)[None].float() / 255
                found[c] = peaks(self.detector.maps(c, image))
        return found

    def _objects(
        self, views: Mapping[int, Detections], state: Tensor, earlier: SceneGraph | None
    ) -> list[_Found]:
        least, most, threshold = (
            list(self.setup.least_seen),
            list(self.setup.most),
            np.array(self.setup.threshold, np.float32),
        )
        if earlier is not None:
            most = [len(earlier.of_class(name)) for name in self.schema.classes]
            # The number is known, so weaker peaks are believed; what stays unseen keeps its old place.
            threshold, least = threshold * 0.3, [0] * len(least)
        others = {c: (view, self._places(c, view, state)) for c, view in views.items() if c}
        front = weigh(views[0], others, earlier, self.schema)
        found = [
            _Found(int(view.classes[d]), float(view.scores[d]), {0: view.boxes[d]}, {0: view.features[d]})
            for view in [front]
            for d in _keep(view, threshold, least, most)
        ]
        for c, (view, places) in sorted(others.items()):
            self._join(found, view, c, places, threshold, most)
        if earlier is None:
            # What every scene has is there, even if no camera sees it now (a gripper above the picture).
            for cls, count in enumerate(self.setup.least):
                missing = count - sum(f.cls == cls for f in found)
                found += [_Found(cls, 0.0, {}, {}) for _ in range(missing)]
        return found

    def _places(self, camera: int, view: Detections, state: Tensor) -> Float:
        """Where a further camera's detections stand in the reference camera. [D, 2]"""
        one_hot = np.eye(len(self.schema.classes), dtype=np.float32)[view.classes]
        inputs = (to_device(a, state.device) for a in (view.features, view.boxes, one_hot))
        places: Float = to_numpy(self.detector.link(camera, *inputs, state.expand(len(view.scores), -1)))
        return places

    def _join(
        self,
        found: list[_Found],
        view: Detections,
        camera: int,
        places: Float,
        threshold: Float,
        most: Sequence[int],
    ) -> None:
        """Give the objects their boxes in a further camera; detections far from all may be new objects."""
        # More peaks than objects: which of them is one of the reference camera's objects, the link decides.
        kept = _keep(view, threshold, [0] * len(most), [m + SPARE for m in most])
        if not kept:
            return
        index = np.array(kept)
        place = places[index]
        for cls in range(len(self.schema.classes)):
            rows = [i for i, f in enumerate(found) if f.cls == cls]
            columns = [j for j in range(len(index)) if view.classes[index[j]] == cls]
            rows = [i for i in rows if 0 in found[i].boxes]
            seen = centers(np.array([found[i].boxes[0] for i in rows]).reshape(-1, 4))
            cost = np.linalg.norm(seen[:, None] - place[columns].reshape(1, len(columns), 2), axis=-1)
            # An only object of its class is nearly found by class alone.
            gate = ONLY_GATE if most[cls] == 1 and len(rows) == 1 else LINK_GATE
            scores = view.scores[index[columns]]
            doubt = DOUBT * (1 - scores / scores.max()) if len(columns) else scores
            pairs = linear_assignment(np.minimum(cost + doubt, 1.0)) if cost.size else []
            joined = set()
            for row, column in pairs:
                if cost[row, column] <= gate:
                    d = index[columns[column]]
                    found[rows[row]].boxes[camera] = view.boxes[d]
                    found[rows[row]].features[camera] = view.features[d]
                    joined.add(column)
            room = most[cls] - len(rows)
            for column, j in enumerate(columns):
                d = index[j]
                near = cost[:, column].min() if len(rows) else np.inf
                # A class that every scene has is believed sooner than one that may be missing.
                enough = threshold[cls] if len(rows) < self.setup.least[cls] else ALONE
                if room > 0 and column not in joined and near > LINK_GATE and view.scores[d] >= enough:
                    boxes, features = {camera: view.boxes[d]}, {camera: view.features[d]}
                    found.append(_Found(cls, float(view.scores[d]), boxes, features))
                    room -= 1

    def _raw(self, found: Sequence[_Found], state: Tensor) -> Float:
        """What the detector says of the objects' attributes. [N, F]"""
        cameras = len(self.schema.cameras)
        views = np.zeros((len(found), cameras, FEATURES + 5), np.float32)
        for i, item in enumerate(found):
            for c, box in item.boxes.items():
                views[i, c] = np.concatenate([item.features[c], [1.0], box])
        one_hot = np.eye(len(self.schema.classes), dtype=np.float32)[np.array([f.cls for f in found], int)]
        raw: Float = to_numpy(
            self.detector.read(
                to_device(one_hot, state.device),
                state.expand(len(found), -1),
                to_device(views, state.device),
            )
        )
        return raw

    def _read(
        self, reader: Reader, found: Sequence[_Found], observation: Observation, raw: Float, known: bool
    ) -> None:
        """Add what the reader says to `raw`, the detector's.

        Args:
            known: whether constant attributes are known from before, and need no second look.
        """
        wanted = [i for i, f in enumerate(found) if f.boxes and self._is_read(f.cls, known)]
        if not wanted:
            return
        cameras = self.schema.cameras
        views = [np.zeros((len(wanted), SIDE, SIDE, 3), np.uint8) for _ in cameras]
        seen = np.zeros((len(wanted), len(cameras)), np.float32)
        for c, role in enumerate(cameras):
            mine = [row for row, i in enumerate(wanted) if c in found[i].boxes]
            if mine:
                boxes = np.array([found[wanted[row]].boxes[c] for row in mine], np.float32)
                views[c][mine], seen[mine, c] = windows(observation.images[role], boxes), 1.0
        one_hot = np.eye(len(self.schema.classes), dtype=np.float32)[[found[i].cls for i in wanted]]
        logits = reader.read(views, seen, one_hot)
        for slot in readable(self.schema):
            said = log_softmax(raw[wanted, slot], -1)
            raw[wanted, slot] = DETECTOR_SAYS * said + log_softmax(logits[:, slot], -1)

    def _is_read(self, cls: int, known: bool) -> bool:
        """Whether the reader is asked about a class; what the gripper does, proprioception says."""
        if self.schema.classes[cls] == GRIPPER:
            return False
        names = [n for n in self.setup.allowed[cls] if self.schema.attributes[n]]
        names = [n for n in names if n not in self.schema.describing]
        return any(not (known and name in self.setup.constant) for name in names)

    def _decode(self, cls: int, raw: Float) -> dict[str, Attribute]:
        slots = attribute_slots(self.schema)
        found: dict[str, Attribute] = {}
        for name in self.setup.allowed[cls]:
            values, part = self.schema.attributes[name], raw[slots[name]]
            if values:
                # Beliefs are about what is and stays so; what changes is looked at again before it matters.
                sure = SURE if name in self.setup.constant else 0.0
                found[name] = _category(values, part, sure)
            elif part[1] > 0:
                mean, spread = self.setup.scales.get(name, (0.0, 1.0))
                found[name] = float(mean + spread * part[0])
        return found

    def _follow(self, items: Sequence[SceneObject], earlier: SceneGraph) -> tuple[SceneObject, ...]:
        """Ids of `earlier` by the reference camera alone: the others move, so places there say nothing."""
        camera = self.schema.cameras[0]
        by_place = {item.id: item for item in items}
        seen = [
            replace(o, boxes={camera: o.boxes[camera]}, attributes={_PLACE: o.id})
            for o in items
            if camera in o.boxes
        ]
        before = SceneGraph(
            tuple(
                replace(o, boxes={camera: o.boxes[camera]} if camera in o.boxes else {})
                for o in earlier.objects
            )
        )
        followed = []
        for matched, old in zip(match_identity(seen, before), earlier.objects, strict=False):
            source = matched.attributes.get(_PLACE)
            new = by_place.get(str(source)) if source is not None else None
            kept = {n: v for n, v in old.attributes.items() if n in self.setup.constant}
            if new is None:  # occluded, not gone; where a moving camera saw it no longer holds
                boxes = {camera: old.boxes[camera]} if camera in old.boxes else {}
                followed.append(SceneObject(old.id, old.cls, boxes, old.attributes))
            else:
                followed.append(SceneObject(old.id, old.cls, new.boxes, {**new.attributes, **kept}))
        return tuple(followed)


def _category(categories: Sequence[str], logits: Float, sure: float) -> str:
    """The likeliest category, a `Belief` if its probability is under `sure`."""
    best, chances = int(logits.argmax()), softmax(logits)
    return categories[best] if chances[best] >= sure else Belief(categories[best], chances)


def _keep(view: Detections, threshold: Float, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Indices of the peaks that count: above their class's threshold, `least` to `most` of a class.

    Two peaks of a class whose boxes mostly overlap are one object.
    """
    counts = [0] * len(most)
    kept: list[int] = []
    boxes = [Box(*b) for b in view.boxes.tolist()]
    for d, cls in enumerate(view.classes.tolist()):
        if counts[cls] >= most[cls] or (view.scores[d] < threshold[cls] and counts[cls] >= least[cls]):
            continue
        if any(view.classes[k] == cls and boxes[k].iou(boxes[d]) > 0.6 for k in kept):
            continue
        kept.append(d)
        counts[cls] += 1
    return kept
