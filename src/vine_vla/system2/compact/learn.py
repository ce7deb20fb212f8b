"""Learning on scene graphs alone: proposals, outcomes, next graphs, calibration, support, values, pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vine_vla.core.graph import Schema
from vine_vla.core.options import Demonstration, Split
from vine_vla.core.packing import PackedGraphs, concatenate
from vine_vla.core.protocols import GOAL, REACHED, SLIPPED, PruningRule
from vine_vla.learning.device import CPU, to_device, to_numpy
from vine_vla.system2.backend import Report, silent
from vine_vla.system2.compact.config import OutcomeConfig
from vine_vla.system2.compact.dynamics import next_graphs, train_dynamics
from vine_vla.system2.compact.features import Encoder, Float, number_scales
from vine_vla.system2.compact.model import GraphModel, Records, Shared
from vine_vla.system2.compact.nets import SubgoalNet, SubgoalTensors
from vine_vla.system2.compact.outcome import outcome_logits, table_inputs, train_outcome
from vine_vla.system2.compact.proposal import train_proposal
from vine_vla.system2.compact.value import OptionModel, train_value, train_value_mu
from vine_vla.system2.compact.words import Texts, Vocabulary
from vine_vla.system2.segments import (
    Failures,
    SegmentTable,
    check_taught,
    choose_episodes,
    hold_out,
    segment_table,
    subgoal_budget,
    subgoals_to_goal,
)
from vine_vla.system2.uncertainty.calibration import fit_calibration
from vine_vla.system2.uncertainty.conformal import pruning_rule
from vine_vla.system2.uncertainty.support import context_bits, fit_support


def train_outcomes(
    demonstrations: Sequence[Demonstration],
    schema: Schema,
    config: OutcomeConfig | None = None,
    *,
    shared: Shared | None = None,
    calibration: Sequence[Demonstration] | None = None,
    device: torch.device = CPU,
    report: Report = silent,
) -> GraphModel:
    """A planning model from demonstrations with scene graphs; no images.

    Args:
        demonstrations: of all splits; only `train` ones teach, `calibration` ones calibrate (15 % by hash
            if none is marked), `test` ones are not touched.
        schema: their vocabulary. config: defaults to `OutcomeConfig()`.
        shared: encoder and proposals of another variant of the same data.
        calibration: the calibration episodes with other graphs, e.g. perceived ones.
        device: where nets are trained, and stay; that of `shared` if given. report: progress.

    Raises:
        VineError: no usable episode is left.
    """
    config = config or OutcomeConfig()
    splits = hold_out(demonstrations)
    marked = [replace(d, split=s) for d, s in zip(demonstrations, splits, strict=True)]
    if shared is None:
        shared = train_shared(marked, schema, config, device=device, report=report)
    return train_variant(marked, shared, config, calibration=calibration, report=report)


def train_shared(
    demonstrations: Sequence[Demonstration],
    schema: Schema,
    config: OutcomeConfig,
    *,
    device: torch.device = CPU,
    report: Report = silent,
) -> Shared:
    """Vocabulary, scales, proposals and budgets; the same for every variant of one data set."""
    chosen = choose_episodes(demonstrations, Failures.KEEP, config.episodes)
    train = [d for d in chosen if d.split is Split.TRAIN]
    table = segment_table(train, schema)
    check_taught(train, table)
    vocabulary = Vocabulary.of((d.instruction for d in train), least=min(2, len(train)))
    encoder = Encoder(schema, vocabulary, number_scales(table.graphs, schema))
    made = {}
    for name, part in (
        ("proposals", table.where(table.success[table.episode] == 1)),
        ("proposals of all", table),
    ):
        made[name] = train_proposal(
            encoder,
            part,
            width=config.proposal_width,
            config=config.proposal,
            noise=config.noise,
            seed=config.seed,
            device=device,
            report=lambda share, name=name: report(name, share),
        )
    return Shared(
        encoder, made["proposals"], made["proposals of all"], subgoal_budget(train), subgoals_to_goal(train)
    )


def train_variant(
    demonstrations: Sequence[Demonstration],
    shared: Shared,
    config: OutcomeConfig,
    *,
    calibration: Sequence[Demonstration] | None = None,
    extra: Sequence[Demonstration] = (),
    report: Report = silent,
) -> GraphModel:
    """Outcome nets, dynamics, values and thresholds of one variant.

    Args:
        demonstrations: all of the data set; they carry their split.
        calibration: as in `train_outcomes`.
        extra: training episodes once more with other graphs (perceived ones), for the outcome nets. They
            keep their ids, so a bootstrap takes or leaves an episode in both forms.
    """
    encoder, schema = shared.encoder, shared.encoder.schema
    device = shared.proposal.device
    drop_slips = config.failures is Failures.WITHHOLD_SLIPS
    chosen = choose_episodes(demonstrations, config.failures, config.episodes)
    replaced = {d.episode_id: d for d in calibration or ()}
    held = [replaced.get(d.episode_id, d) for d in chosen if d.split is Split.CALIBRATION]
    train = [d for d in chosen if d.split is Split.TRAIN]
    everything = segment_table(train, schema, drop_slips=drop_slips)
    check_taught(train, everything)
    table = everything.decided()
    again = {d.episode_id: d for d in extra}
    twice = [*train, *(again[d.episode_id] for d in train if d.episode_id in again)]
    taught = segment_table(twice, schema, drop_slips=drop_slips).decided() if again else table
    held_out = segment_table(held, schema, drop_slips=drop_slips).decided()
    outcome = train_outcome(
        encoder,
        taught,
        members=config.members,
        width=config.width,
        config=config.outcome,
        noise=config.noise,
        shift=config.shift,
        seed=config.seed + 1,
        device=device,
        report=lambda share: report("outcomes", share),
    )
    dynamics, changes = train_dynamics(
        encoder,
        table,
        width=config.dynamics_width,
        config=config.dynamics,
        noise=config.noise,
        seed=config.seed + 2,
        device=device,
        report=lambda share: report("next graphs", share),
    )
    logits, embedding = judge_table(outcome, encoder, table)
    held_logits, held_embedding = judge_table(outcome, encoder, held_out)
    calibrated = fit_calibration(
        held_logits, held_out.verbs, held_out.outcome, held_out.episode, len(schema.verbs), "demonstration"
    )
    p = calibrated.apply(held_logits, held_out.verbs)
    rows = np.arange(len(table))
    support = fit_support(
        schema,
        embedding,
        table.verbs,
        context_bits(schema, table.graphs, rows, table.args),
        held_embedding,
        held_out.verbs,
        (p[..., GOAL] + p[..., REACHED]).std(0),
    )
    untrained = train_value_mu(
        encoder,
        everything,
        width=config.value_width,
        config=config.value_mu,
        trace=config.trace,
        rounds=3,
        seed=config.seed + 3,
        device=device,
    )
    model = GraphModel(
        shared=shared,
        outcome=outcome,
        dynamics=dynamics,
        changes=changes,
        value=untrained,
        value_mu=untrained,
        calibration=calibrated,
        support=support,
        pruning=PruningRule(alpha=config.alpha, min_support=config.min_support, tau_stop=config.tau_stop),
        records=Records(tuple(table.episodes[e] for e in table.episode), table.outcome),
        prior_floor=config.prior_floor,
    )
    model = replace(model, pruning=rule_of(model, held_out, config))
    return revalue(model, everything, config, report)


def revalue(
    model: GraphModel, table: SegmentTable, config: OutcomeConfig, report: Report = silent
) -> GraphModel:
    """`model` with `V` learned anew, after its calibration has changed. `table`: training segments."""
    value = train_value(
        model.encoder,
        option_model(model, table, config),
        members=config.members,
        width=config.value_width,
        levels=model.budget,
        config=config.value,
        seed=config.seed + 4,
        device=model.device,
        report=lambda share: report("values", share),
    )
    return replace(model, value=value)


def option_model(model: GraphModel, table: SegmentTable, config: OutcomeConfig) -> OptionModel:
    """Recorded graphs and those imagined after each of their subgoals, with their supported options."""
    rng = np.random.default_rng(config.seed + 5)
    recorded = concatenate([table.graphs, table.after.select(table.has_after)])
    ends = [t for t, has in zip(table.instructions, table.has_after, strict=True) if has]
    texts = model.encoder.texts([*table.instructions, *ends])
    recorded, texts = _sample(recorded, texts, config.states * 2 // 3, rng)
    first = _options(model, recorded, texts)
    likely = first.p.mean(0)
    follows = np.stack([likely[:, REACHED], likely[:, SLIPPED]], 1) >= 0.05
    imagined = first.next.reshape(-1).select(follows.reshape(-1))
    imagined_texts = texts.select(np.repeat(first.rows, 2)[follows.reshape(-1)])
    imagined, imagined_texts = _sample(imagined, imagined_texts, config.states - len(recorded.budget), rng)
    second = _options(model, imagined, imagined_texts)
    shift = len(first.rows)
    width = max(first.place.shape[1], second.place.shape[1])
    place = [
        np.pad(
            np.where(part.place >= 0, part.place + start, -1),
            ((0, 0), (0, width - part.place.shape[1])),
            constant_values=-1,
        )
        for part, start in ((first, 0), (second, shift))
    ]
    return OptionModel(
        states=concatenate([recorded, imagined]),
        texts=Texts(*(np.concatenate(pair) for pair in zip(texts, imagined_texts, strict=True))),
        rows=np.concatenate([first.rows, second.rows + len(recorded.budget)]),
        place=np.concatenate(place),
        p=np.concatenate([first.p, second.p], 1),
        next=concatenate([first.next, second.next]),
    )


def _sample(
    graphs: PackedGraphs, texts: Texts, most: int, rng: np.random.Generator
) -> tuple[PackedGraphs, Texts]:
    """At most `most` different graphs."""
    seen = {d + t.tobytes(): i for i, (d, t) in enumerate(zip(graphs.digests(), texts.bag, strict=True))}
    index = np.array(sorted(seen.values()), np.int64)
    if len(index) > most:
        index = np.sort(rng.choice(index, max(most, 0), replace=False))
    return graphs.select(index), texts.select(index)


def _options(model: GraphModel, graphs: PackedGraphs, texts: Texts, k: int = 8) -> OptionModel:
    """The proposed and supported options of S graphs."""
    parts: list[OptionModel] = []
    start_state, start_option = 0, 0
    for start in range(0, len(graphs.budget), 256):
        part, words = graphs.select(slice(start, start + 256)), texts.select(slice(start, start + 256))
        base = model.encoder.base(part, words)
        _, flat, inputs, _, picked = model.proposals(part, words, k, base)
        rows, columns = np.nonzero(picked >= 0)
        chosen = flat.place[rows, picked[rows, columns]]
        inputs = inputs[to_device(chosen, model.device)]
        judged = model.judge(part, rows, flat.verbs[chosen], flat.args[chosen], inputs)
        after = next_graphs(model.dynamics, model.encoder, model.changes, part.select(rows), inputs)
        place = np.full(picked.shape, -1, np.int64)
        place[rows, columns] = np.where(
            judged.support >= model.pruning.min_support, np.arange(len(rows)) + start_option, -1
        )
        parts.append(OptionModel(part, words, rows + start_state, place, judged.p, after))
        start_state += len(part.budget)
        start_option += len(rows)
    if not parts:
        empty = np.zeros(0, np.int64)
        nothing = graphs.select(empty)
        return OptionModel(
            graphs,
            texts,
            empty,
            np.zeros((0, k), np.int64),
            np.zeros((model.members, 0, 4), np.float32),
            PackedGraphs(*(np.repeat(a[:, None], 2, 1) for a in nothing)),
        )
    return OptionModel(
        graphs,
        texts,
        np.concatenate([p.rows for p in parts]),
        np.concatenate([p.place for p in parts]),
        np.concatenate([p.p for p in parts], 1),
        concatenate([p.next for p in parts]),
    )


def judge_table(net: SubgoalNet, encoder: Encoder, table: SegmentTable) -> tuple[Float, Float]:
    """Logits [M, N, 4] and embeddings [N, E] of a table's segments."""
    with torch.inference_mode():
        logits, vector = outcome_logits(net, SubgoalTensors(table_inputs(encoder, table), net.device))
    flat = vector.transpose(0, 1).reshape(len(table), vector.shape[0] * vector.shape[2])
    return to_numpy(logits), to_numpy(flat)


def rule_of(model: GraphModel, held_out: SegmentTable, config: OutcomeConfig) -> PruningRule:
    """Conformal thresholds of `model` from held-out segments."""
    rows = np.arange(len(held_out))
    inputs = SubgoalTensors(table_inputs(model.encoder, held_out), model.device)
    texts = model.encoder.texts(held_out.instructions)
    judged = model.judge_in_doubt(held_out.graphs, texts, rows, held_out.verbs, held_out.args, inputs)
    return pruning_rule(
        [v.name for v in model.schema.verbs],
        judged.p,
        judged.support,
        held_out.verbs,
        held_out.outcome,
        alpha=config.alpha,
        subgoals_a_plan=model.shared.subgoals_a_plan,
        min_support=config.min_support,
        tau_stop=config.tau_stop,
        max_tau=config.max_tau,
    )
