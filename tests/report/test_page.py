"""The page: self-contained, honest, the statistics' own numbers, and deaf to markup in the data."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vine_vla.cli import main
from vine_vla.core.errors import VineError
from vine_vla.evaluation import statistics
from vine_vla.report import ReportConfig, build_report, load_results, load_trace, trace_files, write_report
from vine_vla.report.figures import write_figures
from vine_vla.report.headline import Block, blocks, finding, verdict
from vine_vla.report.rendering import percent, points

ESCAPES = "\x1b\x07\x9b\u202e"
"""What a terminal takes for commands, and what turns a line's direction."""

EVIL = f"</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>\"'&{ESCAPES}[31m"


@pytest.fixture(scope="module")
def page(finished_run):
    return build_report(load_results(finished_run), ReportConfig(resamples=20))


def rows_of(rates, scenes=100, seed=0, task="plug"):
    """Episodes of arms with exactly these success rates, in random scenes."""
    rng = np.random.default_rng(seed)
    parts = []
    for arm, rate in rates.items():
        success = np.zeros(scenes)
        success[rng.permutation(scenes)[: round(rate * scenes)]] = 1
        table = pd.DataFrame({"task": task, "split": "unseen", "scene": np.arange(400, 400 + scenes)})
        parts.append(
            table.assign(
                **{
                    "arm": arm,
                    "label": arm,
                    "success": success,
                    "outcome": "dead",
                    "reason": "x",
                    "steps": 9,
                },
                **{"training_seed": 0, "policy_seed": 0, "subgoals": 2, "replans": 0, "plan_seconds": 0.01},
                **{"plan_p": 0.5, "model_calls": 1},
            )
        )
    return pd.concat(parts, ignore_index=True)


def block_of(rates, operators=None, **options):
    rows = rows_of(rates, **options)
    return blocks(rows, list(rates), operators)[0]


def test_the_page_needs_nothing_else(page):
    assert len(page.encode()) < 2_000_000
    outside = re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*|@import|url\((?!#|data:)""", page)
    assert outside == []
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))
    assert "default-src &#39;none&#39;" in page and "script-src &#39;sha256-" in page
    assert page.count("<script") == page.count("</script>") == 2


def test_the_page_is_the_same_every_time(finished_run, page):
    assert build_report(load_results(finished_run), ReportConfig(resamples=20)) == page


def test_numbers_are_those_of_the_statistics(finished_run, page):
    episodes = load_results(finished_run).episodes
    rows = episodes.assign(arm=episodes["label"])
    for row in statistics.summarise(rows).itertuples():
        assert f"{percent(row.success)}</td>" in page
        assert f"{row.low * 100:.1f} to {row.high * 100:.1f}" in page
    for rival in ("imitate", "greedy", "success-only (slips-removed)"):
        c = statistics.compare(rows, "vine", rival)
        assert f"{points(c.difference.low)} to {points(c.difference.high)}" in page
        assert f"{c.wins}–{c.losses}–{c.ties}" in page


def test_everything_that_was_asked_for_is_there(page):
    for word in ("saved it", "lost it", "Both failed", "reached", "dead", "AUROC", "ECE", "Brier", "V_mu"):
        assert word in page
    for word in (
        "McNemar p",
        "won–lost–tied",
        "detectable",
        "coverage",
        "model calls, p50",
        "p95",
        "revision",
    ):
        assert word in page
    assert "20 test scenes (400–419)" in page and "insert the plug into the" in page


def test_an_interval_that_covers_zero_is_unresolved():
    near = block_of({"success-only": 0.5, "vine": 0.54})
    assert verdict(near.comparisons[0]) == "unresolved"
    said = finding(near)
    assert "unresolved" in said and "80 % power" in said and "more than" not in said
    assert verdict(block_of({"success-only": 0.3, "vine": 0.7}).comparisons[0]) == "better"
    worse = block_of({"success-only": 0.7, "vine": 0.3})
    assert verdict(worse.comparisons[0]) == "worse" and "points fewer than" in finding(worse)


def test_no_verdict_without_coverage():
    rows = rows_of({"success-only": 0.2, "vine": 0.9})
    rows.loc[rows.index[:10], "success"] = np.nan
    block = blocks(rows, ["success-only", "vine"], None)[0]
    assert verdict(block.comparisons[0]) == "no verdict"
    assert "there is no verdict: only 90.0" in finding(block)


def test_the_headline_takes_the_strongest_fair_rival():
    rates = {
        "success-only": 0.4,
        "success-only (slips-removed)": 0.5,
        "greedy": 0.8,
        "vine": 0.9,
        "oracle-value": 1.0,
    }
    block = block_of(rates)
    assert block.rival is not None and block.rival.b == "success-only (slips-removed)"
    without = block_of(
        {"imitate": 0.4, "greedy": 0.8, "vine": 0.9, "oracle-value": 1.0, "vine (never)": 0.95}
    )
    assert without.rival is not None and without.rival.b == "greedy"


@pytest.mark.parametrize(
    ("operators", "success", "weak"), [(0.6, 0.47, True), (0.6, 0.48, False), (None, 0.1, False)]
)
def test_weak_baselines_are_marked(operators, success, weak):
    block = Block("plug", "seen", pd.DataFrame(), [], "vine", [], [], operators)
    assert block.is_weak("flat", success) == weak
    assert not block.is_weak("imitate", 0.01)


def test_a_weak_baseline_is_marked_on_the_page(results_copy):
    file = results_copy / "episodes.csv"
    table = pd.read_csv(file, keep_default_na=False).replace({"arm": {"imitate": "flat"}})
    table.loc[table["arm"] == "flat", "success"] = 0
    table.to_csv(file, index=False)
    text = build_report(load_results(results_copy), ReportConfig(resamples=20))
    assert (
        text.count(">weak baseline</span>") == 1 and "under 80 % of the operators’ own success, 55.0" in text
    )


def test_a_run_without_probes_traces_or_description(results_copy):
    for name in ("feasibility.csv", "run.json"):
        (results_copy / name).unlink()
    shutil.rmtree(results_copy / "traces")
    text = build_report(load_results(results_copy), ReportConfig())
    for said in ("kept no traces", "kept no search tree", "no run.json", "recorded no predictions"):
        assert said in text
    assert 'id="trees"' not in text


def test_several_tasks_and_seeds_get_holm_and_per_seed(results_copy):
    file = results_copy / "episodes.csv"
    table = pd.read_csv(file, keep_default_na=False)
    again = table.assign(training_seed=1)
    other = pd.concat([table, again]).assign(task="drawer")
    pd.concat([table, again, other]).to_csv(file, index=False)
    text = build_report(load_results(results_copy), ReportConfig(resamples=20))
    assert "Holm p" in text and "per seed" in text and "Seeds are averaged within a scene" in text
    assert "drawer, unseen split" in text and "line, unseen split" in text


def evil_run(folder):
    """The results with markup in every text that the data bring."""
    file = folder / "episodes.csv"
    table = pd.read_csv(file, keep_default_na=False)
    table["reason"] = EVIL
    table.loc[table["arm"] == "greedy", "variant"] = EVIL
    table.to_csv(file, index=False)
    for trace in trace_files(folder):
        data = json.loads(trace.read_text())
        data |= {"instruction": EVIL, "reason": EVIL}
        for entry in data["executed"]:
            entry |= {"text": EVIL, "result": EVIL}
        for decision in data["decisions"]:
            decision["tree"]["instruction"] = decision["tree"]["reason"] = EVIL
            for node in decision["tree"]["nodes"]:
                for option in node["options"]:
                    option["text"] = EVIL
                    if option["pruned"]:
                        option["pruned"]["reason"] = EVIL
        trace.write_text(json.dumps(data))
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"note": EVIL, EVIL: 1}))
    return folder


def test_markup_in_the_data_stays_text(results_copy):
    text = build_report(load_results(evil_run(results_copy)), ReportConfig(resamples=20))
    assert "<script>window" not in text and "<img" not in text
    assert text.count("</script>") == 2 and "&lt;/script&gt;" in text
    assert not set(ESCAPES) & set(text.replace("\\u202e", ""))


def test_too_large_a_page_is_refused(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("vine_vla.report.page.MAX_BYTES", 1000)
    with pytest.raises(VineError, match="--per-kind"):
        write_report(finished_run, tmp_path / "r.html", ReportConfig(resamples=20))
    assert list(tmp_path.iterdir()) == []


def test_pictures_for_documents(finished_run, tmp_path):
    traces = [load_trace(file, finished_run) for file in trace_files(finished_run)]
    files = write_figures(load_results(finished_run), traces, tmp_path)
    assert [f.name for f in files] == ["success-line-unseen.png", "reliability.png", "decision.png"]
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"), float)
        assert min(pixels.shape[:2]) > 300 and pixels.std() > 10
    assert sorted(tmp_path.iterdir()) == sorted(files)


def vine(*arguments):
    command = [
        sys.executable,
        "-c",
        "import sys; from vine_vla.cli import main; sys.exit(main())",
        *arguments,
    ]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200)


def test_the_command_as_a_user(finished_run, tmp_path, capsys):
    made = vine("report", finished_run, "--out", tmp_path / "page.html", "--per-kind", "1", "--trees", "2")
    assert made.returncode == 0 and made.stdout.strip() == str(tmp_path / "page.html"), made.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert main(["report", str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no such results directory" in said


def test_one_tree_from_a_file(finished_run, tmp_path):
    trace = load_trace(trace_files(finished_run)[0], finished_run)
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(dict(trace.decisions[0].tree)))
    made = vine("report", file, "--image", trace.frames[0].images["front"])
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "tree.html").read_text()
    assert "VINE decision" in text and "data:image/jpeg" in text and "grasp_long(plug)" in text
    file.write_text("{}")
    assert main(["report", str(file)]) == 2


def test_repeated_probes_give_the_attainable_auroc(results_copy):
    rows = pd.read_csv(results_copy / "feasibility.csv", keep_default_na=False)
    assert "No probe was repeated" in build_report(load_results(results_copy), ReportConfig(resamples=20))
    rng = np.random.default_rng(0)
    truth = np.linspace(0.05, 0.95, 60)
    first = rows[rows["source"] == "probe"].iloc[[0] * 60].assign(predicted=truth, scene=range(60))
    again = pd.concat([first.assign(reached=(rng.random(60) < truth).astype(int)) for _ in range(8)])
    (results_copy / "repeated").mkdir()
    again.to_csv(results_copy / "repeated" / "feasibility.csv", index=False)
    text = build_report(load_results(results_copy), ReportConfig(resamples=20))
    text = " ".join(text.split())
    said = re.search(
        r"60 probes repeated 8 times: between ([\d.]+) .*? and ([\d.]+) .*?covers ([\d.]+)", text
    )
    low, high, share = map(float, said.groups())
    assert 0.7 < low < high < 0.95 and share > 85


def test_scenes_that_never_ran_lower_the_coverage(results_copy):
    run = json.loads((results_copy / "run.json").read_text())
    run["schedule"]["scenes"] += [500, 501, 502, 503]
    (results_copy / "run.json").write_text(json.dumps(run))
    text = build_report(load_results(results_copy), ReportConfig(resamples=20))
    assert "there is no verdict: only 83.3" in text and ">no verdict<" in text


def test_what_feasibility_rests_on_is_a_section(finished_run, tmp_path):
    folder = tmp_path / "explained"
    shutil.copytree(finished_run, folder)
    rows = {
        "importance": [
            {"verb": "insert", "feature": "socket.side", "n": 40, "importance": 0.2, "value": v, "shown": 0.5}
            | {"effect": e}
            for v, e in (("blocked", -0.4), ("free", 0.1))
        ],
        "decisions": [
            {"source": "scene 3", "with_failures": "grasp_short(plug)", "feasibility": 0.9}
            | {"withheld": EVIL, "withheld_feasibility": 0.95, "regret": 0.6, "nearest_failed": "e1, e2"}
        ],
        "unknown": [{"source": "scene 4", "entropy": 1.0, "votes": "a: 0.50, b: 0.50", "stake": 0.2}],
    }
    (folder / "explain.json").write_text(json.dumps({"cases": 40, "source": "probes", **rows}))
    text = build_report(load_results(folder), ReportConfig(resamples=20))
    for shown in ("socket.side", "−40.0", "grasp_short(plug)", "e1, e2", "1.00", "From 40 cases"):
        assert shown in text
    assert EVIL not in text
    (folder / "explain.json").write_text(json.dumps({"importance": [{"verb": 1}]}))
    with pytest.raises(VineError, match=r"importance\[0\].*explain\.json\): write it anew"):
        load_results(folder)
