"""Add outcomes, segments and boxes to a LeRobot dataset, as sidecar files only.

The dataset's own files are never changed. Annotating again adds to what is there: a new label replaces the
old one of the same kind. With --page you watch the episodes in your browser and label them by keys.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vine_vla.core.errors import VineError
from vine_vla.data.annotate.sources import Sources


@dataclass(frozen=True)
class Config:
    """Options of `vine annotate`."""

    path: tyro.conf.Positional[Path]
    """Root folder of the dataset (the one with meta/info.json)."""
    sources: Annotated[Sources, tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues] = field(
        default_factory=Sources
    )
    page: bool = False
    """Serve a page to label by hand, on this machine only, until Ctrl-C; every label is written at once."""
    port: int = 0
    """Port of the page; 0 for any free one."""
    out: Path | None = None
    """Leave the source alone and make a dataset here that links to its frames; needed if it is read-only."""


def run(config: Config) -> int:
    """Annotate and say what there is now; then label by hand, if that is wanted."""
    if config.sources.is_empty and not config.page:
        raise VineError(
            "nothing to add",
            hint="give --labels, --outcomes, --subgoals, --segments, --boxes, --words or --page",
        )
    if not config.sources.is_empty:
        _annotate(config)
    return _label(config) if config.page else 0


def _annotate(config: Config) -> None:
    from vine_vla.data.annotate.annotation import annotate
    from vine_vla.data.problems import label_problems

    dataset = annotate(config.path, config.sources, config.out)
    outcomes = Counter(d.outcome.value for d in dataset.demonstrations)
    segments = sum(len(d.segments) for d in dataset.demonstrations)
    graphs = sum(len(d.graphs) for d in dataset.demonstrations)
    counted = ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))
    print(f"{len(dataset.demonstrations)} episodes: {counted}; {segments} segments, {graphs} scene graphs")
    print(f"sidecars written to {dataset.root / 'meta'}", file=sys.stderr)
    for problem in label_problems(dataset.demonstrations, str(dataset.root)):
        print(f"vine: {problem.level}: {problem}", file=sys.stderr)
    if config.out is not None:
        print(f"{config.path} is unchanged; {config.out} links to its data and videos", file=sys.stderr)


def _label(config: Config) -> int:
    """Serve the page until Ctrl-C."""
    from vine_vla.data.annotate.label_server import LabelServer
    from vine_vla.data.annotate.labelling import Labeller

    sources = config.sources
    labeller = Labeller(config.path, config.out, sources.source, sources.calibration_share)
    with LabelServer(labeller, config.port) as server:
        print(server.url, flush=True)
        print(
            f"{labeller.left} of {len(labeller.demonstrations)} episodes have no label; open this address in"
            " your browser, Ctrl-C ends",
            file=sys.stderr,
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            labeller.close()
    print(
        f"{len(labeller.labelled)} episodes labelled, {labeller.left} of {len(labeller.demonstrations)} left"
        f" without a label in {labeller.root}"
    )
    return 0
