"""The compiled loops give, to the last bit, what whole arrays of NumPy give."""

import numba
import numpy as np
import pytest
from search.problems import ensemble, harsh_rule

from vine_vla.core.protocols import AFTER_REACHED, GOAL, REACHED, SLIPPED
from vine_vla.search import SearchConfig, TabularModel, puct, search
from vine_vla.search import compiled as compiled_module
from vine_vla.search import outputs as outputs_module
from vine_vla.search.pruning import KEPT
from vine_vla.search.tree import CLOSED, HIGH, LOW, NO_NODE


def poorly_covered(seed: int) -> TabularModel:
    """An ensemble with options pruned, options not covered, and paddings."""
    base = ensemble(seed, members=2 + seed % 5, states=30, actions=5)
    support = np.random.default_rng(seed).random(base.members[0].prior.shape)
    return TabularModel(base.members, rule=harsh_rule(base, tau=0.5, min_support=0.4), support=support)


CASES = [
    (ensemble(1, members=1, states=30), SearchConfig(k=4, expansions=60, leaves=5)),
    (
        ensemble(2, members=6, states=30),
        SearchConfig(k=3, expansions=60, leaves=16, kappa=0, length_penalty=0),
    ),
    *(
        (poorly_covered(seed), SearchConfig(k=6, expansions=50, leaves=4, split=seed != 5))
        for seed in range(8)
    ),
]


def run(model: TabularModel, config: SearchConfig, **options):
    return search(model, model.pack([0, 7, 9], [5, 2, 6]), ["", "a", ""], config, **options)


def nodes_of(found) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(found.tree.nodes.row >= 0)


@pytest.mark.parametrize(("model", "config"), CASES)
def test_backup(model, config):
    """Q, score, best option, V and length of every node, from what stands in its slots."""
    found = run(model, config)
    tree, outputs, at = found.tree, found.outputs, nodes_of(found)
    row = tree.nodes.row[at]
    p, gap = outputs.table.p[row].astype(float)[:, None], outputs.table.gap[row]
    q = (
        p[..., GOAL]
        + p[..., REACHED] * tree.nodes.below[at][..., 0]
        + p[..., SLIPPED] * tree.nodes.below[at][..., 1]
    )
    q[:, LOW] *= 1 - gap[:, None]
    q[:, HIGH] += gap[:, None] * (1 - q[:, HIGH])
    np.testing.assert_array_equal(tree.nodes.q[at], q)

    child = tree.nodes.children[at][..., AFTER_REACHED]
    known = tree.nodes.length[at[0][:, None], np.maximum(child, 0)]
    further = np.where(child >= 0, np.maximum(known, 1), 1)
    mean = p[:, 0].mean(1)
    length = 1 + np.where(mean[..., GOAL] >= mean[..., REACHED], 0, further)
    choosing = q[:, LOW][:, tree.choosing]
    score = choosing.sum(1) / len(tree.choosing)
    if config.kappa and len(tree.choosing) > 1:
        away = choosing - score[:, None]
        score = score - config.kappa * np.sqrt((away * away).sum(1) / len(tree.choosing))
    score = np.where(outputs.table.reason[row] == KEPT, score - config.length_penalty * length, -np.inf)
    np.testing.assert_array_equal(tree.nodes.score[at], score)

    best, each = score.argmax(1), np.arange(len(row))
    none = score[each, best] == -np.inf
    value = np.where(none[:, None, None], 0.0, q[each, :, :, best])
    np.testing.assert_array_equal(tree.nodes.best[at], np.where(none, NO_NODE, best))
    np.testing.assert_array_equal(tree.nodes.value[at], value)
    np.testing.assert_array_equal(tree.nodes.length[at], np.where(none, 0, length[each, best]))
    inner = tree.nodes.parent[at] >= 0
    b, n = at[0][inner], at[1][inner]
    slots = tree.nodes.below[
        b, tree.nodes.parent[b, n], :, :, tree.nodes.option[b, n], tree.nodes.outcome[b, n]
    ]
    np.testing.assert_array_equal(slots, tree.nodes.value[b, n])


@pytest.mark.parametrize(("model", "config"), CASES)
def test_new_nodes(model, config):
    """Chance, prior and what may be expanded, from the model's outputs."""
    found = run(model, config)
    tree, outputs, at = found.tree, found.outputs, nodes_of(found)
    row = tree.nodes.row[at]
    chance = outputs.table.p[row][..., REACHED : SLIPPED + 1].mean(1, dtype=float)
    np.testing.assert_array_equal(tree.nodes.chance[at], chance)
    np.testing.assert_array_equal(tree.nodes.prior[at], outputs.table.prior[row])
    further = (tree.nodes.budget[at] > 1) & (tree.nodes.depth[at] + 1 < config.depth)
    may = (
        (outputs.table.reason[row] == KEPT)[..., None]
        & further[:, None, None]
        & (chance > config.min_outcome)
    )
    np.testing.assert_array_equal(tree.nodes.children[at] != CLOSED, may)
    unexpanded = tree.nodes.children[at] < 0
    believed = np.clip(outputs.table.value[row], 0, 1) * (tree.nodes.budget[at] > 1)[:, None, None, None]
    here = np.broadcast_to(unexpanded[:, None, None], tree.nodes.below[at].shape)
    np.testing.assert_array_equal(
        tree.nodes.below[at][here], np.broadcast_to(believed[:, None], tree.nodes.below[at].shape)[here]
    )


@pytest.mark.parametrize(("model", "config"), CASES)
def test_selection(model, config):
    """puct compiled builds the tree that puct builds as any other rule, called at every node."""
    fast, slow = (run(model, config, rule=rule) for rule in (puct, lambda *known: puct(*known)))
    for mine, theirs in zip(fast.tree.nodes, slow.tree.nodes, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_every_layout_and_kind_of_answer_meets_the_same_loop():
    """Double precision and Fortran's order change nothing and compile nothing: no plan is late for that."""
    model = ensemble(3, states=30)
    config = SearchConfig(k=4, expansions=40)
    plain = run(model, config)
    known = len(outputs_module._store.signatures)
    real = model.expand

    def odd(graphs, texts, k):
        answer = real(graphs, texts, k)
        moved = {n: np.asfortranarray(getattr(answer, n), float) for n in ("p", "prior", "value", "support")}
        return answer._replace(**moved, mask=np.asfortranarray(answer.mask))

    model.expand = odd
    np.testing.assert_array_equal(plain.tree.nodes.q, run(model, config).tree.nodes.q)
    assert len(outputs_module._store.signatures) == known


def test_where_no_folder_can_be_written_loops_are_compiled_all_the_same(monkeypatch):
    real = numba.njit

    def no_cache(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **options)

    monkeypatch.setattr(numba, "njit", no_cache)
    assert compiled_module.compiled(lambda x: x + 1)(1) == 2
