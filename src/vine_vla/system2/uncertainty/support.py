"""Support: how well the data cover a (graph, subgoal), in [0, 1].

Two questions, and the smaller answer counts:

- *Have these things been seen together?* For the verb, how often each category of an argument, and
  each pair of categories, occurs in the training segments: n / (n + 4), the least over all that hold.
  A category that the verb never met gives 0.
- *Has a scene like this been seen?* Distance to the nearest training segments of the verb in the
  outcome nets' own feature space, plus the members' disagreement in its usual units. Support is the
  share of held-out segments that lie at least as far out, so that data like the training data are
  spread evenly over [0, 1]; beyond the farthest it falls off to 0.

Both fall monotonically: with distance, with disagreement, with rarity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import Schema
from vine_vla.core.packing import PackedGraphs, attribute_slots
from vine_vla.core.protocols import Float, Int

NEIGHBOURS = 3
COMPONENTS = 16
RARE = 4.0


@dataclass(frozen=True)
class Support:
    """What `fit_support` found in the training segments.

    Args:
        mean, axes: of the embedding, whitened principal axes. float32 [E], [E, P]
        points: training segments on those axes. float32 [N, P]. verbs: of each. int64 [N]
        usual: disagreement that is usual, to put it in units of distance.
        held_out: scores of held-out segments, sorted. float32 [L]
        together: how often bit i and bit j of the context held together, per verb. float32 [V, D, D]
    """

    mean: Float
    axes: Float
    points: Float
    verbs: Int
    usual: float
    held_out: Float
    together: Float
    _by_verb: dict[int, Float] = field(default_factory=dict, repr=False, compare=False)

    def place(self, embedding: Float) -> Float:
        """Embeddings [N, E] on the axes. [N, P]"""
        return ((embedding - self.mean) @ self.axes).astype(np.float32)

    def distances(self, points: Float, verbs: Int) -> Float:
        """Distance of each point to the training segments of its verb, inf to the others. [n, N]"""
        away = np.sqrt(np.maximum(_squares(points, self.points), 0.0))
        return np.where(self.verbs == verbs[:, None], away, np.inf)

    def score(self, points: Float, verbs: Int, spread: Float) -> Float:
        """How far out: mean distance to the nearest of the verb plus disagreement; inf if too few. [n]"""
        few = min(NEIGHBOURS, len(self.points))
        near = np.full(len(points), np.inf, np.float32)
        for verb in np.unique(verbs):
            asked, known = verbs == verb, self._points_of(int(verb))
            if 0 < few <= len(known):
                square = _squares(points[asked], known)
                nearest = np.sort(np.partition(square, few - 1, 1)[:, :few], 1)
                near[asked] = np.sqrt(np.maximum(nearest, 0.0)).mean(1)
        return near + spread / self.usual

    def _points_of(self, verb: int) -> Float:
        """Training segments of `verb`. [n, P]"""
        if verb not in self._by_verb:
            self._by_verb[verb] = self.points[self.verbs == verb]
        return self._by_verb[verb]

    def of(self, embedding: Float, verbs: Int, spread: Float, context: NDArray[np.bool_]) -> Float:
        """Support of n pairs, in [0, 1].

        Args:
            embedding: [n, E]. verbs: [n]. spread: members' standard deviation of P(goal or reached). [n]
            context: from `context_bits`. bool [n, D]
        """
        if not len(verbs):
            return np.zeros(0, np.float32)
        score = self.score(self.place(embedding), verbs, spread)
        return np.minimum(self._share(score), self._seen(verbs, context)).astype(np.float32)

    def _share(self, score: Float) -> Float:
        """Share of held-out scores that are at least `score`, smooth between and beyond them."""
        count = len(self.held_out)
        if not count:
            return np.where(np.isfinite(score), 0.5, 0.0)
        grid = np.concatenate([[0.0], self.held_out])
        share = np.interp(np.minimum(score, grid[-1]), grid, 1 - np.arange(count + 1) / (count + 1))
        beyond = np.maximum(score - grid[-1], 0.0) / max(float(np.median(self.held_out)), 1e-6)
        return np.where(np.isfinite(score), share * np.exp(-3 * beyond), 0.0)

    def _seen(self, verbs: Int, context: NDArray[np.bool_]) -> Float:
        count = self.together[verbs]
        pairs = context[:, :, None] & context[:, None, :]
        # Without any category on the arguments, the verb's own bit (always there) decides.
        return np.where(pairs, count / (count + RARE), 1.0).min((1, 2))


def _squares(points: Float, others: Float) -> Float:
    """Squared distances [n, N] of [n, P] to [N, P], rounding errors below 0 included."""
    return (points**2).sum(1)[:, None] + (others**2).sum(1) - 2 * points @ others.T


def context_bits(schema: Schema, graphs: PackedGraphs, rows: Int, args: Int) -> NDArray[np.bool_]:
    """Categories of each argument, one block of F an argument, and a last bit that always holds. [n, D]"""
    categories = np.zeros(graphs.attributes.shape[-1], bool)
    for name, slot in attribute_slots(schema).items():
        categories[slot] = bool(schema.attributes[name])
    blocks = []
    for a in range(args.shape[1]):
        slot = np.maximum(args[:, a], 0)
        held = (graphs.attributes[rows, slot] >= 0.5) & categories & (args[:, a] >= 0)[:, None]
        blocks.append(held)
    return np.concatenate([*blocks, np.ones((len(args), 1), bool)], 1)


def fit_support(
    schema: Schema,
    embedding: Float,
    verbs: Int,
    context: NDArray[np.bool_],
    held_out_embedding: Float,
    held_out_verbs: Int,
    held_out_spread: Float,
) -> Support:
    """Support of a model from its training segments and held-out ones.

    Args:
        embedding, verbs, context: of training segments. [N, E], [N], [N, D]
        held_out_*: of segments that the nets did not see. [L, E], [L], [L]
    """
    mean = embedding.mean(0)
    centered = embedding - mean
    _, values, rows = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    keep = min(COMPONENTS, int((values > 1e-6 * max(values[0], 1e-12)).sum()) or 1)
    # Distances keep the axes' relative sizes; only the overall scale is set, by the first axis.
    scale = max(float(values[0]) / max(np.sqrt(len(embedding)), 1.0), 1e-6)
    axes = (rows[:keep].T / scale).astype(np.float32)
    together = np.zeros((len(schema.verbs), context.shape[1], context.shape[1]), np.float32)
    for verb in range(len(together)):
        bits = context[verbs == verb].astype(np.float32)
        together[verb] = bits.T @ bits
    usual = max(float(np.median(held_out_spread)) if len(held_out_spread) else 0.0, 0.02)
    found = Support(
        mean.astype(np.float32),
        axes,
        (centered @ axes).astype(np.float32),
        verbs,
        usual,
        np.zeros(0, np.float32),
        together,
    )
    if not len(held_out_verbs):
        return found
    score = found.score(found.place(held_out_embedding), held_out_verbs, held_out_spread)
    held_out = np.sort(score[np.isfinite(score)]).astype(np.float32)
    return Support(found.mean, found.axes, found.points, found.verbs, found.usual, held_out, found.together)
