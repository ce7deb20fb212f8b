"""Pictures for README and documentation, as PNG: success with intervals, reliability, and one decision.

Drawn with matplotlib from the same numbers as the page: `Block.arms`, `binned`, `tree_view`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from vine_vla.core.errors import VineError
from vine_vla.report.calibration import SUBGOAL, binned
from vine_vla.report.headline import Block, blocks
from vine_vla.report.images import held_objects
from vine_vla.report.inputs import Results
from vine_vla.report.traces import Frame, Trace
from vine_vla.report.tree import tree_view
from vine_vla.storage.files import write_atomically

GREEN, RED, GREY, INK, LINE = "#17694a", "#a63d22", "#7d8a94", "#1b231f", "#dfe4df"
BOXES = ("#ffd84d", "#6fe3ff", "#ff9ad5", "#b6f27c")
DPI = 160


def headline_chart(block: Block, out: Path) -> Path:
    """Success of every arm as bars with 95 % intervals. Returns `out`."""
    rates = block.arms
    figure = Figure(figsize=(7.2, 0.5 * len(rates) + 1.1), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(rates))[::-1]
    middle = rates["success"].to_numpy(float) * 100
    error = np.abs(np.stack([rates["low"], rates["high"]]) * 100 - middle)
    colours = [GREEN if name == block.main else GREY for name in rates.index]
    axes.barh(place, middle, color=colours, height=0.62, alpha=0.9)
    axes.errorbar(middle, place, xerr=error, fmt="none", ecolor=INK, capsize=3, lw=1.2)
    for y, value, high in zip(place, middle, rates["high"] * 100, strict=True):
        axes.text(high + 1.5, y, f"{value:.0f} %", va="center", fontsize=9, color=INK)
    axes.set_yticks(place, list(rates.index))
    axes.set_xlim(0, 110)
    axes.set_xticks(range(0, 101, 20))
    count = len(block.scenes)
    axes.set_xlabel(
        f"success in % of {count} scenes ({block.task}, {block.split} split), 95 % intervals", fontsize=9
    )
    _plain(axes)
    return _save(figure, out)


def reliability_chart(results: Results, arm: str, out: Path, *, source: str = "probe") -> Path:
    """Observed share against predicted P(goal or reached), one line a split. Returns `out`.

    Raises:
        VineError: the arm has no rows of that source.
    """
    rows = results.feasibility
    rows = rows[(rows["arm"] == arm) & (rows["source"] == source)]
    if rows.empty:
        raise VineError(
            f"no {source} rows of arm {arm!r}", where=str(results.path), hint="run the probes first"
        )
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for (split, part), colour in zip(rows.groupby("split"), (GREEN, "#a8551d", "#5a4fa3"), strict=False):
        bins = binned(part, *SUBGOAL)
        if bins:
            predicted, observed, low, high, _ = zip(*bins, strict=True)
            axes.fill_between(predicted, low, high, color=colour, alpha=0.16, lw=0)
            axes.plot(predicted, observed, "o-", color=colour, ms=4, label=f"{split} (n = {len(part)})")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("predicted P(goal or reached)")
    axes.set_ylabel("observed share, 95 % band")
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return _save(figure, out)


def decision_picture(trace: Trace, out: Path, *, decision: int = 0, camera: str = "front") -> Path:
    """One scene's image with its graph beside the decision's tree: the picture of the README. Returns `out`.

    Raises:
        VineError: the trace has no such decision, no tree or no image.
    """
    if decision >= len(trace.decisions) or not trace.decisions[decision].tree.get("nodes"):
        raise VineError(
            f"no tree of decision {decision}", where=str(trace.file), hint="record with frames and trees"
        )
    made = trace.decisions[decision]
    frame = trace.frame_at(made.step)
    if frame is None or not frame.images:
        raise VineError("no image", where=str(trace.file), hint="record the episode with frames")
    view = tree_view(made.tree, "", str(trace.file))
    nodes: Any = view["nodes"]
    figure = Figure(figsize=(11.5, 4.3), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.1))
    _draw_scene(left, frame, camera)
    left.set_title(f"“{trace.instruction}”" if trace.instruction else "the scene", fontsize=10, color=INK)
    _draw_tree(right, nodes)
    right.set_title("feasibility of each option before anything moves", fontsize=10, color=INK)
    return _save(figure, out)


def write_figures(results: Results, traces: Sequence[Trace], folder: Path) -> list[Path]:
    """Everything the results have: `success-TASK-SPLIT.png`, `reliability.png`, `decision.png`."""
    found = blocks(results.episodes, results.labels, scheduled=results.planned)
    made = [headline_chart(b, folder / f"success-{b.task}-{b.split}.png") for b in found]
    probes = results.feasibility[results.feasibility["source"] == "probe"]
    if (probes["arm"] == found[0].main).any():
        made.append(reliability_chart(results, found[0].main, folder / "reliability.png"))
    own = [t for t in traces if t.label == found[0].main and t.frames and t.decisions]
    own = [t for t in own if t.decisions[0].tree.get("nodes")]
    if own:
        # The most telling scene: solved, and against the habit of the demonstrators; the first of them.
        shown = min(own, key=lambda t: (not t.success, not _against_habit(t.decisions[0].tree), t.scene))
        made.append(decision_picture(shown, folder / "decision.png"))
    return made


def _against_habit(tree: Mapping[str, Any]) -> bool:
    """Whether the plan begins with another option than the one of the highest prior."""
    options = tree["nodes"][0]["options"]
    usual = max(range(len(options)), key=lambda k: options[k]["prior"], default=None)
    return bool(tree["variation"]) and tree["variation"][0][1] != usual


def _draw_scene(axes: Axes, frame: Frame, camera: str) -> None:
    role = camera if camera in frame.images else next(iter(frame.images))
    with Image.open(frame.images[role]) as image:
        pixels = np.asarray(image.convert("RGB"))
    high, wide = pixels.shape[:2]
    axes.imshow(pixels, interpolation="lanczos")
    axes.set_axis_off()
    if frame.graph is None:
        return
    held, classes = held_objects(frame.graph), sorted({o.cls for o in frame.graph.objects})
    for item in frame.graph.objects:
        if role not in item.boxes:
            continue
        box, colour = item.boxes[role], BOXES[classes.index(item.cls) % len(BOXES)]
        corner = (box.x_min * wide, box.y_min * high)
        style = "--" if item.id in held else "-"
        axes.add_patch(
            Rectangle(corner, box.width * wide, box.height * high, fill=False, ec=colour, lw=1.8, ls=style)
        )
        name = f"{item.id} (held)" if item.id in held else item.id
        paper = {"facecolor": "#1b231f", "alpha": 0.72, "pad": 1.2, "lw": 0}
        axes.text(corner[0], corner[1] - 1.5, name, fontsize=7, color=colour, va="bottom", bbox=paper)


WIDE, HIGH, STEP, ROW = 1.7, 0.62, 2.2, 0.86
MAX_ROOT, MAX_INNER, MAX_DEPTH, MIN_ROWS_SHOWN = 6, 4, 3, 5


def _draw_tree(axes: Axes, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Root options, what follows on the plan's path and after the usual choice; best first, left to right."""
    children: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        if i and node["via"] != "slipped":
            children.setdefault(node["parent"], []).append(i)
    usual = max(children.get(0, []), key=lambda i: nodes[i]["prior"], default=0)  # what demonstrators do
    places: dict[int, tuple[float, float]] = {}
    row = 0.0

    def put(i: int, depth: int) -> float:
        nonlocal row
        opened = i in (0, usual) or (nodes[i]["best"] and depth < MAX_DEPTH)
        inner = children.get(i, [])[: MAX_ROOT if i == 0 else MAX_INNER] if opened else []
        heights = [put(child, depth + 1) for child in inner]
        if heights:
            y = (heights[0] + heights[-1]) / 2
        else:
            y, row = row, row + ROW
        places[i] = (depth * STEP, y)
        return y

    put(0, 0)
    for i, (x, y) in places.items():
        node = nodes[i]
        best, cut = bool(node["best"]) or i == 0, bool(node["pruned"])
        edge = GREEN if best else RED if cut else GREY
        if i:
            start = places[node["parent"]]
            xs, ys = [start[0] + WIDE, x], [start[1] + HIGH / 2, y + HIGH / 2]
            axes.plot(xs, ys, color=edge, lw=2.2 if best else 1, alpha=1 if best else 0.6, zorder=1)
        face = "#fbe6de" if cut else "#dff0e7" if best and i else "white"
        style = {"boxstyle": "round,pad=0,rounding_size=0.08", "ls": "--" if cut else "-"}
        axes.add_patch(
            FancyBboxPatch((x, y), WIDE, HIGH, fc=face, ec=edge, lw=1.8 if best else 1, zorder=2, **style)
        )
        title = "the scene" if i == 0 else str(node["name"])
        axes.text(
            x + 0.07,
            y + 0.24,
            _short(title, 24),
            fontsize=7.5,
            weight="bold",
            color=INK,
            va="center",
            zorder=3,
        )
        if i == 0:
            said = f"{len(children.get(0, []))} options"
        elif cut:
            said = f"pruned: {node['short']}"
        else:
            said = f"{node['v']:.2f}  [{node['lo']:.2f}, {node['hi']:.2f}]"
            if node["parent"] == 0:
                said += f"   prior {node['prior']:.2f}"
        axes.text(x + 0.07, y + 0.47, said, fontsize=7, color=RED if cut else INK, va="center", zorder=3)
    deepest, lowest = (max(values) for values in zip(*places.values(), strict=True))
    slack = max(MIN_ROWS_SHOWN * ROW - lowest - HIGH, 0.0) / 2  # a small tree keeps the size of its boxes
    axes.set_xlim(-0.1, deepest + WIDE + 0.1)
    axes.set_ylim(lowest + HIGH + 0.1 + slack, -0.1 - slack)
    axes.set_axis_off()


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9)


def _save(figure: Figure, out: Path) -> Path:
    write_atomically(out, lambda file: figure.savefig(file, format="png", dpi=DPI))
    return out
