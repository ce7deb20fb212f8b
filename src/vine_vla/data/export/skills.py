"""Export: a plain LeRobot v3 dataset of skills, on which any LeRobot policy trains.

`export_skills` makes one episode per segment with a known outcome, its task the subgoal's sentence;
`export_flat` keeps whole episodes under their instruction; `export_joint` gives both, for a policy that is
run both ways. Images are crops at objects (`crops`) or whole frames. The sidecars are the only truth about
outcomes; a trainer that does not read them should be given `outcomes=(REACHED,)`, for which every episode
is worth imitating.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import (
    Collector,
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
)
from vine_vla.data.export.clips import BoxPerceiver, Clip, ClipReader, EarlierExport, read_clips
from vine_vla.data.export.crops import (
    LAYOUT,
    CropLayout,
    joint_layout,
    scene_layout,
    target_layout,
    with_windows,
)
from vine_vla.data.export.writer import ExportWriter, camera_features, turns
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.lerobot.tables import image_size
from vine_vla.storage.files import folder_in_the_making, write_text
from vine_vla.storage.json import check_version, read_json, write_json

EXPORT = "meta/vine_export.json"
VERSION = 2
KNOWN = (Outcome.REACHED, Outcome.SLIPPED, Outcome.DEAD)
"""Outcomes of the segments that are exported; censored ones only of interventions, since who takes over
says that the policy's part was not over: near misses, from which the done head learns."""

Images = Literal["crops", "whole"]
JointImages = Literal["whole", "windows", "none"]
LEAST_PIXELS = 8
"""Side of the smallest picture."""


@dataclass(frozen=True)
class ExportSummary:
    """What an export holds.

    Args:
        out: its folder.
        episodes, frames: how much of it.
        outcomes: outcome -> episodes.
        fresh: False when `out` already held this very export.
        unboxed: frames without an annotated box of the subgoal's target; 0 without crops at it.
    """

    out: Path
    episodes: int
    frames: int
    outcomes: dict[str, int]
    fresh: bool
    unboxed: int = 0


class Reading(TypedDict, total=False):
    """How the clips of an export are read.

    Args:
        threads: decode and encode in this many threads; default 2.
        earlier: an export of the same kind of some of these episodes, as annotated now: its clips are taken
            over, which is several times faster than decoding them again.
        perception: gives boxes in frames where none is annotated, from the graph at the segment's start on.
        progress: called with (clips done, clips).
    """

    threads: int
    earlier: Path | None
    perception: BoxPerceiver | None
    progress: Callable[[int, int], None] | None


def export_skills(
    dataset: DemoDataset,
    out: Path,
    *,
    splits: Sequence[Split] = (Split.TRAIN,),
    outcomes: Sequence[Outcome] = KNOWN,
    images: Images = "crops",
    whole_pixels: int = 96,
    **reading: Unpack[Reading],
) -> ExportSummary:
    """One episode per segment, crops at the subgoal's target.

    Args:
        dataset: demonstrations with segments, and with boxes for crops.
        out: folder to write; replaced only if it is an older export.
        splits, outcomes: which episodes and segments to take.
        images: `crops`, or `whole` frames shrunk to `whole_pixels` along the shorter side.
        reading: see `Reading`.

    Raises:
        VineError: nothing to export, no boxes for crops, or `out` holds something else.
    """
    clips = _segments(dataset, splits, outcomes)
    layout = target_layout(dataset.schema, _image_sizes(dataset)) if images == "crops" else None
    settings = {"kind": "skills", "splits": sorted(splits), "outcomes": sorted(outcomes)}
    unboxed = _unboxed_frames(dataset, clips) if images == "crops" else 0
    pixels = None if images == "crops" else whole_pixels
    done = _export(dataset, out, clips, layout, settings, pixels, reading)
    return replace(done, unboxed=unboxed)


def _segments(dataset: DemoDataset, splits: Sequence[Split], outcomes: Sequence[Outcome]) -> list[Clip]:
    return [
        Clip(d, f"{d.episode_id}.{n:02d}", s.start, s.end, s.subgoal, s.text, s.outcome, s.outcome_source)
        for d in dataset.demonstrations
        if d.split in splits
        for n, s in enumerate(d.segments)
        if s.outcome in outcomes or (outcomes == KNOWN and _taken_over(d, s))
    ]


def _unboxed_frames(dataset: DemoDataset, clips: Sequence[Clip]) -> int:
    """Frames of the clips in which no camera has an annotated box of the subgoal's target."""
    count = 0
    for clip in clips:
        target = clip.subgoal.args[-1:] if clip.subgoal is not None else ()
        table = dataset.box_table(clip.demonstration.episode_index)
        boxed: set[int] = set()
        if target and target[0] in table.objects:
            rows = table.object == table.objects.index(target[0])
            boxed = {f for f in table.frame[rows].tolist() if clip.start <= f < clip.end}
        count += clip.end - clip.start - len(boxed) if target else 0
    return count


def _taken_over(demonstration: Demonstration, segment: Segment) -> bool:
    return demonstration.collector is Collector.INTERVENTION and segment.outcome is Outcome.CENSORED


def export_flat(
    dataset: DemoDataset,
    out: Path,
    *,
    splits: Sequence[Split] = (Split.TRAIN,),
    successful_only: bool = True,
    images: Images = "crops",
    whole_pixels: int = 96,
    **reading: Unpack[Reading],
) -> ExportSummary:
    """Whole episodes under their instruction, crops at all objects that a subgoal can name.

    Arguments as `export_skills`.
    Successful episodes count as `reached`, failed ones as `dead`, all others as `censored`.
    """
    clips = _episodes(dataset, splits, successful_only)
    layout = None
    if images == "crops":
        layout = scene_layout(dataset.schema, _image_sizes(dataset), _graphs(dataset))
    settings = {"kind": "flat", "splits": sorted(splits), "successful_only": successful_only}
    pixels = None if images == "crops" else whole_pixels
    return _export(dataset, out, clips, layout, settings, pixels, reading)


def export_joint(
    dataset: DemoDataset,
    out: Path,
    *,
    splits: Sequence[Split] = (Split.TRAIN,),
    images: JointImages = "whole",
    pixels: int = 96,
    **reading: Unpack[Reading],
) -> ExportSummary:
    """Reached segments under their subgoal and successful episodes under their instruction.

    One checkpoint that is trained on it can be run alone (`flat`) and under VINE. Verb and the target's box
    are in `observation.environment_state`, in whole episodes the boxes of all that subgoals name in their
    stead (`joint_layout`). Nothing of what somebody did before an expert took over is in it: such
    an episode is cut there.

    Args:
        images: `whole` frames shrunk to `pixels` along the shorter side; `windows` of `pixels` at the target,
            in the images' own resolution, and in whole episodes of the whole image; `none`.

    Other arguments as `export_skills`.
    """
    if images != "none" and pixels < LEAST_PIXELS:
        raise VineError(f"{pixels} pixels", hint=f"give {LEAST_PIXELS} or more, or leave images out: none")
    clips = _segments(dataset, splits, (Outcome.REACHED,))
    clips += [part for clip in _episodes(dataset, splits, successful_only=True) for part in _imitable(clip)]
    clips.sort(key=lambda clip: clip.demonstration.episode_index)  # an episode is decoded once
    sizes = _image_sizes(dataset)
    layout = joint_layout(dataset.schema, sizes, _graphs(dataset))
    if images == "windows":
        layout = with_windows(layout, sizes, pixels)
    whole = {"whole": pixels, "windows": None, "none": 0}[images]
    settings = {"kind": "joint", "splits": sorted(splits)}
    return _export(dataset, out, clips, layout, settings, whole, reading)


def _episodes(dataset: DemoDataset, splits: Sequence[Split], successful_only: bool) -> list[Clip]:
    outcome = {EpisodeOutcome.SUCCESS: Outcome.REACHED, EpisodeOutcome.FAILURE: Outcome.DEAD}
    return [
        Clip(
            d,
            d.episode_id,
            0,
            d.length,
            None,
            d.instruction,
            outcome.get(d.outcome, Outcome.CENSORED),
            d.outcome_source or OutcomeSource.OPERATOR,
        )
        for d in dataset.demonstrations
        if d.split in splits and (d.outcome is EpisodeOutcome.SUCCESS or not successful_only)
    ]


def _imitable(clip: Clip) -> list[Clip]:
    """The parts of a successful episode that are worth imitating, for trainers that read no outcomes."""
    parts, last = [], clip.end
    for start, end, outcome in turns(clip):
        if outcome is Outcome.REACHED:
            whole = (start, end) == (clip.start, last)
            name = clip.name if whole else f"{clip.name}-{start:04d}"
            part = replace(clip, name=name, start=start, end=end)
            parts.append(part if end == last else replace(part, outcome=Outcome.CENSORED))
    return parts


def _graphs(dataset: DemoDataset) -> Iterable[SceneGraph]:
    """Of all episodes, so that no split and no filter changes how many slots there are."""
    return (g for d in dataset.demonstrations for g in d.graphs.values())


def _image_sizes(dataset: DemoDataset) -> dict[str, tuple[int, int]]:
    """Camera role -> (height, width), whichever way round the features' axes are."""
    return {role: image_size(dataset.files.features[key]) for role, key in dataset.cameras.items()}


def _export(
    dataset: DemoDataset,
    out: Path,
    clips: Sequence[Clip],
    layout: CropLayout | None,
    settings: dict[str, Any],
    whole_pixels: int | None,
    reading: Reading,
) -> ExportSummary:
    if not clips:
        raise VineError(
            "no episode to export" if settings["kind"] == "flat" else "no segment to export",
            where=str(dataset.root),
            hint="collect more episodes, or choose other splits and outcomes; `vine inspect` counts them",
        )
    earlier, perception, progress = (reading.get(n) for n in ("earlier", "perception", "progress"))
    settings |= {"version": VERSION, "images": "crops" if whole_pixels is None else "whole"}
    settings |= {"layout": layout.to_json() if layout else whole_pixels}
    if layout is not None and whole_pixels is not None:
        settings["pixels"] = whole_pixels
    settings["source"] = _fingerprint(dataset.root)
    if perception is not None:
        settings["perception"] = perception.weights
    summary = ExportSummary(
        out,
        len(clips),
        sum(c.end - c.start for c in clips),
        dict(Counter(c.outcome.value for c in clips)),
        True,
    )
    if out.exists() and any(out.iterdir()):
        if not (out / EXPORT).is_file():
            raise VineError("exists and is no export of VINE", where=str(out), hint="choose another folder")
        if _read_settings(out) == settings:
            return replace(summary, fresh=False)
    with folder_in_the_making(out) as root:
        known = None if earlier is None else _earlier(earlier, settings, dataset)
        reader = ClipReader(dataset, layout, whole_pixels, known, perception)
        writer: ExportWriter | None = None
        for number, (clip, columns) in enumerate(read_clips(reader, clips, reading.get("threads", 2))):
            if writer is None:
                writer = ExportWriter(root, dataset, columns)
            writer.add(clip, columns)
            if progress is not None:
                progress(number + 1, len(clips))
        assert writer is not None
        writer.close()
        if layout is not None:
            write_text(root / LAYOUT, layout.to_json() + "\n")
        write_json(root / EXPORT, settings)
    return summary


def _earlier(root: Path, settings: dict[str, Any], dataset: DemoDataset) -> EarlierExport:
    """The export at `root`; raises VineError if its pictures are not the ones that `settings` ask for."""
    if not (root / EXPORT).is_file():
        raise VineError("no export of VINE", where=str(root), hint="leave --earlier out")
    theirs = _read_settings(root)
    for name in ("kind", "images", "layout", "pixels"):
        if theirs.get(name) != settings.get(name):
            raise VineError(
                f"an export with other {name}", where=str(root), hint="leave --earlier out, or export it anew"
            )
    return EarlierExport(root, camera_features(dataset))


def _read_settings(root: Path) -> dict[str, Any]:
    """The settings of an export as version 2 has them; version 1 called the perception `eyes`."""
    path = root / EXPORT
    settings = read_json(path, hint="export again into another folder")
    if check_version(settings, VERSION, str(path)) == 1:
        if "eyes" in settings:
            settings["perception"] = settings.pop("eyes")
        if isinstance(settings.get("layout"), str):
            settings["layout"] = CropLayout.from_json(settings["layout"], f"{path}, field layout").to_json()
    return settings | {"version": VERSION}


def _fingerprint(root: Path) -> str:
    """Digest of everything small about the source; frames are covered by their counts."""
    digest = hashlib.sha256()
    for path in sorted((root / "meta").rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
