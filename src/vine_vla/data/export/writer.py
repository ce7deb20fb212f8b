"""Writing an export: clips become episodes in LeRobot's layout, with sidecars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats, get_feature_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.io_utils import write_info as write_lerobot_info
from lerobot.datasets.io_utils import write_stats
from lerobot.utils.utils import flatten_dict

from vine_vla.core.options import Collector, Demonstration, EpisodeOutcome, Outcome, Segment, Subgoal
from vine_vla.data.annotate.segmentation import flat_names
from vine_vla.data.export.clips import Clip
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.lerobot.writing import FrameWriter
from vine_vla.data.sidecars.files import EPISODE, SidecarInfo, write_demonstrations, write_info

VECTORS = ("observation.state", "observation.environment_state", "action")

LEAST_SPREAD = 0.1
"""Of a number of the environment vector, in the statistics: they are shares of the image, and flags. What
never changed in training (an object always visible) would be divided by almost nothing on the day it does."""


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
        for name in VECTORS:
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
        self.table = FrameWriter(self.meta, "none")
        self._statistics: list[dict[str, Any]] = []
        self._rows: list[Demonstration] = []

    def add(self, clip: Clip, columns: dict[str, Any]) -> None:
        """Append `clip` with what `ClipReader` read of it."""
        index, length = len(self._rows), clip.end - clip.start
        self.meta.save_episode_tasks([clip.text])
        frames = {name: columns[name] for name in VECTORS}
        frames |= self.table.index_columns(index, length, clip.text)
        statistics = compute_episode_stats(frames, self.meta.features)
        for role, pictures in columns["samples"].items():
            key, sample = self.cameras[role], pictures.transpose(0, 3, 1, 2)
            found = get_feature_stats(sample, axis=(0, 2, 3), keepdims=True)
            statistics[key] = {
                name: value if name == "count" else np.squeeze(value / 255.0, axis=0)
                for name, value in found.items()
            }
        images = {
            self.cameras[role]: [{"bytes": png, "path": None} for png in pngs]
            for role, pngs in columns["images"].items()
        }
        place = self.table.write(frames | images)
        # LeRobot's `save_episode` merges and rewrites all statistics for each of thousands of episodes.
        self.meta._save_episode_metadata(
            {"episode_index": index, "tasks": [clip.text], "length": length}
            | place
            | flatten_dict({"stats": statistics})
        )
        self._statistics.append(statistics)
        self._rows.append(_demonstration(clip, index))

    def close(self) -> None:
        """Write what stands at the end: counts, statistics, sidecars."""
        self.table.close()
        info = self.meta.info
        info.total_episodes, info.total_frames = len(self._rows), self.table.frames
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
