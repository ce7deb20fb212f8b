"""Features, nets and next graphs of whole batches equal the plain computation, object by object."""

import numpy as np
import torch
from core.strategies import SCHEMA, graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from vine_vla import pack
from vine_vla.core.packing import attribute_slots, attribute_width
from vine_vla.system2.compact.dynamics import Changes, dynamics_net, next_graphs
from vine_vla.system2.compact.features import LEAST_SIZE, Encoder
from vine_vla.system2.compact.nets import GraphTensors, SubgoalTensors
from vine_vla.system2.compact.outcome import outcome_logits, outcome_net
from vine_vla.system2.compact.rules import derive_packed
from vine_vla.system2.compact.value import value_net, values
from vine_vla.system2.compact.words import Vocabulary

ENCODER = Encoder(SCHEMA, Vocabulary(("put", "plug", "socket")), (("weight", 1.5, 3.0),))
TEXTS = ("put the blue plug into the socket", "stack the blocks", "xyzzy")
CAMERAS = range(len(SCHEMA.cameras))
batches = st.lists(graphs(), min_size=1, max_size=4)


def packed(found):
    return pack(found, SCHEMA, budget=3), ENCODER.texts([TEXTS[i % 3] for i in range(len(found))])


def plain_geometry(g, n, j, i, plain):
    """How object j lies as seen from object i of graph n, camera by camera."""
    found = []
    for c in CAMERAS:
        if not (g.visible[n, i, c] and g.visible[n, j, c]):
            found += [0.0] * (10 if plain else 8)
            continue
        mine, theirs = (g.boxes[n, o, c].astype(float) for o in (j, i))
        sides, others = (np.maximum(b[2:] - b[:2], LEAST_SIZE) for b in (mine, theirs))
        offset = (mine[:2] + mine[2:]) / 2 - (theirs[:2] + theirs[2:]) / 2
        away = offset / others.max()
        close = np.exp(-0.5 * (away**2).sum())
        shown = [*offset] if plain else []
        found += [1.0, *np.arcsinh(away), *np.log(sides / others), *shown, close, *(close * away)]
    return np.array(found)


def plain_base(g, texts, n, o):
    if g.cls[n, o] < 0:
        return np.zeros(ENCODER.base_width)
    boxes = g.boxes[n, o].astype(float)
    attributes = plain_scaled(g.attributes[n, o])
    place = np.concatenate([boxes[:, :2] + boxes[:, 2:] - 1, 4 * (boxes[:, 2:] - boxes[:, :2])], 1)
    named = g.attributes[n, o] * texts.categories[n]
    return np.concatenate(
        [
            np.eye(len(SCHEMA.classes))[g.cls[n, o]],
            attributes,
            g.visible[n, o],
            (place * g.visible[n, o][:, None]).ravel(),
            g.relations[n, :, o].any(1),
            g.relations[n, :, :, o].any(1),
            [texts.classes[n, g.cls[n, o]]],
            [named[slot].sum() for slot in attribute_slots(SCHEMA).values()],
        ]
    )


def plain_scaled(attributes):
    found, slot = attributes.astype(float), attribute_slots(SCHEMA)["weight"].start
    found[slot] = (attributes[slot] - 1.5 * attributes[slot + 1]) / 3.0
    return found


def plain_token(g, texts, n, o, args):
    parts = [plain_base(g, texts, n, o)]
    for a in args:
        if a < 0 or g.cls[n, o] < 0:
            parts.append(np.zeros(ENCODER.argument_width))
            continue
        relations = [g.relations[n, :, o, a], g.relations[n, :, a, o]]
        parts.append(np.concatenate([[o == a], plain_geometry(g, n, o, a, True), *relations]))
    return np.concatenate(parts)


def plain_pair(g, n, j, i):
    if i == j or min(g.cls[n, i], g.cls[n, j]) < 0:
        return np.zeros(ENCODER.pair_width)
    relations = [g.relations[n, :, i, j], g.relations[n, :, j, i]]
    return np.concatenate([plain_geometry(g, n, j, i, False), *relations])


def candidates(g):
    found = ENCODER.candidates(g, {})
    rows = np.repeat(np.arange(len(found)), [len(c.verbs) for c in found])
    return rows, np.concatenate([c.verbs for c in found]), np.concatenate([c.args for c in found])


@settings(max_examples=25, deadline=None)
@given(batches)
def test_features(found):
    g, texts = packed(found)
    rows, verbs, args = candidates(g)
    objects = range(g.cls.shape[1])
    inputs = ENCODER.subgoal_inputs(g, rows, verbs, args, texts)
    for at, (n, own) in enumerate(zip(rows, args, strict=True)):
        tokens = [plain_token(g, texts, n, o, own) for o in objects]
        np.testing.assert_allclose(inputs.tokens[..., at].T, tokens, rtol=1e-5, atol=1e-5)
        held = [plain_scaled(g.attributes[n, a]) * (a >= 0) for a in own]
        context = np.concatenate([np.eye(len(SCHEMA.verbs))[verbs[at]], texts.bag[n], *held])
        np.testing.assert_allclose(inputs.context[:, at], context, rtol=1e-5, atol=1e-5)
    pairs = ENCODER.graph_inputs(g, texts).pairs
    for n in range(len(found)):
        plain = [[plain_pair(g, n, j, i) for i in objects] for j in objects]
        np.testing.assert_allclose(np.moveaxis(pairs[..., n], 0, -1), plain, rtol=1e-5, atol=1e-5)


def weights_of(net, m):
    """name -> the affine map of member m, in float64."""
    w = {k: v.detach().numpy().astype(float) for k, v in net.state_dict().items()}
    names = {k.rsplit(".", 1)[0] for k in w}
    return {name: lambda x, name=name: x @ w[name + ".weight"][m] + w[name + ".bias"][m] for name in names}


def relu(x):
    return np.maximum(x, 0)


def pooled(h):
    """Sum and largest over the objects there are; the nets' vectors are never negative."""
    return [h.sum(0) / 4, h.max(0, initial=0)]


def plain_subgoal(f, tokens, args, context):
    """Vectors of one pair and of its objects; tokens of the objects there are, [O, D]."""
    h = relu(f["look_on"](relu(f["look"](tokens))))
    own = [h[a] if a >= 0 else np.zeros(h.shape[1]) for a in args]
    picture = relu(f["gather"](np.concatenate([*pooled(h), *own])) + f["context"](context))
    h = relu(f["again"](h) + f["show"](picture))
    own = [h[a] if a >= 0 else np.zeros(h.shape[1]) for a in args]
    return relu(f["judge"](np.concatenate([*pooled(h), *own, picture]))), h


def plain_levels(f, tokens, pairs, context, members):
    """V_1 .. of one graph; pairs [j, i, P2]. [M, levels]"""
    around = []
    for i in range(len(tokens)):
        each = relu(f["between"](pairs[:, i]) + f["one"](tokens[i]) + f["other"](tokens))
        around.append(np.concatenate(pooled(relu(f["judge_pair"](each)))))
    h = relu(f["look"](tokens) + f["around"](np.array(around)))
    picture = relu(f["gather"](np.concatenate(pooled(h))) + f["context"](context))
    h = relu(f["again"](h) + f["show"](picture))
    raw = f["head"](relu(f["judge"](np.concatenate([*pooled(h), picture])))).reshape(members, -1)
    return 1 - np.exp(-np.log1p(np.exp(raw)).cumsum(1))


@settings(max_examples=10, deadline=None)
@given(batches)
def test_nets(found):
    g, texts = packed(found)
    rows, verbs, args = candidates(g)
    inputs = ENCODER.subgoal_inputs(g, rows, verbs, args, texts)
    net = outcome_net(ENCODER, 3, 8, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, vectors = outcome_logits(net, SubgoalTensors(inputs))
    there = [g.cls[n] >= 0 for n in range(len(found))]
    for m in range(3):
        f = weights_of(net, m)
        for at, n in enumerate(rows):
            tokens = inputs.tokens[:, there[n], at].T
            vector, _ = plain_subgoal(f, tokens, args[at], inputs.context[:, at])
            np.testing.assert_allclose(vectors[m, at], vector, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(logits[m, at], f["heads.outcome"](vector), rtol=1e-4, atol=1e-4)
    net = value_net(ENCODER, 2, 8, 3, torch.Generator().manual_seed(1))
    of_graphs = ENCODER.graph_inputs(g, texts)
    v = values(net, ENCODER, g, texts, 2)
    for n in range(len(found)):
        keep = np.flatnonzero(there[n])
        pairs = np.moveaxis(of_graphs.pairs[..., n], 0, -1)[np.ix_(keep, keep)]
        plain = plain_levels(weights_of(net, 0), of_graphs.tokens[:, keep, n].T, pairs, texts.bag[n], 2)
        np.testing.assert_allclose(v[:, n, 1:], plain, rtol=1e-4, atol=1e-5)
    index = torch.tensor([len(found) - 1, 0])
    some = GraphTensors(of_graphs)[index]
    torch.testing.assert_close(net(some), net(GraphTensors(of_graphs))[..., index])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_next(raw, g, n, o, args, changes):
    """Boxes, visibility and attributes of one object after one outcome; raw: the head's outputs for it."""
    cameras, arity, count = len(CAMERAS), ENCODER.arity, len(SCHEMA.attributes)
    widths = np.cumsum([4 * cameras, arity * cameras, cameras, attribute_width(SCHEMA), count])
    move, share, visible, attributes, gone, gate = np.split(raw, widths)
    boxes, seen = g.boxes[n, o].copy(), g.visible[n, o].copy()
    for c in np.flatnonzero(changes.moves[g.cls[n, o]]):
        middle = {p: g.boxes[n, p, c].reshape(2, 2).mean(0) for p in [o, *args] if p >= 0}
        center, size = np.full(2, 0.5), np.full(2, 0.2)
        if g.visible[n, o, c]:
            center, size = middle[o], np.maximum(g.boxes[n, o, c, 2:] - g.boxes[n, o, c, :2], 5e-3)
        new = center + move[4 * c : 4 * c + 2]
        for a, slot in enumerate(args):
            if slot >= 0 and g.visible[n, slot, c] and g.visible[n, o, c]:
                new = new + share[arity * c + a] * (middle[slot] - center)
        half = size * np.exp(np.clip(move[4 * c + 2 : 4 * c + 4], -3, 3)) / 2
        seen[c] = sigmoid(visible[c] + (2 if g.visible[n, o, c] else -2)) >= 0.5
        boxes[c] = np.concatenate([new - half, new + half]) * seen[c]
    found = g.attributes[n, o].astype(float)
    for k, (name, slot) in enumerate(attribute_slots(SCHEMA).items()):
        if not changes.alters[slot].any():
            continue
        open_, old = sigmoid(gate[k] - 2), found[slot]
        if SCHEMA.attributes[name]:
            weight = np.exp(np.append(attributes[slot], gone[k] - 2))
            found[slot] = (1 - open_) * old + open_ * (weight / weight.sum())[:-1]
        else:
            value = old[0] + 3.0 * attributes[slot][0] * old[1]
            found[slot] = value, (1 - open_) * old[1] + open_ * sigmoid(attributes[slot][1])
    return boxes, seen, found


@settings(max_examples=10, deadline=None)
@given(batches, st.integers(0, 2**16))
def test_next_graphs(found, seed):
    g, texts = packed(found)
    rows, verbs, args = candidates(g)
    rng = np.random.default_rng(seed)
    alters = np.ones(attribute_width(SCHEMA), bool)
    alters[attribute_slots(SCHEMA)["colour"]] = False
    changes = Changes(rng.random((len(SCHEMA.classes), len(SCHEMA.cameras))) < 0.7, alters)
    net = dynamics_net(ENCODER, 8, torch.Generator().manual_seed(2))
    before = g.select(rows)
    inputs = ENCODER.subgoal_inputs(g, rows, verbs, args, texts)
    after = next_graphs(net, ENCODER, changes, before, SubgoalTensors(inputs))
    f = weights_of(net, 0)
    for at, n in enumerate(rows):
        there = np.flatnonzero(g.cls[n] >= 0)
        _, h = plain_subgoal(f, inputs.tokens[:, there, at].T, args[at], inputs.context[:, at])
        raw = f["object_heads.next"](h).reshape(len(there), 2, -1)
        for o in there:  # absent objects come last
            for outcome in range(2):
                boxes, seen, attributes = plain_next(raw[o, outcome], g, n, o, args[at], changes)
                np.testing.assert_array_equal(after.visible[at, outcome, o], seen)
                np.testing.assert_allclose(after.boxes[at, outcome, o], boxes, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(after.attributes[at, outcome, o], attributes, rtol=1e-4, atol=1e-4)
    assert (after.budget == 2).all()
    np.testing.assert_array_equal(after.relations, derive_packed(after, SCHEMA))
