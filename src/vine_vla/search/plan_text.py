"""A plan as lines for a terminal: the scene, the subgoals in order, every option, what was pruned and why."""

from __future__ import annotations

import re
import textwrap

from vine_vla.core.graph import SceneGraph
from vine_vla.core.protocols import Plan, PlanStatus, RankedOption
from vine_vla.core.text import format_graph

WIDTH = 110


def plan_lines(graph: SceneGraph, plan: Plan) -> list[str]:
    """The plan made in `graph`, in lines of at most about `WIDTH` characters."""
    lines = ["scene graph", *_indented(_rounded(format_graph(graph)).splitlines())]
    lines += ["", *textwrap.wrap(f"{plan.status}: {plan.reason}", WIDTH, subsequent_indent="  ")]
    if plan.status is PlanStatus.PLANNED:
        lines += ["", "plan", *_steps(plan)]
    kept = [o for o in plan.options if o.pruned is None]
    pruned = [o for o in plan.options if o.pruned is not None]
    if kept:
        lines += ["", *_table(kept)]
    if pruned:
        lines += ["", f"pruned ({len(pruned)} of {len(plan.options)})"]
        for option in pruned:
            lines += _indented(textwrap.wrap(f"{option.text}: {option.pruned}", WIDTH - 2))
    nodes, calls = _count(plan.expansions, "expansion"), _count(plan.model_calls, "model call")
    return [*lines, "", f"{nodes}, {calls}, {1000 * plan.seconds:.0f} ms"]


def _steps(plan: Plan) -> list[str]:
    """The subgoals in order, each with its sentence if the root knows it."""
    sentences = {o.subgoal: o.text for o in plan.options}
    width = max(len(str(s)) for s in plan.subgoals)
    return [
        f"  {place}. {str(subgoal):<{width}}  {sentences.get(subgoal, '')}".rstrip()
        for place, subgoal in enumerate(plan.subgoals, 1)
    ]


def _table(options: list[RankedOption]) -> list[str]:
    width = max(6, *(len(o.text) for o in options))
    lines = [f"{'option':<{width}}  feasibility  interval      spread  prior  support  visits"]
    for o in options:
        interval = f"[{o.lower:.2f}, {o.upper:.2f}]"
        lines.append(
            f"{o.text:<{width}}  {o.feasibility:>11.2f}  {interval}  {o.spread:>6.2f}  "
            f"{o.prior:>5.2f}  {o.support:>7.2f}  {o.visits:>6}"
        )
    return lines


def _rounded(text: str) -> str:
    return re.sub(r"-?\d+\.\d{4,}(e-?\d+)?", lambda found: f"{float(found[0]):.3f}", text)


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
