"""Export of segments as subtasks that other tools read: a copy of the dataset with the columns of `subtasks`.

The copy is whole, videos included, and carries VINE's sidecars. The source is only read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats
from lerobot.datasets.io_utils import write_table_one_row_group_per_episode
from lerobot.datasets.language import LANGUAGE_EVENTS, LANGUAGE_PERSISTENT, language_feature_info

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration
from vine_vla.data.annotate.segmentation import SEGMENT_RECORD, Kind
from vine_vla.data.annotate.subtasks import (
    INSTRUCTION,
    cuts_in,
    frame_texts,
    persistent_rows,
    record,
    sarm_columns,
    subtask_text,
)
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.boxes import write_boxes
from vine_vla.data.sidecars.outcomes import EPISODE_OUTCOME
from vine_vla.storage.files import folder_in_the_making, write_atomically
from vine_vla.storage.json import read_json, write_json
from vine_vla.storage.parquet import read_parquet, write_parquet

EXPORT = "meta/vine_subtasks.json"
"""Says that a folder is such an export, and of which kind; only those are replaced."""
PROPORTIONS = "meta/temporal_proportions_dense.json"

_TEXT = pa.string()
_ROW = pa.struct(
    [
        *[("role", _TEXT), ("content", _TEXT), ("style", _TEXT), ("timestamp", pa.float32())],
        *[("camera", _TEXT), ("tool_calls", pa.list_(_TEXT))],
    ]
)
_EVENT = pa.struct([field for field in _ROW if field.name != "timestamp"])
_SARM = {
    "names": pa.list_(_TEXT),
    **dict.fromkeys(("start_times", "end_times"), pa.list_(pa.float64())),
    **dict.fromkeys(("start_frames", "end_frames"), pa.list_(pa.int64())),
}


def export_subtasks(dataset: DemoDataset, out: Path, kind: Kind) -> Path:
    """Write a copy of `dataset` whose segments stand in `kind`'s columns.

    Args:
        dataset: demonstrations with segments.
        out: folder of the copy; replaced only if it is an older export of this kind of work.
        kind: `language`, `sarm` or `task`. What each cannot hold, and what is kept beside it: `subtasks`.

    Returns:
        `out`.

    Raises:
        VineError: no segments, or `out` holds something else or lies in the source.
    """
    demonstrations = dataset.demonstrations
    if not any(d.segments for d in demonstrations):
        raise VineError(
            "no segment to export", where=str(dataset.root), hint="cut the episodes with `vine annotate`"
        )
    if out.resolve().is_relative_to(dataset.root.resolve()):
        raise VineError("lies in the source", where=str(out), hint="choose another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / EXPORT).is_file():
        raise VineError("exists and is no such export of VINE", where=str(out), hint="choose another folder")
    with folder_in_the_making(out) as root:
        _copy(dataset.root, root)
        info = read_json(root / "meta/info.json")
        columns = _episode_columns(demonstrations)
        if kind == "language":
            _write_language(dataset, root)
            info["features"] |= {
                name: {**feature, "shape": list(feature["shape"])}
                for name, feature in language_feature_info().items()
            }
        elif kind == "sarm":
            columns |= _sarm(demonstrations, dataset.fps)
            write_json(root / PROPORTIONS, _proportions(demonstrations))
        else:
            columns |= _write_tasks(dataset, root)
            info["total_tasks"] = len(_task_table(demonstrations))
        _write_episodes(root, columns)
        write_json(root / "meta/info.json", info)
        sidecars.write_demonstrations(root, demonstrations)
        boxes = ((d.episode_id, dataset.box_table(d.episode_index)) for d in demonstrations)
        write_boxes(root, boxes, dataset.schema.cameras)
        sidecars.write_info(root, sidecars.SidecarInfo(dataset.schema, dataset.cameras))
        write_json(root / EXPORT, {"kind": kind})
    return out


def _copy(source: Path, target: Path) -> None:
    """Every file but hidden ones, links followed; not the modes, since the source may be read-only."""
    for folder, folders, names in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not name.startswith("."):
                shutil.copyfile(Path(folder) / name, here / name)


def _episode_columns(demonstrations: Sequence[Demonstration]) -> dict[str, pa.Array]:
    """What no format holds, by episode_index."""
    return {
        EPISODE_OUTCOME: pa.array([d.outcome.value for d in demonstrations]),
        INSTRUCTION: pa.array([d.instruction for d in demonstrations]),
        SEGMENT_RECORD: pa.array([record(d.segments) for d in demonstrations], pa.list_(_TEXT)),
    }


def _write_episodes(root: Path, columns: Mapping[str, pa.Array]) -> None:
    """Set columns of `meta/episodes`; each holds a value an episode, by episode_index."""
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        table = read_parquet(path)
        index = table["episode_index"]
        kept = [name for name in table.column_names if name not in columns]
        table = table.select(kept).replace_schema_metadata(None)  # pandas' own describes the old columns
        for name, values in columns.items():
            table = table.append_column(name, values.take(index))
        write_parquet(path, table)


def _sarm(demonstrations: Sequence[Demonstration], fps: float) -> dict[str, pa.Array]:
    found = [sarm_columns(d.segments, fps) for d in demonstrations]
    return {f"dense_subtask_{n}": pa.array([f[n] for f in found], kind) for n, kind in _SARM.items()}


def _proportions(demonstrations: Sequence[Demonstration]) -> dict[str, float]:
    """Each subtask's share of time by SARM's formula (1), in the order in which they come on average."""
    shares: dict[str, list[float]] = {}
    places: dict[str, list[float]] = {}
    for d in demonstrations:
        total = sum(s.end - s.start for s in d.segments)
        here: dict[str, float] = {}
        for s in d.segments:
            here[subtask_text(s)] = here.get(subtask_text(s), 0.0) + (s.end - s.start) / total
            places.setdefault(subtask_text(s), []).append(s.start / d.length)
        for name, share in here.items():
            shares.setdefault(name, []).append(share)
    means = {name: float(np.mean(shares[name])) for name in sorted(shares, key=lambda n: np.mean(places[n]))}
    return {name: mean / sum(means.values()) for name, mean in means.items()}


def _data_files(root: Path) -> list[Path]:
    return sorted((root / "data").glob("*/*.parquet"))


def _write_language(dataset: DemoDataset, root: Path) -> None:
    """Put the two language columns into the data files; rows of other styles that are there stay."""
    for path in _data_files(root):
        table = pq.read_table(path)
        episode, time = table["episode_index"].to_numpy(), table["timestamp"].to_numpy()
        old = table[LANGUAGE_PERSISTENT] if LANGUAGE_PERSISTENT in table.column_names else None
        rows: list[list[dict[str, Any]]] = []
        for d in (dataset.demonstrations[i] for i in dict.fromkeys(episode.tolist())):
            mine = np.flatnonzero(episode == d.episode_index)
            kept = [r for r in (old[int(mine[0])].as_py() or [] if old else []) if r["style"] != "subtask"]
            times = [float(t) for t in time[mine]]
            merged = sorted(kept + persistent_rows(d.segments, times), key=lambda r: float(r["timestamp"]))
            rows += [merged] * len(mine)
        events = table[LANGUAGE_EVENTS] if LANGUAGE_EVENTS in table.column_names else None
        # Tool calls are left to inference, as LeRobot's own writer does: pyarrow cannot build their type.
        plain = all(row["tool_calls"] is None for some in rows for row in some)
        columns = {
            LANGUAGE_PERSISTENT: pa.array(rows, pa.list_(_ROW) if plain else None),
            LANGUAGE_EVENTS: events if events is not None else pa.array([[]] * len(table), pa.list_(_EVENT)),
        }
        _replace_columns(path, table, columns)


def _task_table(demonstrations: Sequence[Demonstration]) -> dict[str, int]:
    """Task text -> task_index, in order of first use."""
    texts = (c.text for d in demonstrations for c in cuts_in("task", d.segments, d.instruction, d.length))
    return {text: index for index, text in enumerate(dict.fromkeys(texts))}


def _write_tasks(dataset: DemoDataset, root: Path) -> dict[str, pa.Array]:
    """Give every frame its subgoal as task; returns columns of `meta/episodes`."""
    table = _task_table(dataset.demonstrations)
    texts = [frame_texts(d.segments, d.instruction, d.length) for d in dataset.demonstrations]
    indices = [np.array([table[text] for text in some], np.int64) for some in texts]
    names = {"task_index": pa.array(list(table.values())), "task": pa.array(list(table))}
    write_parquet(root / "meta/tasks.parquet", _as_pandas_index(pa.table(names)))
    for path in _data_files(root):
        data = pq.read_table(path)
        order = dict.fromkeys(data["episode_index"].to_pylist())
        column = np.concatenate([indices[i] for i in order])
        _replace_columns(path, data, {"task_index": pa.array(column, data["task_index"].type)})
    features = {"task_index": dataset.files.features["task_index"]}
    statistics = [compute_episode_stats({"task_index": some}, features) for some in indices]
    path = root / "meta/stats.json"
    if path.is_file():
        whole = aggregate_stats(statistics)["task_index"]
        write_json(path, read_json(path) | {"task_index": whole})
    columns = {"tasks": pa.array([list(dict.fromkeys(some)) for some in texts])}
    for name in statistics[0]["task_index"]:
        values = [s["task_index"][name].tolist() for s in statistics]
        columns[f"stats/task_index/{name}"] = pa.array(values)
    return columns


def _as_pandas_index(table: pa.Table) -> pa.Table:
    """Tell pandas that the task texts are the table's index, which is how LeRobot looks them up."""
    frame = table.to_pandas().set_index("task")
    return pa.Table.from_pandas(frame)


def _replace_columns(path: Path, table: pa.Table, columns: Mapping[str, Any]) -> None:
    """Write a data file with some columns new or replaced; the others and their order stay."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
    # The features that `datasets` noted would contradict a new column; LeRobot reads them from info.json.
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"huggingface"}
    table = table.replace_schema_metadata(kept)
    write_atomically(path, lambda file: write_table_one_row_group_per_episode(table, file))
