"""The page: one HTML file that needs nothing else, put together from the sections' templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.evaluation import statistics
from vine_vla.evaluation.arms import ARMS
from vine_vla.evaluation.final import list_names
from vine_vla.report import calibration, film, headline, outcomes
from vine_vla.report.config import ReportConfig
from vine_vla.report.explanation import MOST
from vine_vla.report.headline import Block
from vine_vla.report.images import DrawnFrame, drawn_frame
from vine_vla.report.inputs import Results, load_results
from vine_vla.report.rendering import document
from vine_vla.report.traces import Frame, Trace, load_trace, trace_files
from vine_vla.report.tree import RootOption, root_options, tree_view
from vine_vla.storage.files import write_bytes

MAX_BYTES = 8_000_000
"""A larger page is refused: nobody opens it on a slow machine."""


@dataclass(frozen=True)
class Decided:
    """A decision with a tree to show.

    Args:
        where: the file it came from.
        perceived: camera images and graph at that moment, if known.
        camera: role of the camera to show.
    """

    title: str
    tree: Mapping[str, Any]
    where: str
    perceived: Frame | None = None
    camera: str = "front"

    @cached_property
    def view(self) -> dict[str, Any]:
        """The tree for the page's script; VineError if it is malformed."""
        return tree_view(self.tree, self.title, self.where)

    @cached_property
    def options(self) -> list[RootOption]:
        """Rows of the table of options."""
        return root_options(self.tree)

    @cached_property
    def frame(self) -> DrawnFrame | None:
        return drawn_frame(self.perceived, self.camera)


def decided(trace: Trace, kind: str, camera: str) -> list[Decided]:
    """The trace's first decision, if it was recorded with a tree."""
    if not trace.decisions or not trace.decisions[0].tree.get("nodes"):
        return []
    first = trace.decisions[0]
    title = f"Scene {trace.scene}, {trace.label} at step {first.step} ({kind})"
    return [Decided(title, first.tree, str(trace.file), trace.frame_at(first.step), camera)]


def write_report(path: Path, out: Path | None = None, config: ReportConfig | None = None) -> Path:
    """Write the report of the results directory `path` to `out` (default: `path/report.html`), at once.

    Raises:
        VineError: the results are malformed, or the page would be larger than 8 MB.
    """
    target = out or path / "report.html"
    data = build_report(load_results(path), config or ReportConfig()).encode()
    if len(data) > MAX_BYTES:
        raise VineError(
            f"the report would have {len(data) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}",
            where=str(path),
            hint="show fewer scenes with --per-kind or fewer trees with --trees",
        )
    write_bytes(target, data)
    return target


def write_decision(decision: Decided, out: Path) -> Path:
    """Write a page about one decision alone: its tree, scene and options. Returns `out`."""
    checked = [decision] if decision.view else []
    text = document("decision_page.html", title=f"VINE: {decision.title}", decisions=checked)
    write_bytes(out, text.encode())
    return out


def build_report(results: Results, config: ReportConfig) -> str:
    """The whole page as text."""
    blocks = headline.blocks(results.episodes, results.labels, results.operator_success, results.planned)
    traces = [load_trace(file, results.path) for file in trace_files(results.path)]
    films, decisions = _films(traces, blocks, config)
    return document(
        "report.html",
        title=f"VINE report: {results.name}",
        results=results,
        facts=_facts(results, blocks),
        findings=[(block, headline.finding(block)) for block in blocks],
        named=len(blocks) > 1,
        blocks=blocks,
        holm=headline.holm_rows(blocks),
        verdict=headline.verdict,
        weak_share=round(100 * headline.WEAK_SHARE),
        min_coverage=statistics.MIN_COVERAGE,
        arms=ARMS,
        scenes=[(block, outcomes.scene_grid(block), outcomes.two_by_two(block)) for block in blocks],
        endings=[
            (
                block,
                [(tone, kind) for kind, tone in outcomes.outcome_tones(block.rows).items()],
                outcomes.endings(block),
                outcomes.cost(block),
            )
            for block in blocks
        ],
        subgoals=calibration.subgoals(results, blocks, config.resamples),
        plans=calibration.plans(results.episodes, blocks, config.resamples),
        explained=results.explained,
        most=MOST,
        films=films if traces else None,
        decisions=decisions[: config.trees],
        configuration=json.dumps(results.configuration, indent=1, ensure_ascii=False),
    )


def scene_range(block: Block) -> str:
    """`300 test scenes (400–699)`: how many, of which list if the task is installed here."""
    scenes = block.scenes
    kind = " and ".join(list_names(block.task, block.split, scenes))
    return f"{len(scenes)} {kind + ' ' if kind else ''}scenes ({min(scenes)}–{max(scenes)})"


def _facts(results: Results, blocks: Sequence[Block]) -> dict[str, str]:
    """What the run was, on one line."""
    return {
        "task": ", ".join(dict.fromkeys(block.task for block in blocks)),
        "split": ", ".join(dict.fromkeys(block.split for block in blocks)),
        "scenes": "; ".join(dict.fromkeys(scene_range(block) for block in blocks)),
        "training seeds": ", ".join(str(s) for s in sorted(results.episodes["training_seed"].unique())),
        "episodes": str(len(results.episodes)),
        "revision": str(results.stamp.get("revision", "unknown")),
        "date": str(results.stamp.get("date", "unknown")),
    }


def _films(
    traces: Sequence[Trace], blocks: Sequence[Block], config: ReportConfig
) -> tuple[list[tuple[Block, str | None, list[film.Kind]]], list[Decided]]:
    """Filmstrips of every block, and the first decision of every main episode in them.

    Without a rival beside the main arm there are no strips, and decisions are those of every trace.
    """
    films, decisions = [], []
    for block in blocks:
        own = [t for t in traces if (t.task, t.split) == (block.task, block.split)]
        rival = film.filmed_rival(block, own)
        kinds = film.kinds(block, rival, own, config.per_kind, config.camera) if rival else []
        films.append((block, rival, kinds))
        shown = [(pair.main, kind.name) for kind in kinds for pair, _ in kind.shown]
        if not rival:
            shown = [(t, "solved" if t.success else "failed") for t in own]
        decisions += [d for trace, kind in shown for d in decided(trace, kind, config.camera)]
    return films, decisions
