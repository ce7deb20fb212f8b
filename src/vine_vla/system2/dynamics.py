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

from vine_vla.packing import PackedGraphs, attribute_slots, attribute_width
from vine_vla.protocols import DEAD, SLIPPED
from vine_vla.system2.features import Encoder
from vine_vla.system2.fit import FitConfig, fit
from vine_vla.system2.nets import SubgoalNet, SubgoalTensors
from vine_vla.system2.outcome import noisy, table_inputs
from vine_vla.system2.rules import derive_packed
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
        move: centre and log-size residuals. [N, O, 2, C, 4]
        share: part of the way to each argument. [N, O, 2, C, A]
        visible: logits. [N, O, 2, C]
        attributes: logits of categories, residual and known logit of numbers. [N, O, 2, F]
        gone: logits of a category becoming unknown. [N, O, 2, attributes]
        gate: logits of an attribute changing. [N, O, 2, attributes]
    """

    move: Tensor
    share: Tensor
    visible: Tensor
    attributes: Tensor
    gone: Tensor
    gate: Tensor


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
    n, o, _ = raw.shape
    c, a, k = len(s.cameras), encoder.arity, len(s.attributes)
    f = attribute_width(s)
    raw = raw.reshape(n, o, 2, raw.shape[-1] // 2)
    move, share, visible, attributes, gone, gate = raw.split([4 * c, a * c, c, f, k, k], -1)
    return Parts(
        move.reshape(n, o, 2, c, 4), share.reshape(n, o, 2, c, a), visible, attributes, gone - 2.0, gate - 2.0
    )


class Predicted(NamedTuple):
    """Next graphs as tensors: centre_size [N, O, 2, C, 4], visible [N, O, 2, C], attributes [N, O, 2, F]."""

    boxes: Tensor
    visible: Tensor
    attributes: Tensor


def _predict(
    parts: Parts, boxes: Tensor, seen: Tensor, attributes: Tensor, args: Tensor, encoder: Encoder
) -> Predicted:
    """Apply the residuals to graphs: boxes [N, O, C, 4], seen [N, O, C] (0 or 1), attributes [N, O, F]."""
    schema, scales = encoder.schema, {name: spread for name, _, spread in encoder.scales}
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=5e-3)
    gate = seen[..., None]
    center = torch.where(gate > 0, center, torch.full_like(center, 0.5))
    size = torch.where(gate > 0, size, torch.full_like(size, 0.2))
    n = torch.arange(len(boxes))
    new_center = center[:, :, None] + parts.move[..., :2]
    for a in range(args.shape[1]):
        slot = args[:, a].clamp(min=0)
        known = seen[n, slot][:, None] * seen * (args[:, a] >= 0)[:, None, None]
        way = (center[n, slot][:, None] - center) * known[..., None]  # [N, O, C, 2]
        new_center = new_center + parts.share[..., a, None] * way[:, :, None]
    new_size = size[:, :, None] * parts.move[..., 2:].clamp(-3, 3).exp()
    new_boxes = torch.cat([new_center, new_size], -1)
    # A residual on visibility: what is seen tends to stay seen.
    visible = (parts.visible + (4 * seen - 2)[:, :, None]).sigmoid()
    changed = []
    for index, (name, slot) in enumerate(attribute_slots(schema).items()):
        old = attributes[:, :, None, slot].expand(-1, -1, 2, -1)
        gate = parts.gate[..., index, None].sigmoid()
        if schema.attributes[name]:
            logits = torch.cat([parts.attributes[..., slot], parts.gone[..., index, None]], -1)
            fresh = logits.softmax(-1)[..., :-1]
            changed.append((1 - gate) * old + gate * fresh)
        else:
            value = old[..., :1] + scales.get(name, 1.0) * parts.attributes[..., slot][..., :1] * old[..., 1:]
            known = (1 - gate) * old[..., 1:] + gate * parts.attributes[..., slot][..., 1:].sigmoid()
            changed.append(torch.cat([value, known], -1))
    new_attributes = torch.cat(changed, -1) if changed else attributes[:, :, None].expand(-1, -1, 2, -1)
    return Predicted(new_boxes, visible, new_attributes)


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
    with torch.inference_mode():
        raw = net.object_heads["next"](net(inputs)[1])[0]
        before = torch.from_numpy(np.ascontiguousarray(graphs.boxes))
        seen = torch.from_numpy(graphs.visible.astype(np.float32))
        old = torch.from_numpy(np.ascontiguousarray(graphs.attributes))
        predicted = _predict(_split(raw, encoder), before, seen, old, inputs.args, encoder)
    center, size = predicted.boxes[..., :2].numpy(), predicted.boxes[..., 2:].numpy()
    boxes = np.concatenate([center - size / 2, center + size / 2], -1)
    boxes = np.moveaxis(boxes, 2, 1)  # [N, 2, O, C, 4]
    visible = np.moveaxis(predicted.visible.numpy() >= 0.5, 2, 1)
    present = graphs.cls >= 0
    moves = changes.moves[np.maximum(graphs.cls, 0)] & present[..., None]  # [N, O, C]
    visible = np.where(moves[:, None], visible, graphs.visible[:, None])
    boxes = np.where(moves[:, None, ..., None], boxes, graphs.boxes[:, None]) * visible[..., None]
    attributes = np.moveaxis(predicted.attributes.numpy(), 2, 1)
    attributes = np.where(changes.alters, attributes, graphs.attributes[:, None]) * present[:, None, :, None]
    n, o = graphs.cls.shape
    result = PackedGraphs(
        cls=np.repeat(graphs.cls[:, None], 2, 1),
        number=np.repeat(graphs.number[:, None], 2, 1),
        boxes=boxes.astype(np.float32),
        visible=visible,
        attributes=attributes.astype(np.float32),
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
    report: Callable[[float], None] | None = None,
) -> tuple[SubgoalNet, Changes]:
    """Fit on segments whose end is annotated: goal and reached teach one half, slipped the other.

    Dead ends teach nothing: nothing is planned after them.
    """
    usable = table.has_after & (table.outcome != DEAD) & (table.outcome != CENSORED)
    changes = find_changes(table)
    table = table.where(usable)
    rng = np.random.default_rng(seed)
    net = dynamics_net(encoder, width, torch.Generator().manual_seed(seed))
    if not len(table):
        return net, changes
    half = torch.from_numpy((table.outcome == SLIPPED).astype(np.int64))
    target = table.after
    low, high = target.boxes[..., :2], target.boxes[..., 2:]
    wanted = torch.from_numpy(np.concatenate([(low + high) / 2, np.maximum(high - low, 5e-3)], -1))
    wanted_seen = torch.from_numpy(target.visible.astype(np.float32))
    wanted_attributes = torch.from_numpy(target.attributes)
    present = torch.from_numpy((table.graphs.cls >= 0).astype(np.float32))
    state: dict[str, Tensor] = {}

    def redraw(epoch: int) -> None:
        graphs = noisy(table.graphs, encoder, noise, rng) if noise > 0 else table.graphs
        state["boxes"] = torch.from_numpy(np.ascontiguousarray(graphs.boxes))
        state["seen"] = torch.from_numpy(graphs.visible.astype(np.float32))
        state["attributes"] = torch.from_numpy(graphs.attributes)
        inputs = SubgoalTensors(table_inputs(encoder, table, graphs))
        state["tokens"], state["present"] = inputs.tokens, inputs.present
        state["args"], state["context"] = inputs.args, inputs.context

    def loss(index: Tensor) -> Tensor:
        inputs = object.__new__(SubgoalTensors)
        inputs.tokens, inputs.present = state["tokens"][index], state["present"][index]
        inputs.args, inputs.context = state["args"][index], state["context"][index]
        raw = net.object_heads["next"](net(inputs)[1])[0]
        predicted = _predict(
            _split(raw, encoder),
            state["boxes"][index],
            state["seen"][index],
            state["attributes"][index],
            inputs.args,
            encoder,
        )
        pick = half[index]
        n = torch.arange(len(index))
        boxes, visible = predicted.boxes[n, :, pick], predicted.visible[n, :, pick]
        attributes = predicted.attributes[n, :, pick]
        goal = (wanted[index], wanted_seen[index], wanted_attributes[index])
        return _loss(boxes, visible, attributes, *goal, present[index], encoder)[None]

    members_see_all = np.ones((1, len(table)), np.float32)
    # Rare slips must not drown in the reached ones.
    share = float((table.outcome == SLIPPED).mean())
    if 0 < share < 0.5:
        members_see_all[0, table.outcome == SLIPPED] = min(4.0, (1 - share) / share)
    fit(net, loss, members_see_all, config, rng, each_epoch=redraw, report=report)
    return net, changes


def _loss(
    boxes: Tensor,
    visible: Tensor,
    attributes: Tensor,
    wanted: Tensor,
    wanted_seen: Tensor,
    wanted_attributes: Tensor,
    present: Tensor,
    encoder: Encoder,
) -> Tensor:
    """Loss a row: Huber on centres and log sizes, cross-entropy on visibility and attributes. [b]"""
    schema, scales = encoder.schema, {name: spread for name, _, spread in encoder.scales}
    both = wanted_seen * present[..., None]
    center = F.smooth_l1_loss(boxes[..., :2], wanted[..., :2], beta=0.02, reduction="none").sum(-1)
    size = F.smooth_l1_loss(boxes[..., 2:].log(), wanted[..., 2:].log(), beta=0.1, reduction="none").sum(-1)
    total = ((10 * center + size) * both).sum((1, 2))
    seen = F.binary_cross_entropy(visible.clamp(1e-5, 1 - 1e-5), wanted_seen, reduction="none")
    total = total + (seen * present[..., None]).sum((1, 2))
    for name, slot in attribute_slots(schema).items():
        want, got = wanted_attributes[..., slot], attributes[..., slot]
        if schema.attributes[name]:
            known = torch.cat([want, 1 - want.sum(-1, keepdim=True)], -1)
            guess = torch.cat([got, 1 - got.sum(-1, keepdim=True)], -1).clamp(1e-5, 1.0)
            part = -(known * guess.log()).sum(-1)
        else:
            off = (got[..., 0] - want[..., 0]) / scales.get(name, 1.0)
            part = F.smooth_l1_loss(off, torch.zeros_like(off), reduction="none") * want[..., 1]
            known_part = F.binary_cross_entropy(
                got[..., 1].clamp(1e-5, 1 - 1e-5), want[..., 1], reduction="none"
            )
            part = part + known_part
        total = total + (part * present).sum(1)
    return total
