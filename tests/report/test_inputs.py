"""Malformed results: one line that names the file, the field and the correction; nothing is guessed."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vine_vla.core.errors import VineError
from vine_vla.report import load_results, load_trace, trace_files


def change(file, column, value, row=3):
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table.loc[row, column] = value
    table.to_csv(file, index=False)


def test_a_run_reads_back(finished_run):
    found = load_results(finished_run)
    assert found.labels == [
        *("imitate", "success-only", "success-only (slips-removed)", "greedy", "vine", "oracle-skill")
    ]
    assert len(found.episodes) == 20 * 6 and set(found.episodes["success"]) == {0.0, 1.0}
    assert found.run["settings"]["task"] == "line"
    assert set(found.feasibility["verb"]) == {"grasp_long", "grasp_short", "insert"}
    traces = [load_trace(file, finished_run) for file in trace_files(finished_run)]
    assert {t.label for t in traces} == set(found.labels)
    first = traces[0]
    assert first.frames[0].graph is not None and Path(first.frames[0].images["front"]).is_file()


def test_packed_tables_read_the_same(results_copy):
    before = load_results(results_copy).episodes
    file = results_copy / "episodes.csv"
    (results_copy / "episodes.csv.gz").write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(VineError, match=r"both episodes\.csv and episodes\.csv\.gz"):
        load_results(results_copy)
    file.unlink()
    pd.testing.assert_frame_equal(before, load_results(results_copy).episodes)


def test_an_episode_that_could_not_be_scored_stays_unknown(results_copy):
    change(results_copy / "episodes.csv", "success", "")
    assert np.isnan(load_results(results_copy).episodes["success"].iloc[3])


@pytest.mark.parametrize(
    ("file", "column", "value", "said"),
    [
        ("episodes.csv", "success", "maybe", r"success is 'maybe' \(.*episodes\.csv, line 5\): write 0 or 1"),
        ("episodes.csv", "scene", "x", r"scene is 'x', not a whole number \(.*line 5\)"),
        ("episodes.csv", "scene", "1.5", r"scene is '1\.5', not a whole number"),
        ("episodes.csv", "plan_p", "1.2", r"plan_p is 1\.2 \(.*line 5\): a probability lies in \[0, 1\]"),
        ("episodes.csv", "plan_seconds", "inf", r"plan_seconds is 'inf', not a number"),
        ("feasibility.csv", "predicted", "", r"predicted is nan, not a number"),
        ("feasibility.csv", "predicted", "-0.1", r"predicted is -0\.1"),
        ("feasibility.csv", "reached", "2", r"reached is '2'"),
    ],
)
def test_bad_cells_name_file_line_and_column(results_copy, file, column, value, said):
    change(results_copy / file, column, value)
    with pytest.raises(VineError, match=said):
        load_results(results_copy)


def test_missing_columns_rows_and_files(results_copy, tmp_path):
    file = results_copy / "episodes.csv"
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table.drop(columns=["arm", "reason"]).to_csv(file, index=False)
    with pytest.raises(VineError, match="no column arm, reason"):
        load_results(results_copy)
    table.iloc[:0].to_csv(file, index=False)
    with pytest.raises(VineError, match="no episodes"):
        load_results(results_copy)
    pd.concat([table, table.iloc[[4]]]).to_csv(file, index=False)
    with pytest.raises(VineError, match=r"ran scene \d+ twice with the same seeds"):
        load_results(results_copy)
    file.unlink()
    with pytest.raises(VineError, match=r"no episodes\.csv"):
        load_results(results_copy)
    with pytest.raises(VineError, match="no such results directory"):
        load_results(tmp_path / "nowhere")


def test_cut_files(results_copy):
    file = results_copy / "feasibility.csv"
    packed = gzip.compress(file.read_bytes())
    file.unlink()
    (results_copy / "feasibility.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(VineError, match="not readable as CSV"):
        load_results(results_copy)
    (results_copy / "feasibility.csv.gz").unlink()
    (results_copy / "run.json").write_text('{"settings": {')
    with pytest.raises(VineError, match=r"damaged JSON.*run\.json"):
        load_results(results_copy)
    (results_copy / "run.json").write_text("[1]")
    with pytest.raises(VineError, match="not a JSON object"):
        load_results(results_copy)


def test_traces_say_which_field_is_wrong(results_copy):
    file = trace_files(results_copy)[0]
    data = json.loads(file.read_text())

    def broken(said, **changes):
        file.write_text(json.dumps(data | changes))
        with pytest.raises(VineError, match=said):
            load_trace(file, results_copy)

    frame = data["frames"][0]
    broken(r"Expected `int`, got `str` - at `\$\.scene` \(.*\.json\): record", scene="four")
    broken(r"frames\[0\]\.step", frames=[frame | {"step": None}])
    broken(
        r"lies outside the results \(.*frames\[0\]", frames=[frame | {"images": {"front": "../../../x.jpg"}}]
    )
    broken(r"no image 'gone\.jpg'", frames=[frame | {"images": {"front": "gone.jpg"}}])
    broken(r"field `subgoal` - at `\$\.executed\[0\]`.*: record", executed=[{"start": 0, "end": 1}])
    broken(r"malformed line.*frames\[0\]", frames=[frame | {"graph": "what?"}])
    broken(r"Expected `array`, got `str` - at `\$\.executed`", executed="x")
