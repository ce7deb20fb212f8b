"""Writing an export: clips become episodes in LeRobot's layout, with sidecars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats, get_feature_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import write_info as write_lerobot_info
from lerobot.datasets.io_utils import write_stats
from lerobot.utils.utils import flatten_dict
from numpy.typing import NDArray

from vine_vla.core.options import Collector, Demonstration, EpisodeOutcome, Outcome, Segment, Subgoal
from vine_vla.data.annotate.segmentation import flat_names
from vine_vla.data.export.clips import Clip
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.sidecars.files import EPISODE, SidecarInfo, write_demonstrations, write_info

DATA_FILE_BYTES = 100_000_000

LEAST_SPREAD = 0.1
"""Of a number of the environment vector, in the statistics: they are shares of the image, and flags. What
never changed in training (an object always seen) would be divided by almost nothing on the day it does."""


def camera_features(dataset: DemoDataset) -> dict[str, str]:
    """Role -> image feature of an export of `dataset`."""
    return {role: f"observation.images.{role}" for role in dataset.cameras}


class ExportWriter:
    """Writes one export into the folder `root`; `first` are the columns of any clip, for their shapes."""

    def __init__(self, root: Path, dataset: DemoDataset, first: dict[str, Any]) -> None:
        self.root, self.dataset = root, dataset
        self.cameras = camera_features(dataset)
        features: dict[str, dict[str, Any]] = {
            self.cameras[role]: {
                "dtype": "image",
                "shape": sample.shape[1:],
                "names": ["height", "width", "channels"],
            }
            for role, sample in first["samples"].items()
        }
        for name in ("observation.state", "observation.environment_state", "action"):
            size = first[name].shape[1]
            names = flat_names(dataset.files.features.get(name, {}).get("names"))
            if len(names) != size:  # none, or one name for all of them ({"motors": [...]} is nested)
                names = [f"{name}_{i}" for i in range(size)]
            features[name] = {"dtype": "float32", "shape": (size,), "names": names}
        self.meta = LeRobotDatasetMetadata.create(
            f"vine/{root.name}",
            int(dataset.fps),
            features,
            dataset.files.info.get("robot_type"),
            root,
            use_videos=False,
            metadata_buffer_size=200,
        )
        hf = get_hf_features_from_features(self.meta.features)
        self.arrow: pa.Schema = datasets.Dataset.from_dict({k: [] for k in hf}, features=hf).data.schema
        self._statistics: list[dict[str, Any]] = []
        self._rows: list[Demonstration] = []
        self._parquet: pq.ParquetWriter | None = None
        self._file, self._bytes, self._begin = 0, 0, 0

    def add(self, clip: Clip, columns: dict[str, Any]) -> None:
        """Append `clip` with what `ClipReader` read of it."""
        index, length, begin = len(self._rows), clip.end - clip.start, self._begin
        self.meta.save_episode_tasks([clip.text])
        frames = {k: columns[k] for k in ("observation.state", "observation.environment_state", "action")} | {
            "timestamp": (np.arange(length) / self.meta.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(begin, begin + length),
            "task_index": np.full(length, self.meta.get_task_index(clip.text)),
        }
        statistics = compute_episode_stats(frames, self.meta.features)
        for role, pictures in columns["samples"].items():
            key, sample = self.cameras[role], pictures.transpose(0, 3, 1, 2)
            found = get_feature_stats(sample, axis=(0, 2, 3), keepdims=True)
            statistics[key] = {
                name: value if name == "count" else np.squeeze(value / 255.0, axis=0)
                for name, value in found.items()
            }
        self._write(frames, columns["images"])
        # LeRobot's `save_episode` merges and rewrites all statistics for each of thousands of episodes.
        self.meta._save_episode_metadata(
            {"episode_index": index, "tasks": [clip.text], "length": length}
            | {"data/chunk_index": 0, "data/file_index": self._file}
            | {"dataset_from_index": begin, "dataset_to_index": begin + length}
            | flatten_dict({"stats": statistics})
        )
        self._statistics.append(statistics)
        self._begin = begin + length
        self._rows.append(_demonstration(clip, index))

    def _write(self, frames: dict[str, NDArray[Any]], images: dict[str, list[bytes]]) -> None:
        """One row group an episode; a new file when the present one is full."""
        size = sum(len(png) for found in images.values() for png in found)
        if self._parquet is not None and self._bytes + size > DATA_FILE_BYTES:
            self._parquet.close()
            self._parquet, self._bytes, self._file = None, 0, self._file + 1
        if self._parquet is None:
            path = self.root / self.meta.data_path.format(chunk_index=0, file_index=self._file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pq.ParquetWriter(path, self.arrow, compression="none", use_dictionary=False)
        self._bytes += size
        roles = {key: role for role, key in self.cameras.items()}
        columns = {
            field.name: pa.array(
                [{"bytes": png, "path": None} for png in images[roles[field.name]]], field.type
            )
            if field.name in roles
            else pa.array(list(frames[field.name]) if frames[field.name].ndim > 1 else frames[field.name])
            for field in self.arrow
        }
        self._parquet.write_table(pa.table(columns).cast(self.arrow))

    def close(self) -> None:
        """Write what stands at the end: counts, statistics, sidecars."""
        assert self._parquet is not None
        self._parquet.close()
        info = self.meta.info
        info.total_episodes, info.total_frames = len(self._rows), self._begin
        info.total_tasks = len(self.meta.tasks)
        info.splits = {"train": f"0:{len(self._rows)}"}
        self.meta.finalize()
        write_lerobot_info(info, self.root)
        statistics = aggregate_stats(self._statistics)
        spread = statistics["observation.environment_state"]
        spread["std"] = np.maximum(spread["std"], LEAST_SPREAD)
        write_stats(statistics, self.root)
        write_demonstrations(self.root, self._rows)
        schema = self.dataset.schema
        if any(d.segments[0].subgoal.verb == EPISODE.name for d in self._rows):
            schema = replace(schema, verbs=(*schema.verbs, EPISODE))
        cameras = {r: k for r, k in self.cameras.items() if k in self.meta.features}
        write_info(self.root, SidecarInfo(schema, cameras))


def turns(clip: Clip) -> list[tuple[int, int, Outcome]]:
    """Start, end, outcome: the clip, cut where policy and expert take turns in a whole episode.

    What a policy did before an expert took over is censored, a drop too: it is nothing to imitate.
    """
    if clip.subgoal is not None or clip.demonstration.collector is not Collector.INTERVENTION:
        return [(0, clip.end - clip.start, clip.outcome)]
    turns: list[tuple[int, int, Outcome]] = []
    at = clip.start
    for s in clip.demonstration.segments:
        if s.outcome in (Outcome.CENSORED, Outcome.SLIPPED) and clip.start <= s.start and s.end <= clip.end:
            turns += [(at, s.start, clip.outcome)] if at < s.start else []
            turns.append((s.start, s.end, Outcome.CENSORED))
            at = s.end
    turns += [(at, clip.end, clip.outcome)] if at < clip.end else []
    return [(start - clip.start, end - clip.start, outcome) for start, end, outcome in turns]


def _demonstration(clip: Clip, index: int) -> Demonstration:
    """The clip as an episode of its own, for the sidecars."""
    outcome = {
        Outcome.REACHED: EpisodeOutcome.SUCCESS,
        Outcome.SLIPPED: EpisodeOutcome.FAILURE,
        Outcome.DEAD: EpisodeOutcome.FAILURE,
        Outcome.CENSORED: EpisodeOutcome.TRUNCATED,
    }[clip.outcome]
    length, graph, source = clip.end - clip.start, clip.graph, clip.demonstration
    subgoal = clip.subgoal or Subgoal(EPISODE.name, ())
    return Demonstration(
        episode_id=clip.name,
        episode_index=index,
        instruction=clip.text,
        length=length,
        outcome=outcome,
        outcome_source=clip.source,
        segments=tuple(
            Segment(start, end, subgoal, clip.text, outcome, clip.source)
            for start, end, outcome in turns(clip)
        ),
        graphs={0: graph} if graph is not None else {},
        scene=source.scene,
        seed=source.seed,
        collector=source.collector,
        split=source.split,
    )
