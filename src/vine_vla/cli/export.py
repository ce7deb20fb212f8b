"""Export skills, episodes or subtasks as a LeRobot dataset, or a trained agent as a LeRobot policy."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vine_vla.core.errors import VineError
from vine_vla.core.options import Split
from vine_vla.serving.config import AgentSettings

if TYPE_CHECKING:
    from vine_vla.data.lerobot.dataset import DemoDataset
    from vine_vla.system2.backend import Backend

UNBOXED = 0.2
"""Share of frames without a box of the target that is worth a warning; a few have no visible target."""


@dataclass(frozen=True)
class _Common:
    path: tyro.conf.Positional[Path]
    """Dataset with segments, as `vine collect` or `vine annotate` leaves it."""
    out: tyro.conf.Positional[Path]
    """Folder of the export; replaced if it is an older one."""
    splits: tuple[Literal["train", "calibration", "test"], ...] = ("train",)
    """Episodes to take, by split."""
    threads: int = 2
    """Threads that decode and encode."""
    earlier: Path | None = None
    """An export of the same kind of some of these episodes, as annotated now: what it holds is taken over."""
    perception: Path | None = None
    """Run with a trained System 2, whose perception gives boxes in frames where none is annotated; windows
    are then as good as that perception."""


@dataclass(frozen=True)
class _Pictured(_Common):
    images: Literal["crops", "whole"] = "crops"
    """Crops at objects, or whole frames (for ACT, Diffusion, ...)."""
    whole_pixels: int = 96
    """Shorter side of whole frames, in pixels."""


@dataclass(frozen=True)
class Skills(_Pictured):
    """Options of `vine export skills`."""

    reached_only: bool = False
    """Leave out segments that failed, for trainers that do not read VINE's sidecars."""


@dataclass(frozen=True)
class Flat(_Pictured):
    """Options of `vine export flat`."""

    all: bool = False
    """Keep failed, truncated and unknown episodes too."""


@dataclass(frozen=True)
class Joint(_Common):
    """Options of `vine export joint`."""

    images: Literal["whole", "windows", "none"] = "whole"
    """Whole frames; windows at the subgoal's target, which are cheaper and show more of it; or none, for
    policies that are conditioned on verb, boxes and state alone."""
    pixels: int = 96
    """Shorter side of whole frames, or side of a window in the frames' own resolution."""


@dataclass(frozen=True)
class Language:
    """Options of `vine export language`."""

    path: tyro.conf.Positional[Path]
    """Dataset with segments; it is not changed."""
    out: tyro.conf.Positional[Path]
    """Folder of the copy; replaced if it is an older one."""
    format: Literal["persistent", "sarm", "task"] = "persistent"
    """LeRobot 0.6's language_persistent, SARM's dense_subtask columns, or the task text of every frame."""


@dataclass(frozen=True)
class Policy:
    """Options of `vine export policy`."""

    run: tyro.conf.Positional[Path]
    """Run with System 1 and System 2."""
    out: tyro.conf.Positional[Path]
    """Folder of the checkpoint; replaced if it is an older one."""
    settings: Annotated[AgentSettings, tyro.conf.OmitArgPrefixes] = AgentSettings(deadline=10.0)


Config = (
    Annotated[
        Joint,
        tyro.conf.subcommand(
            name="joint",
            description="Reached segments and successful episodes, images, verb and boxes: for ACT, "
            "Diffusion and others that are run alone and under VINE.",
        ),
    ]
    | Annotated[
        Skills,
        tyro.conf.subcommand(
            name="skills", description="One episode per segment with a known outcome, its task the subgoal."
        ),
    ]
    | Annotated[
        Flat,
        tyro.conf.subcommand(
            name="flat",
            description="Whole episodes under their instruction, crops at all that subgoals name.",
        ),
    ]
    | Annotated[
        Language,
        tyro.conf.subcommand(
            name="language",
            description="A copy of the dataset, its segments as subtasks; annotate --segments reads them.",
        ),
    ]
    | Annotated[
        Policy,
        tyro.conf.subcommand(
            name="policy", description="The whole agent as a checkpoint for lerobot-eval --policy.path=DIR."
        ),
    ]
)


def run(config: Config) -> int:
    """Export, and say how much of what."""
    if isinstance(config, Policy):
        from vine_vla.serving.modeling_vine import export_policy

        print(export_policy(config.run, config.out, **vars(config.settings)))
        return 0
    if isinstance(config, Language):
        return _language(config)
    from vine_vla.compute.progress import progress_bars
    from vine_vla.core.options import Outcome
    from vine_vla.data.export.skills import KNOWN, export_flat, export_joint, export_skills
    from vine_vla.data.lerobot.dataset import open_dataset

    dataset = open_dataset(config.path)
    perception = _perception(config, dataset)
    splits = tuple(Split(s) for s in config.splits)
    shared: dict[str, Any] = {"splits": splits, "threads": config.threads, "earlier": config.earlier}
    with progress_bars() as report:
        shared |= {"perception": perception, "progress": lambda done, all_: report("export", done, all_)}
        if isinstance(config, Joint):
            summary = export_joint(dataset, config.out, images=config.images, pixels=config.pixels, **shared)
        else:
            shared |= {"images": config.images, "whole_pixels": config.whole_pixels}
            if isinstance(config, Skills):
                outcomes = (Outcome.REACHED,) if config.reached_only else KNOWN
                summary = export_skills(dataset, config.out, outcomes=outcomes, **shared)
            else:
                summary = export_flat(dataset, config.out, successful_only=not config.all, **shared)
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(summary.outcomes.items()))
    state = "" if summary.fresh else " (up to date)"
    if perception is None and summary.unboxed > UNBOXED * summary.frames:
        print(
            f"vine: warning: {summary.unboxed} of {summary.frames} frames have no box of the subgoal's "
            "target, and System 1 receives a black window there: annotate more, or train System 2 first and "
            "give --perception RUN",
            file=sys.stderr,
        )
    print(f"{summary.out}: {summary.episodes} episodes, {summary.frames} frames; {counts}{state}")
    return 0


def _language(config: Language) -> int:
    from vine_vla.data.export.subtasks import export_subtasks
    from vine_vla.data.lerobot.dataset import open_dataset

    dataset = open_dataset(config.path)
    kind: Literal["language", "sarm", "task"] = "language" if config.format == "persistent" else config.format
    out = export_subtasks(dataset, config.out, kind)
    segments = sum(len(d.segments) for d in dataset.demonstrations)
    print(f"{out}: {len(dataset.demonstrations)} episodes, {segments} segments as {config.format} subtasks")
    return 0


def _perception(config: _Common, dataset: "DemoDataset") -> "Backend | None":
    """The System 2 whose perception fills in boxes; VineError if it has none, or of another vocabulary."""
    if config.perception is None or (isinstance(config, _Pictured) and config.images != "crops"):
        return None
    from vine_vla.system2.load import load_system2

    model, where = load_system2(config.perception), f"--perception {config.perception}"
    if model.info.state is None:
        raise VineError("System 2 has no perception", where=where, hint="train it with boxes")
    if model.schema.classes != dataset.schema.classes or model.schema.cameras != dataset.schema.cameras:
        raise VineError(
            f"perception knows {model.schema.classes} in cameras {model.schema.cameras}",
            where=where,
            hint=f"train one on this dataset, with {dataset.schema.classes} in {dataset.schema.cameras}",
        )
    return model
