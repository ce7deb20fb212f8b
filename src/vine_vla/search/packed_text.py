"""Packed graphs straight to text, for the many imagined graphs of a search tree.

The same lines as `format_graph(unpack(...))`, with numbers rounded: imagined boxes are predictions,
their last bits mean nothing, and a tree is written after every plan.
"""

from __future__ import annotations

import numpy as np

from vine_vla.core.graph import Schema
from vine_vla.core.packing import PackedGraphs, attribute_slots, object_id

DIGITS = 4


def packed_texts(packed: PackedGraphs, schema: Schema) -> list[str]:
    """Text forms of a flat batch of graphs [n], numbers rounded to `DIGITS`; `parse_graph` reads them."""
    slots = [(name, s.start, s.stop, schema.attributes[name]) for name, s in attribute_slots(schema).items()]
    classes, cameras, predicates = schema.classes, schema.cameras, schema.predicates
    boxes = np.round(packed.boxes.astype(np.float64), DIGITS).tolist()
    values = np.round(packed.attributes.astype(np.float64), DIGITS).tolist()
    kinds, numbers, visible = packed.cls.tolist(), packed.number.tolist(), packed.visible.tolist()
    # Written in the order in which SceneGraph sorts relations.
    ranked = sorted(range(len(predicates)), key=predicates.__getitem__)
    holds = [tuple(a.tolist() for a in np.nonzero(packed.relations[b])) for b in range(len(kinds))]
    texts = []
    for b, kind in enumerate(kinds):
        names = [object_id(schema, c, n) if c >= 0 else "" for c, n in zip(kind, numbers[b], strict=True)]
        lines = []
        for o, name in enumerate(names):
            if not name:
                continue
            known = _attributes(values[b][o], slots)
            line = f"{name}: {classes[kind[o]]}" + (f" {{{', '.join(known)}}}" if known else "")
            for c, camera in enumerate(cameras):
                if visible[b][o][c]:
                    x0, y0, x1, y1 = boxes[b][o][c]
                    line += f" {camera}[{x0!r} {y0!r} {x1!r} {y1!r}]"
            lines.append(line)
        found = [
            (ranked.index(p), names[i], names[j])
            for p, i, j in zip(*holds[b], strict=True)
            if names[i] and names[j]
        ]
        lines += [f"{predicates[ranked[p]]}({i}, {j})" for p, i, j in sorted(found)]
        texts.append("\n".join(lines))
    return texts


def _attributes(features: list[float], slots: list[tuple[str, int, int, tuple[str, ...]]]) -> list[str]:
    known = []
    for name, start, stop, categories in slots:
        if categories:
            part = features[start:stop]
            top = max(part)
            if top >= 0.5:
                known.append(f"{name}={categories[part.index(top)]}")
        elif features[start + 1] >= 0.5:
            known.append(f"{name}={features[start]!r}")
    return known
