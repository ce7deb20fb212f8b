"""Identity: ids given at the episode's first graph and kept by matching later graphs to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph, SceneObject


def assign_ids(objects: Sequence[SceneObject], camera: str) -> tuple[SceneObject, ...]:
    """`objects` with fresh ids: per class from left to right in `camera`, `cup` or `shelf_1`, `shelf_2`.

    An only object of its class is called by the class; objects that it does not show come last. The order of
    `objects` is kept.
    """
    by_class: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(objects):
        by_class[item.cls].append(index)

    def x_of(index: int) -> float:
        box = objects[index].boxes.get(camera)
        return box.center[0] if box else np.inf

    ids: dict[int, str] = {}
    for cls, indices in by_class.items():
        for rank, index in enumerate(sorted(indices, key=lambda i: (x_of(i), i)), 1):
            ids[index] = cls if len(indices) == 1 else f"{cls}_{rank}"
    return tuple(replace(item, id=ids[index]) for index, item in enumerate(objects))


def match_identity(objects: Sequence[SceneObject], earlier: SceneGraph) -> tuple[SceneObject, ...]:
    """`objects` of a later moment under the ids of `earlier`, in the order of `earlier`.

    Hungarian matching per class on the distance of box centres, averaged over shared cameras.
    Objects of `earlier` that are not found again are kept as they were (occluded, not gone);
    objects that `earlier` lacks get the next free id of their class and come last.
    """
    found: dict[str, SceneObject] = {}
    surplus: list[SceneObject] = []
    for cls in dict.fromkeys(o.cls for o in [*earlier.objects, *objects]):
        old, new = earlier.of_class(cls), [o for o in objects if o.cls == cls]
        cost = np.array([[_distance(a, b) for b in new] for a in old]).reshape(len(old), len(new))
        pairs = linear_assignment(cost)
        for row, column in pairs:
            found[old[row].id] = replace(new[column], id=old[row].id)
        matched = {column for _, column in pairs}
        surplus += [item for column, item in enumerate(new) if column not in matched]
    kept = [found.get(o.id, o) for o in earlier.objects]
    counts = Counter(o.cls for o in earlier.objects)
    taken = {o.id for o in kept}
    for item in surplus:
        counts[item.cls] += 1
        while (fresh := f"{item.cls}_{counts[item.cls]}") in taken:
            counts[item.cls] += 1
        taken.add(fresh)
        kept.append(replace(item, id=fresh))
    return tuple(kept)


def match_names(graph: SceneGraph, other: SceneGraph) -> dict[str, str]:
    """Id in `graph` -> id in `other`, two graphs of one moment by different observers.

    Hungarian matching per class as in `match_identity`; what the other one does not show has no entry.
    """
    names: dict[str, str] = {}
    for cls in dict.fromkeys(o.cls for o in graph.objects):
        mine, theirs = graph.of_class(cls), other.of_class(cls)
        cost = np.array([[_distance(a, b) for b in theirs] for a in mine]).reshape(len(mine), len(theirs))
        names |= {mine[row].id: theirs[column].id for row, column in linear_assignment(cost)}
    return names


def _distance(a: SceneObject, b: SceneObject) -> float:
    """Mean distance of the centres in the cameras that see both; 2 (more than any image) without one."""
    shared = [c for c in a.boxes if c in b.boxes]
    if not shared:
        return 2.0
    centers = [(a.boxes[c].center, b.boxes[c].center) for c in shared]
    return float(np.mean([np.hypot(p[0] - q[0], p[1] - q[1]) for p, q in centers]))


def linear_assignment(cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total cost, min(rows, columns) of them, sorted by row.

    Args:
        cost: finite costs. Shape [rows, columns].
    """
    from scipy.optimize import linear_sum_assignment  # late: it takes as long to import as all of NumPy

    rows, columns = linear_sum_assignment(cost)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
