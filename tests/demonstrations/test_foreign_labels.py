"""Labels and subtasks that other tools wrote: read in every spelling, never guessed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vine_vla import EpisodeOutcome, Outcome, VineError
from vine_vla.data import open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.segmentation import infer_outcomes, verb_name
from vine_vla.data.sidecars.outcomes import as_outcome, read_outcome

S, F, T, U = EpisodeOutcome.SUCCESS, EpisodeOutcome.FAILURE, EpisodeOutcome.TRUNCATED, EpisodeOutcome.UNKNOWN
LENGTH = 10


@pytest.fixture
def foreign(tmp_path):
    """A LeRobot dataset of three episodes as another tool writes it; `columns` are per-frame booleans."""
    from lerobot.datasets import LeRobotDataset

    def make(
        columns: dict[str, list[list[bool]]] | None = None, tasks: list[list[str]] | None = None
    ) -> Path:
        columns, root = columns or {}, tmp_path / "foreign"
        features = {
            "observation.state": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]},
            "action": {"dtype": "float32", "shape": (2,), "names": ["a", "gripper"]},
            "observation.images.top": {
                "dtype": "image",
                "shape": (16, 24, 3),
                "names": ["height", "width", "channels"],
            },
            **{name: {"dtype": "bool", "shape": (1,), "names": None} for name in columns},
        }
        dataset = LeRobotDataset.create(
            "vine/foreign", fps=10, root=root, features=features, use_videos=False
        )
        rng = np.random.default_rng(0)
        for episode in range(3):
            for t in range(LENGTH):
                frame = {
                    "observation.state": rng.normal(size=2).astype(np.float32),
                    "action": np.array([0, t in (3, 4, 5, 8)], np.float32),
                    "observation.images.top": np.full((16, 24, 3), 20 * t + episode, np.uint8),
                    "task": (tasks or [["go"] * LENGTH] * 3)[episode][t],
                }
                frame |= {name: np.array([values[episode][t]]) for name, values in columns.items()}
                dataset.add_frame(frame)
            dataset.save_episode()
        dataset.finalize()
        return root

    return make


def with_episode_columns(root: Path, **columns: list[object]) -> Path:
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pd.read_parquet(path)
    for name, values in columns.items():
        table[name.replace("__", ".")] = values
    table.to_parquet(path, index=False)
    return root


def outcomes(root: Path) -> list[EpisodeOutcome]:
    return [d.outcome for d in open_dataset(root).demonstrations]


ALL, NONE, LAST = [True] * LENGTH, [False] * LENGTH, [False] * (LENGTH - 1) + [True]


def test_without_labels_everything_is_unknown(foreign):
    dataset = open_dataset(foreign())
    assert [(d.outcome, d.outcome_source, d.segments) for d in dataset.demonstrations] == [(U, None, ())] * 3
    assert dataset.images(1, [2, 0], "top")[:, 0, 0, 0].tolist() == [41, 1]  # images kept as PNG in the table


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"next.success": [LAST, NONE, NONE], "next.done": [LAST, LAST, NONE]}, [S, F, U]),
        ({"next.success": [LAST, NONE, NONE]}, [S, U, U]),  # False alone is only filling
        ({"next.success": [LAST, NONE, NONE], "next.truncated": [NONE, LAST, NONE]}, [S, T, U]),
        ({"is_episode_successful": [ALL, NONE, ALL]}, [S, F, S]),
        ({"is_success": [LAST, NONE, LAST]}, [S, F, S]),
        ({"success": [ALL, NONE, NONE]}, [S, F, F]),
        ({"next.done": [LAST, LAST, LAST]}, [U, U, U]),  # ended, but nobody says how
    ],
)
def test_per_frame_labels(foreign, columns, expected):
    assert outcomes(foreign(columns)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"success": [True, False, None]}, [S, F, U]),
        ({"is_success": [1.0, 0.0, np.nan]}, [S, F, U]),
        ({"is_episode_successful": ["success", "Failed", "unknown"]}, [S, F, U]),
        ({"success": ["success", "truncated", ""]}, [S, T, U]),
    ],
)
def test_per_episode_labels(foreign, values, expected):
    assert outcomes(with_episode_columns(foreign(), **values)) == expected


def test_an_unknown_word_is_refused(foreign):
    with pytest.raises(VineError, match="unknown outcome 'splendid'.*episode 1"):
        open_dataset(with_episode_columns(foreign(), success=["success", "splendid", ""]))


@given(st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers())
def test_no_value_is_taken_for_a_label_it_is_not(value):
    """Whatever stands there: a known word, or an error; absent is unknown."""
    try:
        outcome = as_outcome(value)
    except ValueError:
        assert value is not None
        return
    if outcome is S:
        assert value in (True, 1) or str(value).strip().lower().startswith(("succe", "true", "yes", "1"))
    if value is None:
        assert outcome is U


def test_nothing_at_all_is_unknown():
    assert read_outcome({}, [], lambda name: []) is U


def test_task_switches_become_segments(foreign):
    tasks = [
        ["grasp the cup"] * 4 + ["place it"] * 6,
        ["grasp the cup"] * 3 + ["place it"] * 2 + ["grasp the cup"] * 5,
        ["grasp the cup"] * 10,
    ]
    root = with_episode_columns(foreign(tasks=tasks), success=[True, False, None])
    dataset = open_dataset(root)
    found = [
        [(s.start, s.end, str(s.subgoal), s.outcome) for s in d.segments] for d in dataset.demonstrations
    ]
    assert found == [
        [(0, 4, "grasp_the_cup()", Outcome.REACHED), (4, 10, "place_it()", Outcome.REACHED)],
        [
            (0, 3, "grasp_the_cup()", Outcome.SLIPPED),
            (3, 5, "place_it()", Outcome.REACHED),
            (5, 10, "grasp_the_cup()", Outcome.DEAD),
        ],
        [(0, 10, "grasp_the_cup()", Outcome.CENSORED)],
    ]
    assert dataset.demonstrations[0].segments[0].text == "grasp the cup"
    assert (
        dataset.demonstrations[1].instruction == "grasp the cup"
    )  # the first frame's, not LeRobot's set order
    annotated = annotate(root, Sources(segments="task"))
    assert [d.segments for d in annotated.demonstrations] == [
        tuple(s.__class__(s.start, s.end, s.subgoal, s.text, s.outcome, t.outcome_source) for s, t in pairs)
        for pairs in [
            list(zip(d.segments, e.segments, strict=True))
            for d, e in zip(dataset.demonstrations, annotated.demonstrations, strict=True)
        ]
    ]


def test_sarm_columns_become_segments(foreign):
    root = with_episode_columns(
        foreign(),
        success=[True, True, True],
        dense_subtask_names=[["reach", "lift"], None, []],
        dense_subtask_start_frames=[[0, 5], None, []],
        dense_subtask_end_frames=[[4, 9], None, []],
        sparse_subtask_names=[["do all"], ["do all"], None],
        sparse_subtask_start_frames=[[0], [2], None],
        sparse_subtask_end_frames=[[9], [9], None],
    )
    found = [[(s.start, s.end, s.text) for s in d.segments] for d in open_dataset(root).demonstrations]
    assert found == [[(0, 5, "reach"), (5, 10, "lift")], [(2, 10, "do all")], []]


def test_language_rows_become_segments(foreign):
    """As LeRobot 0.6 writes them: `language_persistent`, the same list on every frame of an episode."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq
    from lerobot.datasets.io_utils import write_table_one_row_group_per_episode
    from lerobot.datasets.language import PERSISTENT_ROW_FIELDS, language_feature_info
    from lerobot.datasets.language_render import active_at

    root = foreign()
    path = root / "data/chunk-000/file-000.parquet"

    def row(content, time, style="subtask"):
        rest = {"camera": None, "tool_calls": None}
        return {"role": "assistant", "content": content, "style": style, "timestamp": time, **rest}

    lists = [
        [row("lift it", 0.4), row("reach", 0.0), row("first reach, then lift", 0.0, "plan")],
        [row("reach", 0.2)],
        [],
    ]
    table = pq.read_table(path)
    rows = [lists[e] for e in table["episode_index"].to_pylist()]
    plain = pa.struct(
        [(n, pa.float32() if n == "timestamp" else pa.string()) for n in PERSISTENT_ROW_FIELDS[:-1]]
    )
    plain = pa.list_(pa.struct([*plain, ("tool_calls", pa.list_(pa.string()))]))
    column = pa.array(rows, plain)  # no tool calls here, whose type pyarrow cannot build
    write_table_one_row_group_per_episode(table.append_column("language_persistent", column), path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["language_persistent"] = language_feature_info()["language_persistent"]
    (root / "meta/info.json").write_text(json.dumps(info))
    dataset = open_dataset(root)
    found = [[(s.start, s.end, s.text, s.outcome) for s in d.segments] for d in dataset.demonstrations]
    assert found == [
        [(0, 4, "reach", Outcome.CENSORED), (4, 10, "lift it", Outcome.CENSORED)],
        [(2, 10, "reach", Outcome.CENSORED)],
        [],
    ]
    for t in range(LENGTH):  # the same subtask as LeRobot's own resolver says
        active = active_at(t / 10 + 1e-6, persistent=lists[0], style="subtask")
        assert active["content"] == next(s[2] for s in found[0] if s[0] <= t < s[1])


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=6), st.sampled_from(list(EpisodeOutcome)))
def test_inferred_outcomes_keep_the_rules(names, outcome):
    found = infer_outcomes(names, outcome)
    assert len(found) == len(names)
    assert (Outcome.DEAD in found) == (outcome is F and bool(names))
    if outcome is F and names:
        assert found.index(Outcome.DEAD) == len(names) - 1
    for place, name in enumerate(names):
        assert (found[place] is Outcome.SLIPPED) == (name in names[place + 1 :])
    if outcome in (T, U):
        assert set(found) <= {Outcome.SLIPPED, Outcome.CENSORED}


@given(st.text(max_size=20))
def test_any_text_gives_a_verb(text):
    from vine_vla.core.graph import NAME

    assert NAME.fullmatch(verb_name(text))
