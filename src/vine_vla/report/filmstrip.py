"""Filmstrips: one scene in two arms, with prediction and true result under each subgoal's frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vine_vla.core.errors import VineError
from vine_vla.core.options import parse_subgoal
from vine_vla.report import charts
from vine_vla.report.markup import Markup, element, join
from vine_vla.report.overlay import drawn_frame
from vine_vla.report.parts import tag
from vine_vla.report.traces import Executed, Trace

KINDS = ("saved", "lost", "both failed")
RESULT_TONE = {"reached": "good", "goal": "good", "slipped": "even", "dead": "poor"}


@dataclass(frozen=True)
class Pair:
    """One scene in the main arm and in a rival."""

    main: Trace
    rival: Trace

    @property
    def kind(self) -> str | None:
        """`saved`, `lost`, `both failed`; None where both solved it."""
        if self.main.success:
            return None if self.rival.success else "saved"
        return "lost" if self.rival.success else "both failed"


def pairs(traces: Sequence[Trace], main: str, rival: str) -> list[Pair]:
    """Traces of the two arms on the same task, split, scene and seeds, by scene."""
    keyed: dict[str, dict[tuple[object, ...], Trace]] = {main: {}, rival: {}}
    for trace in traces:
        if trace.label in keyed:
            key = (trace.task, trace.split, trace.scene, trace.training_seed, trace.policy_seed)
            keyed[trace.label][key] = trace
    return [
        Pair(keyed[main][key], keyed[rival][key]) for key in sorted(keyed[main].keys() & keyed[rival].keys())
    ]


def chosen(found: Sequence[Pair], per_kind: int) -> Mapping[str, list[Pair]]:
    """The first `per_kind` pairs of each kind by scene number: a rule, so that nobody picks favourites."""
    return {kind: [pair for pair in found if pair.kind == kind][:per_kind] for kind in KINDS}


def strips(pair: Pair, camera: str) -> Markup:
    """Both arms' strips of one scene; the first choice in which they differ is marked."""
    differ = _first_difference(pair.main.executed, pair.rival.executed)
    title = f"Scene {pair.main.scene}"
    said = element("q", pair.main.instruction) if pair.main.instruction else None
    return element(
        "article",
        element("h4", title, " ", said),
        strip(pair.main, camera, differ),
        strip(pair.rival, camera, differ),
        class_="pair",
    )


def strip(trace: Trace, camera: str, differ: int | None) -> Markup:
    """One episode: a cell a subgoal, then how it ended."""
    replans = {decision.step for decision in trace.decisions[1:]}
    cells = [
        _cell(trace, executed, camera, differs=place == differ, replanned=executed.start in replans)
        for place, executed in enumerate(trace.executed)
    ]
    last = trace.frames[-1] if trace.frames else None
    why = ", ".join(dict.fromkeys(word for word in (trace.outcome, trace.reason) if word))
    ending = "solved" if trace.success else f"failed: {why or 'no reason given'}"
    stopped = (
        trace.decisions[-1].reason if not trace.success and trace.decisions and not trace.executed else ""
    )
    cells.append(
        element(
            "li",
            drawn_frame(last, camera, alt=f"end of scene {trace.scene} in {trace.label}: {ending}")
            if last
            else None,
            element("p", tag(ending, "good" if trace.success else "poor")),
            element("p", stopped, class_="why") if stopped else None,
            class_="cell end",
        )
    )
    state = "good" if trace.success else "poor"
    name = element(
        "h5",
        trace.label,
        " ",
        tag("solved" if trace.success else "failed", state),
    )
    return element("div", name, element("ol", cells, class_="strip", tabindex="0"), class_="arm")


def _cell(trace: Trace, executed: Executed, camera: str, *, differs: bool, replanned: bool) -> Markup:
    frame = trace.frame_at(executed.start)
    name = executed.text or executed.subgoal
    predicted = executed.predicted
    if predicted is not None:
        spread = ""
        if executed.lower is not None and executed.upper is not None:
            spread = f" [{executed.lower:.2f}, {executed.upper:.2f}]"
        spoken = f"predicted {predicted:.2f}{spread}"
        forecast = element(
            "p",
            charts.meter(predicted, executed.lower, executed.upper, spoken),
            element("span", f"{predicted:.2f}", class_="value"),
            class_="forecast",
            title=f"P(goal or reached) when chosen: {spoken}",
        )
    else:
        forecast = element("p", "no prediction", class_="forecast faint")
    marks = []
    if replanned:
        marks.append(tag("replanned"))
    if differs:
        marks.append(tag("choices part here", "mark"))
    result = tag(executed.result, RESULT_TONE.get(executed.result, "even"))
    alt = f"{trace.label}, scene {trace.scene}, step {executed.start}: {name}"
    return element(
        "li",
        drawn_frame(frame, camera, focus=_arguments(executed), alt=alt) if frame else None,
        element("p", name, class_="subgoal", title=executed.subgoal),
        forecast,
        element("p", result, join([" ", *marks])),
        class_="cell differs" if differs else "cell",
    )


def _arguments(executed: Executed) -> tuple[str, ...]:
    try:
        return parse_subgoal(executed.subgoal).args
    except VineError:  # an arm without subgoals (`flat`) names its whole episode as it likes
        return ()


def _first_difference(a: Sequence[Executed], b: Sequence[Executed]) -> int | None:
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x.subgoal != y.subgoal:
            return place
    return min(len(a), len(b)) if len(a) != len(b) else None
