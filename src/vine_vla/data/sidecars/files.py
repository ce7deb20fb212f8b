"""VINE's sidecars under `meta/`: what LeRobot's own files have no place for.

    vine.json               format version, schema, camera roles -> dataset keys
    vine_episodes.parquet   one row an episode: id, index, outcome, split, ...
    vine_segments.parquet   one row a segment; the only truth about subgoals
    vine_graphs.parquet     scene graphs as text; frame `length` is the scene after the last action
    vine_boxes.parquet      one row an object, camera and frame

Rows refer to episodes by `episode_id`, since LeRobot's tools renumber `episode_index`. The files of a dataset
that is in use are replaced together, by `transaction.commit`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema, Verb
from vine_vla.core.options import (
    Collector,
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
    Subgoal,
    check_subgoal,
)
from vine_vla.core.text import format_graph, parse_graph
from vine_vla.data.sidecars.boxes import BOXES
from vine_vla.storage.json import check_version, read_json, typed, write_json
from vine_vla.storage.parquet import read_parquet, write_parquet
from vine_vla.storage.transaction import current

VERSION = 1
INFO = "meta/vine.json"
EPISODES = "meta/vine_episodes.parquet"
SEGMENTS = "meta/vine_segments.parquet"
GRAPHS = "meta/vine_graphs.parquet"
FILES = (INFO, EPISODES, SEGMENTS, GRAPHS, BOXES)

EPISODE = Verb("episode", (), "do the whole task")
"""What the segments of a whole episode are called in the sidecars of a flat export."""

_EPISODES = pa.schema(
    [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("episode_index", pa.int64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        ("outcome_source", pa.string()),
        ("onset_frame", pa.int64()),
        ("failure_kind", pa.string()),
        ("scene", pa.int64()),
        ("seed", pa.int64()),
        ("collector", pa.string()),
        ("split", pa.string()),
    ]
)
_SEGMENTS = pa.schema(
    [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("verb", pa.string(), nullable=False),
        pa.field("args", pa.list_(pa.string()), nullable=False),
        ("text", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("outcome_source", pa.string(), nullable=False),
    ]
)
_GRAPHS = pa.schema([("episode_id", pa.string()), ("frame", pa.int64()), ("graph", pa.string())])


_WORDS: dict[str, type[StrEnum]] = {
    "outcome": EpisodeOutcome,
    "outcome_source": OutcomeSource,
    "collector": Collector,
    "split": Split,
}
"""Columns of the episodes' sidecar whose values are words of the vocabulary."""


@dataclass(frozen=True)
class SidecarInfo:
    """Contents of `vine.json`.

    Args:
        schema: vocabulary.
        cameras: camera role -> LeRobot feature key.
        assembled: True when VINE wrote the whole dataset, so that it may replace it.
        labels_hash: `labels_hash` of what assembling wrote, None where that was not its staging alone.
    """

    schema: Schema
    cameras: Mapping[str, str]
    assembled: bool = False
    labels_hash: str | None = None


def has_sidecars(root: Path) -> bool:
    return current(root, INFO).is_file()


def write_info(root: Path, info: SidecarInfo) -> None:
    write_json(
        root / INFO,
        {
            "version": VERSION,
            "schema": info.schema.to_json(),
            "cameras": dict(info.cameras),
            "assembled": info.assembled,
            **({"labels_sha256": info.labels_hash} if info.labels_hash else {}),
        },
    )


class _Info(msgspec.Struct):
    schema: Schema
    cameras: dict[str, str]
    assembled: bool = False
    labels_sha256: str | None = None


def read_info(root: Path) -> SidecarInfo:
    """Reads `vine.json`; raises VineError naming the field that is wrong."""
    path, hint = current(root, INFO), "annotate or assemble the dataset again"
    data = read_json(path, hint=hint)
    check_version(data, VERSION, str(path))
    try:
        info = typed(data, _Info, str(path), hint)
    except VineError as error:
        raise VineError(error.what, where=error.where or f"{path}, field schema", hint=error.hint) from error
    roles = info.schema.cameras
    if info.cameras and set(info.cameras) != set(roles):  # none: an export without images
        raise VineError(
            f"roles {sorted(info.cameras)} are not the schema's {list(roles)}", where=f"{path}, field cameras"
        )
    return SidecarInfo(info.schema, info.cameras, info.assembled, info.labels_sha256)


def labels_hash(root: Path, schema: Schema) -> str:
    """sha256 over the sidecars of `root` and their vocabulary; another one means that somebody labelled."""
    digest = hashlib.sha256(json.dumps(schema.to_json(), sort_keys=True).encode())
    for name in (EPISODES, SEGMENTS, GRAPHS, BOXES):
        path = current(root, name)
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"none")
    return digest.hexdigest()


def write_demonstrations(root: Path, demonstrations: Sequence[Demonstration]) -> None:
    """Write episodes, segments and graphs."""
    write_labels(root, demonstrations)
    graphs = (
        {"episode_id": d.episode_id, "frame": frame, "graph": format_graph(graph)}
        for d in demonstrations
        for frame, graph in sorted(d.graphs.items())
    )
    write_parquet(root / GRAPHS, _rows(_GRAPHS, graphs))


def write_labels(root: Path, demonstrations: Sequence[Demonstration]) -> None:
    """Write episodes and segments only: what a label changes, and little of the whole."""
    write_parquet(root / EPISODES, _rows(_EPISODES, map(vars, demonstrations)))
    segments = (
        vars(s) | s.subgoal._asdict() | {"episode_id": d.episode_id}
        for d in demonstrations
        for s in d.segments
    )
    write_parquet(root / SEGMENTS, _rows(_SEGMENTS, segments))


def read_demonstrations(
    root: Path,
    lengths: Mapping[int, int],
    instructions: Mapping[int, str],
    schema: Schema,
    check_verbs: bool = True,
) -> list[Demonstration]:
    """The demonstrations in order of `episode_index`.

    Args:
        root: dataset folder.
        lengths, instructions: episode_index -> frames and task text, from LeRobot's own files.
        schema: vocabulary that the subgoals must fit.
        check_verbs: refuse subgoals that do not fit; without it for repairing them.

    Raises:
        VineError: a sidecar is damaged, or disagrees with the dataset.
    """
    path = current(root, EPISODES)
    where = str(path)
    rows = read_parquet(path, _EPISODES).to_pylist()
    ids = [row["episode_id"] for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise VineError(f"episode id {twice!r} stands twice", where=f"{where}, column episode_id")
    if sorted(row["episode_index"] for row in rows) != sorted(lengths):
        raise VineError(
            f"{len(rows)} episodes, the dataset has {len(lengths)}, or their indices differ",
            where=f"{where}, column episode_index",
            hint="the sidecars belong to another version of the dataset: annotate it again",
        )
    segments, graphs = _read_segments(root, set(ids)), _read_graphs(root, set(ids))
    demonstrations = []
    for row in sorted(rows, key=lambda r: r["episode_index"]):
        name, index = row["episode_id"], row["episode_index"]
        fields = {column: value for column, value in row.items() if value not in (None, "")}
        for column, kind in _WORDS.items():
            if column in fields:
                fields[column] = _word(kind, fields[column], f"{where}, episode {name}, column {column}")
        fields["segments"] = tuple(sorted(segments.get(name, ()), key=lambda s: s.start))
        fields["graphs"] = dict(sorted(graphs.get(name, {}).items()))
        try:
            demonstration = Demonstration(
                **fields, instruction=instructions.get(index, ""), length=lengths[index]
            )
        except VineError as error:
            raise VineError(
                error.what, where=f"{root / SEGMENTS}, {error.where}, columns start and end"
            ) from error
        if check_verbs:
            _check_subgoals(demonstration, schema, str(root / SEGMENTS))
        demonstrations.append(demonstration)
    return demonstrations


def _rows(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table of rows; what they hold beside the columns of `schema` is left out."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def _read_segments(root: Path, known: set[str]) -> dict[str, list[Segment]]:
    path, found = current(root, SEGMENTS), defaultdict(list)
    if not path.is_file():
        return {}
    for number, row in enumerate(read_parquet(path, _SEGMENTS).to_pylist()):
        at = f"{path}, row {number}"
        _check_known(row["episode_id"], known, at)
        subgoal, text = Subgoal(row["verb"], tuple(row["args"])), row["text"] or ""
        outcome = _word(Outcome, row["outcome"], f"{at}, column outcome")
        source = _word(OutcomeSource, row["outcome_source"], f"{at}, column outcome_source")
        try:
            segment = Segment(row["start"], row["end"], subgoal, text, outcome, source)
        except VineError as error:
            raise VineError(error.what, where=f"{at}, columns start and end") from error
        found[row["episode_id"]].append(segment)
    return found


def _read_graphs(root: Path, known: set[str]) -> dict[str, dict[int, SceneGraph]]:
    path = current(root, GRAPHS)
    found: dict[str, dict[int, SceneGraph]] = defaultdict(dict)
    if not path.is_file():
        return {}
    for number, row in enumerate(read_parquet(path, _GRAPHS).to_pylist()):
        _check_known(row["episode_id"], known, f"{path}, row {number}")
        try:
            found[row["episode_id"]][row["frame"]] = parse_graph(row["graph"])
        except VineError as error:
            raise VineError(error.what, where=f"{path}, row {number}, column graph, {error.where}") from error
    return found


def _check_subgoals(d: Demonstration, schema: Schema, path: str) -> None:
    """Raises VineError for a verb or argument that the schema or the scene does not know."""
    for segment in d.segments:
        where = f"{path}, episode {d.episode_id}, frame {segment.start}, column verb"
        try:
            if segment.start in d.graphs:
                check_subgoal(segment.subgoal, d.graphs[segment.start], schema)
            elif len(schema.verb(segment.subgoal.verb).arguments) != len(segment.subgoal.args):
                raise VineError(f"subgoal {segment.subgoal} has a wrong number of arguments")
        except VineError as error:
            raise VineError(f"unknown subgoal: {error.what}", where=where, hint=error.hint) from error


def _check_known(name: str, known: set[str], where: str) -> None:
    if name not in known:
        raise VineError(f"unknown episode id {name!r}", where=f"{where}, column episode_id")


def _word[E: StrEnum](kind: type[E], value: str, where: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise VineError(f"unknown word {value!r}", where=where, hint=f"use {', '.join(kind)}") from None
