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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
from vine_vla.data.record.staging import BoxTable
from vine_vla.storage.files import write_parquet
from vine_vla.storage.json import write_json
from vine_vla.storage.transaction import current

VERSION = 1
INFO = "meta/vine.json"
EPISODES = "meta/vine_episodes.parquet"
SEGMENTS = "meta/vine_segments.parquet"
GRAPHS = "meta/vine_graphs.parquet"
BOXES = "meta/vine_boxes.parquet"
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
_BOXES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("frame", pa.int32()),
        ("camera", pa.string()),
        ("object_id", pa.string()),
        *[(name, pa.float32()) for name in ("x_min", "y_min", "x_max", "y_max")],
    ]
)


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


def read_info(root: Path) -> SidecarInfo:
    """Reads `vine.json`; raises VineError naming the field that is wrong."""
    path = current(root, INFO)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, cameras = data["version"], {str(k): str(v) for k, v in data["cameras"].items()}
        raw = data["schema"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise VineError(
            f"cannot be read: {error!r}", where=str(path), hint="annotate or assemble the dataset again"
        ) from error
    if version != VERSION:
        raise VineError(
            f"sidecar version {version!r}, this VINE reads {VERSION}", where=f"{path}, field version"
        )
    schema = Schema.from_json(raw, where=f"{path}, field schema")
    if cameras and set(cameras) != set(schema.cameras):  # none: an export without images
        raise VineError(
            f"roles {sorted(cameras)} are not the schema's {list(schema.cameras)}",
            where=f"{path}, field cameras",
        )
    hashed = data.get("labels_sha256")
    return SidecarInfo(
        schema, cameras, bool(data.get("assembled", False)), hashed if isinstance(hashed, str) else None
    )


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
    write_parquet(root / EPISODES, _rows(_EPISODES, map(_episode_row, demonstrations)))
    write_parquet(
        root / SEGMENTS,
        _rows(_SEGMENTS, (_segment_row(d.episode_id, s) for d in demonstrations for s in d.segments)),
    )


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
    rows = read_table(path, _EPISODES).to_pylist()
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
    found = []
    for row in sorted(rows, key=lambda r: r["episode_index"]):
        name, index, source = row["episode_id"], row["episode_index"], row["outcome_source"]
        at = f"{where}, episode {name}"
        try:
            demonstration = Demonstration(
                episode_id=name,
                episode_index=index,
                instruction=instructions.get(index, ""),
                length=lengths[index],
                outcome=_word(EpisodeOutcome, row["outcome"], f"{at}, column outcome"),
                outcome_source=_word(OutcomeSource, source, f"{at}, column outcome_source")
                if source
                else None,
                segments=tuple(sorted(segments.get(name, []), key=lambda s: s.start)),
                graphs=dict(sorted(graphs.get(name, {}).items())),
                onset_frame=row["onset_frame"],
                failure_kind=row["failure_kind"],
                scene=row["scene"],
                seed=row["seed"],
                collector=_word(Collector, row["collector"] or "operator", f"{at}, column collector"),
                split=_word(Split, row["split"] or "train", f"{at}, column split"),
            )
        except VineError as error:
            if str(root) in error.where:
                raise
            raise VineError(
                error.what, where=f"{root / SEGMENTS}, {error.where}, columns start and end"
            ) from error
        if check_verbs:
            _check_subgoals(demonstration, schema, str(root / SEGMENTS))
        found.append(demonstration)
    return found


def write_boxes(root: Path, boxes: Iterable[tuple[str, BoxTable]], cameras: Sequence[str]) -> None:
    """Write box tables, given as (episode_id, table); `cameras` are the schema's roles."""
    parts = []
    for name, table in boxes:
        if not len(table.frame):
            continue
        columns: dict[str, Any] = {
            "episode_id": pa.array([name] * len(table.frame)),
            "frame": table.frame,
            "camera": pa.array(np.array(cameras, object)[table.camera]),
            "object_id": pa.array(np.array(table.objects, object)[table.object]),
        }
        columns |= {f.name: table.box[:, i] for i, f in enumerate(list(_BOXES)[4:])}
        parts.append(pa.table(columns, schema=_BOXES))
    write_parquet(root / BOXES, pa.concat_tables(parts) if parts else _BOXES.empty_table())


def read_boxes(root: Path, cameras: Sequence[str]) -> dict[str, BoxTable]:
    """episode_id -> boxes, sorted by frame; empty when there is no sidecar."""
    path = current(root, BOXES)
    if not path.is_file():
        return {}
    table = read_table(path, _BOXES).combine_chunks()
    if not len(table):
        return {}
    episode = table["episode_id"].combine_chunks().dictionary_encode()
    camera = pc.index_in(table["camera"], value_set=pa.array(list(cameras)))
    if camera.null_count:
        unknown = sorted(set(table["camera"].unique().to_pylist()) - set(cameras))
        raise VineError(f"unknown camera {unknown[0]!r}", where=f"{root / BOXES}, column camera")
    objects = table["object_id"].combine_chunks().dictionary_encode()
    names = tuple(objects.dictionary.to_pylist())
    frame = table["frame"].to_numpy()
    box = np.stack([table[n].to_numpy() for n in ("x_min", "y_min", "x_max", "y_max")], -1)
    which, codes = episode.indices.to_numpy(), objects.indices.to_numpy().astype(np.int32)
    cams = camera.combine_chunks().to_numpy() if isinstance(camera, pa.ChunkedArray) else camera.to_numpy()
    order = np.lexsort((frame, which))
    starts = np.searchsorted(which[order], np.arange(len(episode.dictionary) + 1))
    return {
        name: BoxTable(frame[rows], cams[rows].astype(np.int32), codes[rows], box[rows], names)
        for i, name in enumerate(episode.dictionary.to_pylist())
        for rows in [order[starts[i] : starts[i + 1]]]
    }


def load_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file as it is; unlike `pyarrow.parquet.read_table` it does not import pandas."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """A parquet file with at least the columns of `schema`; VineError naming file and column otherwise."""
    try:
        table = load_parquet(path)
    except FileNotFoundError as error:
        raise VineError("file is missing", where=str(path)) from error
    except (OSError, pa.ArrowException) as error:
        raise VineError(
            f"parquet cannot be read ({str(error).splitlines()[0]})",
            where=str(path),
            hint="copy or write it again",
        ) from error
    if schema is None:
        return table
    for column in schema:
        if column.name not in table.column_names:
            raise VineError(f"column {column.name} is missing", where=str(path))
        if not column.nullable and table[column.name].null_count:
            raise VineError("a value is missing", where=f"{path}, column {column.name}")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        wrong = next((f.name for f in schema if table.schema.field(f.name).type != f.type), "?")
        raise VineError(
            f"{table.schema.field(wrong).type} where {schema.field(wrong).type} is due",
            where=f"{path}, column {wrong}",
        ) from error


def _rows(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def _episode_row(d: Demonstration) -> dict[str, Any]:
    return {
        "episode_id": d.episode_id,
        "episode_index": d.episode_index,
        "outcome": d.outcome.value,
        "outcome_source": d.outcome_source.value if d.outcome_source else None,
        "onset_frame": d.onset_frame,
        "failure_kind": d.failure_kind,
        "scene": d.scene,
        "seed": d.seed,
        "collector": d.collector.value,
        "split": d.split.value,
    }


def _segment_row(name: str, s: Segment) -> dict[str, Any]:
    return {
        "episode_id": name,
        "start": s.start,
        "end": s.end,
        "verb": s.subgoal.verb,
        "args": list(s.subgoal.args),
        "text": s.text,
        "outcome": s.outcome.value,
        "outcome_source": s.outcome_source.value,
    }


def _read_segments(root: Path, known: set[str]) -> dict[str, list[Segment]]:
    path, found = current(root, SEGMENTS), defaultdict(list)
    if not path.is_file():
        return {}
    for number, row in enumerate(read_table(path, _SEGMENTS).to_pylist()):
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
    for number, row in enumerate(read_table(path, _GRAPHS).to_pylist()):
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
