"""The page: one HTML file that needs nothing else, put together from the sections."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.evaluation.arms import ARMS
from vine_vla.evaluation.final import list_names
from vine_vla.report import calibration, explanation, filmstrip, headline, notes, outcomes, tree
from vine_vla.report.headline import Block, as_mapping
from vine_vla.report.inputs import Results, load_results
from vine_vla.report.markup import Markup, element, join, json_text, script_text
from vine_vla.report.overlay import drawn_frame
from vine_vla.report.parts import note, percent, tag
from vine_vla.report.traces import Frame, Trace, load_trace, trace_files
from vine_vla.storage.files import write_bytes

MAX_BYTES = 8_000_000
"""A larger page is refused: nobody opens it on a slow machine."""


@dataclass(frozen=True)
class ReportConfig:
    """What goes into a report.

    Args:
        camera: role of the camera shown in filmstrips.
        per_kind: scenes shown a kind (saved, lost, both failed), at least 1.
        trees: decisions whose tree can be opened, at least 0.
        resamples: bootstrap resamples of reliability bands and AUROC.
    """

    camera: str = "front"
    per_kind: int = 3
    trees: int = 6
    resamples: int = 300


@dataclass(frozen=True)
class Decided:
    """A decision with a tree to show: `where` is the file it came from, `frame` what was seen, if known."""

    title: str
    tree: Mapping[str, object]
    where: str
    frame: Frame | None = None


def decided(trace: Trace, kind: str, index: int = 0) -> list[Decided]:
    """The trace's decision number `index`, if it was recorded with a tree."""
    if index >= len(trace.decisions) or not trace.decisions[index].tree.get("nodes"):
        return []
    decision = trace.decisions[index]
    title = f"Scene {trace.scene}, {trace.label} at step {decision.step} ({kind})"
    return [Decided(title, decision.tree, str(trace.file), trace.frame_at(decision.step))]


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
    return _write(target, data)


def write_decision(decision: Decided, out: Path, camera: str = "front") -> Path:
    """Write a page about one decision alone: its tree, scene and options. Returns `out`."""
    inner = element("h2", decision.title), _decision([decision], camera)
    top = element("header", element("p", "VINE decision", class_="eyebrow"), class_="top")
    body = join([top, element("main", element("section", inner, id="decision"))])
    return _write(out, _document(f"VINE: {decision.title}", body, _views([decision])).encode())


def _write(target: Path, data: bytes) -> Path:
    write_bytes(target, data)
    return target


def _views(shown: Sequence[Decided]) -> list[dict[str, object]]:
    return [tree.tree_view(d.tree, d.title, d.where) for d in shown]


def build_report(results: Results, config: ReportConfig) -> str:
    """The whole page as text."""
    found = headline.blocks(results.episodes, results.labels, operator_success(results.run), results.planned)
    traces = [load_trace(file, results.path) for file in trace_files(results.path)]
    named = len(found) > 1
    recorded: list[Decided] = []
    films = _films(traces, found, config, recorded)
    shown = recorded[: config.trees]
    content: list[tuple[str, str, str, object]] = [
        ("results", "Success", "Success", [[_results(b, named) for b in found], headline.holm_table(found)]),
        ("scenes", "Scenes", "Scene by scene", [_scenes(b, named) for b in found]),
        ("ends", "Endings and cost", "How episodes ended", [_ends(b, named) for b in found]),
        (
            *("calibration", "Probabilities", "Are the probabilities right?"),
            calibration.sections(results, found, config.resamples),
        ),
        ("explained", "Explained", "What it rests on", explanation.explanation(results.explained)),
        ("film", "Filmstrips", "What happened", films),
        ("decision", "Decision", "Why it chose so", _decision(shown, config.camera)),
        ("run", "Run", "What was run", _run(results)),
    ]
    links = [element("li", element("a", name, href=f"#{anchor}")) for anchor, name, _, _ in content]
    sections = [
        element("section", element("h2", title), inner, id=anchor) for anchor, _, title, inner in content
    ]
    body = [
        _top(results, found),
        element("nav", element("ul", links), aria_label="Sections"),
        element("main", sections),
        element("footer", "Made by `vine report` from the files of this results directory."),
    ]
    return _document(f"VINE report: {results.name}", join(body), _views(shown))


def operator_success(run: Mapping[str, object]) -> float | None:
    """The operators' own success rate, if the run's description has it."""
    for part in (run, as_mapping(run.get("settings")), as_mapping(run.get("experiment"))):
        value = part.get("operators_success")
        if isinstance(value, list) and value:  # rate with its interval
            value = value[0]
        if isinstance(value, int | float) and 0 <= value <= 1:
            return float(value)
    return None


def _document(title: str, body: Markup, views: Sequence[Mapping[str, object]]) -> str:
    """The page around the sections. The policy lets nothing run or load but our own script, by its hash."""
    folder = files("vine_vla.report")
    style = script_text(folder.joinpath("report.css").read_text(encoding="utf-8"))
    script = script_text(folder.joinpath("report.js").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
    policy += "base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content=policy,
        ),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", style),
    )
    data = element("script", json_text(views), type="application/json", id="trees") if views else None
    page = element("html", head, element("body", body, data, element("script", script)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _top(results: Results, found: Sequence[Block]) -> Markup:
    """Title, the finding in words, and what the run was on one line."""
    leads = []
    for block in found:
        where = element("b", f"{block.task}, {block.split}: ") if len(found) > 1 else None
        leads.append(element("p", where, headline.finding(block), class_="lead"))
    stamp = _stamp(results)
    facts = {
        "task": ", ".join(dict.fromkeys(block.task for block in found)),
        "split": ", ".join(dict.fromkeys(block.split for block in found)),
        "scenes": "; ".join(dict.fromkeys(scene_range(block) for block in found)),
        "training seeds": ", ".join(str(s) for s in sorted(results.episodes["training_seed"].unique())),
        "episodes": str(len(results.episodes)),
        "revision": str(stamp.get("revision", "unknown")),
        "date": str(stamp.get("date", "unknown")),
    }
    listed = [element("div", element("dt", k), element("dd", v)) for k, v in facts.items()]
    return element(
        "header",
        element("p", "VINE report", class_="eyebrow"),
        element("h1", results.name),
        leads,
        element("dl", listed, class_="facts"),
        class_="top",
    )


def scene_range(block: Block) -> str:
    """`300 test scenes (400–699)`: how many, of which list if the task is installed here."""
    scenes = block.scenes
    kind = " and ".join(list_names(block.task, block.split, scenes))
    return f"{len(scenes)} {kind + ' ' if kind else ''}scenes ({min(scenes)}–{max(scenes)})"


def _results(block: Block, named: bool) -> Markup:
    known = [(name, ARMS[name].about) for name in block.labels if name in ARMS]
    described = [element("div", element("dt", name), element("dd", about)) for name, about in known]
    single = block.rows["training_seed"].nunique() * block.rows["policy_seed"].nunique() == 1
    weak = notes.OPERATORS_UNKNOWN
    if block.operator_success is not None:
        weak = notes.OPERATORS.format(
            rate=percent(block.operator_success), share=percent(headline.WEAK_SHARE)
        ).strip()
    how = notes.ONE_EPISODE if single else notes.SEVERAL_SEEDS
    return join(
        [
            _heading(block, named),
            headline.arms_table(block),
            headline.differences_table(block) if block.comparisons else None,
            note(notes.RESULTS.format(how=how, weak=weak)),
            note(notes.MEASURED),
            _folded("What the arms are", element("dl", described, class_="arms")) if described else None,
        ]
    )


def _scenes(block: Block, named: bool) -> Markup:
    rival = block.rival.b if block.rival else None
    return join(
        [
            _heading(block, named),
            note(notes.SCENES.format(main=block.main, rival=rival)) if rival else None,
            outcomes.paired_grid(block),
            outcomes.two_by_two(block) if block.comparisons else None,
        ]
    )


def _ends(block: Block, named: bool) -> Markup:
    return join(
        [
            _heading(block, named),
            note(notes.ENDINGS),
            outcomes.endings(block),
            element("h3", "Planning"),
            note(notes.PLANNING),
            outcomes.cost(block),
        ]
    )


def _heading(block: Block, named: bool) -> Markup | None:
    return element("h3", f"{block.task}, {block.split} split") if named else None


def _folded(title: str, *content: object, opened: bool = False) -> Markup:
    return element("details", element("summary", title), content, open=opened)


def _films(
    traces: Sequence[Trace], found: Sequence[Block], config: ReportConfig, recorded: list[Decided]
) -> list[Markup]:
    """Filmstrips of all blocks; the first decision of every shown main episode goes into `recorded`."""
    if not traces:
        return [note("This run kept no traces, so there is nothing to show here.")]
    box = element("input", type="checkbox", id="overlays", checked=True, autocomplete="off")
    parts = [note(notes.FILMS), element("label", box, "show the scene graph on the frames", class_="switch")]
    for block in found:
        own = [t for t in traces if (t.task, t.split) == (block.task, block.split)]
        rival = _filmed_rival(block, own)
        if rival is None:
            parts.append(
                element(
                    "p", f"No scene of {block.task}, {block.split} has traces of two arms.", class_="note"
                )
            )
            recorded += [d for t in own for d in decided(t, "solved" if t.success else "failed")]
            continue
        kinds = filmstrip.chosen(filmstrip.pairs(own, block.main, rival), config.per_kind)
        titles = {
            "saved": f"{block.main} saved it: {rival} failed",
            "lost": f"{block.main} lost it: {rival} solved it",
            "both failed": "Both failed",
        }
        totals = _totals(block, rival)
        for kind, shown in kinds.items():
            count = tag(f"{len(shown)} shown of {totals[kind]}")
            parts.append(element("h3", titles[kind], " ", count))
            if not shown:
                parts.append(note("There is none." if totals[kind] == 0 else "No trace of them was kept."))
            parts += [filmstrip.strips(pair, config.camera) for pair in shown]
            recorded += [d for pair in shown for d in decided(pair.main, kind)]
    return parts


def _filmed_rival(block: Block, traces: Sequence[Trace]) -> str | None:
    """The headline's rival if it was recorded beside the main arm, else the first arm that was."""
    names = [block.rival.b] if block.rival else []
    names += [name for name in block.labels if name != block.main]
    return next((name for name in names if filmstrip.pairs(traces, block.main, name)), None)


def _totals(block: Block, rival: str) -> Mapping[str, int]:
    """Scenes and seeds of each kind in the whole run."""
    wide = block.rows.pivot_table(
        index=["scene", "training_seed", "policy_seed"], columns="arm", values="success", dropna=False
    )[[block.main, rival]].dropna()
    a, b = wide[block.main] == 1, wide[rival] == 1
    return {"saved": int((a & ~b).sum()), "lost": int((~a & b).sum()), "both failed": int((~a & ~b).sum())}


def _decision(shown: Sequence[Decided], camera: str) -> list[Markup]:
    """The tree of one decision at a time, the scene it was made in, and its options as a table."""
    if not shown:
        return [note("This run kept no search tree.")]
    choices = [element("option", d.title, value=str(i)) for i, d in enumerate(shown)]
    select = element("select", choices, id="chooser", autocomplete="off")
    scenes, tables = [], []
    for i, item in enumerate(shown):
        drawn = drawn_frame(item.frame, camera, alt=item.title) if item.frame else None
        scenes.append(element("div", drawn, data_tree=str(i), hidden=i > 0))
        options = element("h3", f"Its options: {item.title}"), tree.options_table(item.tree)
        tables.append(element("div", options, data_tree=str(i), hidden=i > 0))
    arrows = [element("kbd", arrow) for arrow in "↑↓←→"]
    enter = element("kbd", "Enter")
    keys = (
        "Click a node, or walk with ",
        arrows,
        " and open with ",
        enter,
        "; the small circles unfold a branch.",
    )
    fallback = element("noscript", note("The tree needs JavaScript; the table below does not."))
    panel = element("div", id="panel", class_="panel", aria_live="polite")
    return [
        note(notes.DECISION),
        element("label", "Decision ", select, class_="switch chooser"),
        element("p", keys, class_="keys"),
        element(
            "div",
            element("div", fallback, id="tree", class_="treebox"),
            element("div", scenes, panel, class_="side"),
            class_="decision",
        ),
        *tables,
    ]


def _run(results: Results) -> list[Markup]:
    if not results.run:
        return [note("There is no run.json: configuration, revision and versions are unknown.")]
    stamp = _stamp(results)
    rows = [
        element("tr", element("th", str(k), scope="row"), element("td", str(v))) for k, v in stamp.items()
    ]
    rest = {key: value for key, value in results.run.items() if key != "finished"}
    config = element("pre", json.dumps(rest, indent=1, ensure_ascii=False), class_="config", tabindex="0")
    caption = element("caption", "Revision and versions")
    return [
        element("table", caption, element("tbody", rows), class_="small") if rows else join([]),
        _folded("Resolved configuration, seeds and schedule (run.json)", config, opened=True),
    ]


def _stamp(results: Results) -> Mapping[str, object]:
    """Revision, date and versions: of the end of the run, or of its beginning."""
    return as_mapping(results.run.get("finished")) or as_mapping(results.run.get("begun"))
