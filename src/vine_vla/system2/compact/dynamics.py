"""Next graphs: what a subgoal leaves behind when it is reached and when it slips.

A net shared by the members predicts residuals: box centres move by an offset plus a share of the way
to each argument, sizes by a factor, categories keep their probability or change to another. What
never changes in the data (a colour, a bolted object in a fixed camera) is copied exactly. Relations
are derived from the predicted boxes by the rules of layer 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vine_vla.core.packing import PackedGraphs, attribute_slots, attribute_width
from vine_vla.core.protocols import DEAD, SLIPPED
from vine_vla.learning.device import CPU, to_device, to_numpy
from vine_vla.system2.compact.features import Encoder
from vine_vla.system2.compact.fit import FitConfig, fit
from vine_vla.system2.compact.nets import SubgoalNet, SubgoalTensors
from vine_vla.system2.compact.outcome import noisy, table_inputs
from vine_vla.system2.compact.rules import derive_packed
from vine_vla.system2.segments import CENSORED, SegmentTable

STILL = 0.015
"""An object class whose boxes never move by more (image shares) in a camera stands still there."""


@dataclass(frozen=True)
class Changes:
    """What the data ever saw change.

    Args:
        moves: object class x camera. bool [classes, C]
        alters: attribute feature. bool [F]
    """

    moves: NDArray[np.bool_]
    alters: NDArray[np.bool_]


class Parts(NamedTuple):
    """The head's outputs for N pairs, O objects, two outcomes.

    Args:
        move: centre and log-size residuals. [2, C, 4, O, N]
        share: part of the way to each argument. [2, C, A, O, N]
        visible: logits. [2, C, O, N]
        attributes: logits of categories, residual and known logit of numbers. [2, F, O, N]
        gone: logits of a category becoming unknown. [2, attributes, O, N]
        gate: logits of an attribute changing. [2, attributes, O, N]
    """

    move: Tensor
    share: Tensor
    visible: Tensor
    attributes: Tensor
    gone: Tensor
    gate: Tensor


class State(NamedTuple):
    """Graphs as tensors: boxes [C, 4, O, N], seen (0 or 1) [C, O, N], attributes [F, O, N]."""

    boxes: Tensor
    seen: Tensor
    attributes: Tensor

    @classmethod
    def of(cls, graphs: PackedGraphs, device: torch.device) -> State:
        arrays = graphs.boxes.transpose(2, 3, 1, 0), graphs.visible.transpose(2, 1, 0), graphs.attributes.T
        return cls(*(to_device(np.ascontiguousarray(a, np.float32), device) for a in arrays))

    def at(self, index: Tensor) -> State:
        """Of the graphs `index` [n]."""
        return State(*(part[..., index] for part in self))


def head_width(encoder: Encoder) -> int:
    s = encoder.schema
    return 2 * (len(s.cameras) * (5 + encoder.arity) + attribute_width(s) + 2 * len(s.attributes))


def dynamics_net(encoder: Encoder, width: int, generator: torch.Generator) -> SubgoalNet:
    """Untrained net; starts close to `nothing changes`."""
    net = SubgoalNet(
        1,
        encoder.token_width,
        encoder.context_width,
        encoder.arity,
        width,
        generator,
        heads={},
        object_heads={"next": head_width(encoder)},
    )
    with torch.no_grad():
        net.object_heads["next"].weight.mul_(0.3)
    return net


def _split(raw: Tensor, encoder: Encoder) -> Parts:
    s = encoder.schema
    width, o, n = raw.shape
    c, a, k = len(s.cameras), encoder.arity, len(s.attributes)
    f = attribute_width(s)
    raw = raw.reshape(2, width // 2, o, n)
    move, share, visible, attributes, gone, gate = raw.split([4 * c, a * c, c, f, k, k], 1)
    return Parts(
        move.reshape(2, c, 4, o, n), share.reshape(2, c, a, o, n), visible, attributes, gone - 2.0, gate - 2.0
    )


class Predicted(NamedTuple):
    """Next graphs as tensors: boxes as centre and size [2, C, 4, O, N], visible [2, C, O, N], attributes
    [2, F, O, N]."""

    boxes: Tensor
    visible: Tensor
    attributes: Tensor


def _predict(
    parts: Parts, before: State, args: Tensor, encoder: Encoder, alters: NDArray[np.bool_] | None = None
) -> Predicted:
    """Apply the residuals to graphs; args [N, A]. Attributes outside `alters` [F] stay as they are."""
    schema, scales = encoder.schema, {name: spread for name, _, spread in encoder.scales}
    boxes, seen, attributes = before
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=5e-3)
    gate = seen[:, None]
    center = torch.where(gate > 0, center, 0.5)
    size = torch.where(gate > 0, size, 0.2)
    n = torch.arange(len(args), device=args.device)
    new_center = center + parts.move[:, :, :2]
    for a in range(args.shape[1]):
        slot = args[:, a].clamp(min=0)
        known = seen[:, slot, n][:, None] * seen * (args[:, a] >= 0)
        way = (center[:, :, slot, n][:, :, None] - center) * known[:, None]  # [C, 2, O, N]
        new_center = new_center + parts.share[:, :, a, None] * way
    new_size = size * parts.move[:, :, 2:].clamp(-3, 3).exp()
    # A residual on visibility: what is seen tends to stay seen.
    visible = (parts.visible + (4 * seen - 2)).sigmoid()
    changed = []
    for index, (name, slot) in enumerate(attribute_slots(schema).items()):
        old, fresh = attributes[slot], parts.attributes[:, slot]
        if alters is not None and not alters[slot].any():
            changed.append(old.expand(2, *old.shape))
            continue
        gate = parts.gate[:, index, None].sigmoid()
        if schema.attributes[name]:
            logits = torch.cat([fresh, parts.gone[:, index, None]], 1)
            changed.append((1 - gate) * old + gate * logits.softmax(1)[:, :-1])
        else:
            value = old[:1] + scales.get(name, 1.0) * fresh[:, :1] * old[1:]
            known = (1 - gate) * old[1:] + gate * fresh[:, 1:].sigmoid()
            changed.append(torch.cat([value, known], 1))
    new_attributes = torch.cat(changed, 1) if changed else attributes.expand(2, *attributes.shape)
    return Predicted(torch.cat([new_center, new_size], 2), visible, new_attributes)


def find_changes(table: SegmentTable) -> Changes:
    """What changes between start and end of the table's segments."""
    schema = table.schema
    known = table.has_after
    before, after = table.graphs.select(known), table.after.select(known)
    moves = np.zeros((len(schema.classes), len(schema.cameras)), bool)
    shift = np.abs(after.boxes - before.boxes).max(-1)  # [N, O, C]
    moved = (shift > STILL) | (before.visible != after.visible)
    for index in range(len(schema.classes)):
        of_class = before.cls == index
        # One segment in two hundred may be a mislabelled jump of a bolted object; more is motion.
        moves[index] = moved[of_class].mean(0) > 0.005 if of_class.any() else True
    altered = np.abs(after.attributes - before.attributes) > 1e-3
    alters = altered.any((0, 1)) if len(altered) else np.ones(altered.shape[-1], bool)
    for slot in attribute_slots(schema).values():
        alters[slot] = alters[slot].any()
    return Changes(moves, alters)


def next_graphs(
    net: SubgoalNet,
    encoder: Encoder,
    changes: Changes,
    graphs: PackedGraphs,
    inputs: SubgoalTensors,
) -> PackedGraphs:
    """Graphs after reached and after slipped, with relations, budget one less. [N, 2]

    Args:
        graphs: before the subgoals. [N]
        inputs: features of the N (graph, subgoal) pairs.
    """
    schema = encoder.schema
    before = State.of(graphs, net.device)
    with torch.inference_mode():
        raw = net.object_heads["next"](net(inputs)[1])[0]
        predicted = _predict(_split(raw, encoder), before, inputs.args, encoder, changes.alters)
    center, size = to_numpy(predicted.boxes[:, :, :2]), to_numpy(predicted.boxes[:, :, 2:])
    boxes = np.concatenate([center - size / 2, center + size / 2], 2)  # [2, C, 4, O, N]
    present = graphs.cls.T >= 0
    moves = changes.moves.T[:, np.maximum(graphs.cls.T, 0)] & present  # [C, O, N]
    visible = np.where(moves, to_numpy(predicted.visible) >= 0.5, graphs.visible.T)
    boxes = np.where(moves[:, None], boxes, to_numpy(before.boxes)) * visible[:, :, None]
    attributes = to_numpy(predicted.attributes) * present
    n, o = graphs.cls.shape
    result = PackedGraphs(
        cls=np.repeat(graphs.cls[:, None], 2, 1),
        number=np.repeat(graphs.number[:, None], 2, 1),
        boxes=np.ascontiguousarray(boxes.transpose(4, 0, 3, 1, 2), np.float32),
        visible=np.ascontiguousarray(visible.transpose(3, 0, 2, 1)),
        attributes=np.ascontiguousarray(attributes.transpose(3, 0, 2, 1), np.float32),
        relations=np.zeros((n, 2, len(schema.predicates), o, o), bool),
        budget=np.repeat(np.maximum(graphs.budget - 1, 0)[:, None], 2, 1).astype(np.int16),
    )
    return result._replace(relations=derive_packed(result, schema))


def train_dynamics(
    encoder: Encoder,
    table: SegmentTable,
    *,
    width: int,
    config: FitConfig,
    noise: float,
    seed: int,
    device: torch.device = CPU,
    report: Callable[[float], None] | None = None,
) -> tuple[SubgoalNet, Changes]:
    """Fit on segments whose end is annotated: goal and reached teach one half, slipped the other.

    Dead ends teach nothing: nothing is planned after them.
    """
    usable = table.has_after & (table.outcome != DEAD) & (table.outcome != CENSORED)
    changes = find_changes(table)
    table = table.where(usable)
    rng = np.random.default_rng(seed)
    net = dynamics_net(encoder, width, torch.Generator().manual_seed(seed)).to(device)
    if not len(table):
        return net, changes
    slipped = to_device(table.outcome == SLIPPED, device)
    after = State.of(table.after, device)
    low, high = after.boxes[:, :2], after.boxes[:, 2:]
    wanted = after._replace(boxes=torch.cat([(low + high) / 2, (high - low).clamp(min=5e-3)], 1))
    present = to_device((table.graphs.cls.T >= 0).astype(np.float32), device)
    inputs: SubgoalTensors
    before: State

    def redraw(epoch: int) -> None:
        nonlocal inputs, before
        graphs = noisy(table.graphs, encoder, noise, rng) if noise > 0 else table.graphs
        before = State.of(graphs, device)
        inputs = SubgoalTensors(table_inputs(encoder, table, graphs), device)

    def loss(index: Tensor) -> Tensor:
        some = inputs[index]
        raw = net.object_heads["next"](net(some)[1])[0]
        predicted = _predict(_split(raw, encoder), before.at(index), some.args, encoder)
        mine = State(*(torch.where(slipped[index], part[1], part[0]) for part in predicted))
        return _loss(mine, wanted.at(index), present[..., index], encoder)[None]

    members_see_all = np.ones((1, len(table)), np.float32)
    # Rare slips must not drown in the reached ones.
    share = float((table.outcome == SLIPPED).mean())
    if 0 < share < 0.5:
        members_see_all[0, table.outcome == SLIPPED] = min(4.0, (1 - share) / share)
    fit(net, loss, members_see_all, config, rng, each_epoch=redraw, report=report)
    return net, changes


def _loss(found: State, wanted: State, present: Tensor, encoder: Encoder) -> Tensor:
    """Loss a graph: Huber on centres and log sizes, cross-entropy on visibility and attributes. [N]

    Args:
        found, wanted: boxes are centres and sizes. seen may be a probability.
        present: [O, N]
    """
    schema, scales = encoder.schema, {name: spread for name, _, spread in encoder.scales}
    both = wanted.seen * present
    boxes, goal = found.boxes, wanted.boxes
    center = F.smooth_l1_loss(boxes[:, :2], goal[:, :2], beta=0.02, reduction="none").sum(1)
    size = F.smooth_l1_loss(boxes[:, 2:].log(), goal[:, 2:].log(), beta=0.1, reduction="none").sum(1)
    total = ((10 * center + size) * both).sum((0, 1))
    seen = F.binary_cross_entropy(found.seen.clamp(1e-5, 1 - 1e-5), wanted.seen, reduction="none")
    total = total + (seen * present).sum((0, 1))
    for name, slot in attribute_slots(schema).items():
        want, got = wanted.attributes[slot], found.attributes[slot]
        if schema.attributes[name]:
            known = torch.cat([want, 1 - want.sum(0, keepdim=True)])
            guess = torch.cat([got, 1 - got.sum(0, keepdim=True)]).clamp(1e-5, 1.0)
            part = -(known * guess.log()).sum(0)
        else:
            off = (got[0] - want[0]) / scales.get(name, 1.0)
            part = F.smooth_l1_loss(off, torch.zeros_like(off), reduction="none") * want[1]
            known_part = F.binary_cross_entropy(got[1].clamp(1e-5, 1 - 1e-5), want[1], reduction="none")
            part = part + known_part
        total = total + (part * present).sum(0)
    return total
