"""A user's own words, subgoals, boxes and attempts on a real dataset's excerpt."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vine_vla import Outcome, VineError
from vine_vla.core.graph import Box, Schema
from vine_vla.core.options import EpisodeOutcome
from vine_vla.core.relations import derive_relations
from vine_vla.data import open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.boxes import LabelledObject, frame_graph
from vine_vla.data.export.clips import BoxPerceiver
from vine_vla.data.export.skills import export_skills
from vine_vla.data.lerobot.tables import image_size
from vine_vla.data.problems import label_problems

EXCERPT = Path(__file__).parents[1] / "data/cr5_excerpt"
LABELS, BOXES = EXCERPT / "labels.jsonl", EXCERPT / "boxes.jsonl"

WORDS = {
    "classes": ["usb_stick", "book", "gripper"],
    "attributes": {"cap": ["closed", "open"]},
    "verbs": [
        {"name": "grasp", "arguments": ["usb_stick"], "template": "pick up {0}"},
        {"name": "place", "arguments": ["usb_stick", "book"], "template": "lay {0} onto {1}"},
    ],
    "predicates": ["left_of", "inside", "held"],
}
GRASP = {"verb": "grasp", "args": ["usb_stick"]}
PLACE = {"verb": "place", "args": ["usb_stick", "book"]}
SUBGOALS = [
    {"episode_index": 0, "start": 0, "end": 127, "outcome": "slipped"} | GRASP,
    {"episode_index": 1, "start": 0, "end": 113, "outcome": "reached"} | GRASP,
    {"episode_index": 1, "start": 113, "end": 156, "outcome": None} | PLACE,
]


def lines(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_whole_attempts_hold_the_way_there(tmp_path):
    dataset = annotate(EXCERPT, Sources(labels=LABELS, boxes=BOXES, attempts="whole"), tmp_path / "out")
    found = [[(s.start, s.end) for s in d.segments] for d in dataset.demonstrations]
    assert found == [[(0, 127), (127, 183), (183, 281)], [(0, 156)]]
    warned = [p.what for p in label_problems(dataset.demonstrations, "")]
    assert len(warned) == 1 and warned[0].startswith(
        "2 of 4 segments have no scene graph at their first frame"
    )
    assert "episode 0, frame 127" in warned[0]


def test_what_slipped_last_in_a_failed_episode_is_dead(tmp_path):
    rows = [json.loads(line) for line in LABELS.read_text().splitlines()]
    rows[0] |= {"success": False, "grasp_attempts": rows[0]["grasp_attempts"][:2]}
    dataset = annotate(EXCERPT, Sources(labels=lines(tmp_path / "l.jsonl", rows)), tmp_path / "out")
    assert [s.outcome for s in dataset.demonstrations[0].segments] == [Outcome.SLIPPED, Outcome.DEAD]


def test_a_gripper_that_holds_nothing_is_open_or_empty(tmp_path):
    """`held` is only said where it is true; of that alone perception would learn that it always is."""
    dataset = annotate(EXCERPT, Sources(boxes=BOXES), tmp_path / "out")
    grips = {
        (d.episode_index, f): g["gripper"].attributes["grip"]
        for d in dataset.demonstrations
        for f, g in d.graphs.items()
    }
    assert grips[1, 113] == "holding" and grips[0, 0] == "open"
    nowhere = [json.loads(line) for line in BOXES.read_text().splitlines()]
    for row in nowhere:
        for item in row["objects"]:
            item.pop("held", None)
    dataset = annotate(EXCERPT, Sources(boxes=lines(tmp_path / "b.jsonl", nowhere)), tmp_path / "unheld")
    graphs = [g for d in dataset.demonstrations for g in d.graphs.values()]
    assert all("grip" not in g["gripper"].attributes for g in graphs)  # nobody said


def own(tmp_path, words=None, subgoals=None, boxes=BOXES, **more):
    (tmp_path / "words.json").write_text(json.dumps(WORDS if words is None else words))
    sources = Sources(
        words=tmp_path / "words.json",
        boxes=boxes,
        subgoals=lines(tmp_path / "s.jsonl", SUBGOALS if subgoals is None else subgoals),
        **more,
    )
    return annotate(EXCERPT, sources, tmp_path / "out")


def test_own_words_and_subgoals(tmp_path):
    dataset = own(tmp_path)
    schema = dataset.schema
    assert schema.classes == ("usb_stick", "book", "gripper", "red_card")  # own order, then what boxes name
    assert schema.predicates == ("left_of", "inside", "held")
    assert schema.attributes["cap"] == ("closed", "open")
    first, second = dataset.demonstrations
    assert [(str(s.subgoal), s.outcome, s.text) for s in (*first.segments, *second.segments)] == [
        ("grasp(usb_stick)", Outcome.SLIPPED, "pick up the usb stick"),
        ("grasp(usb_stick)", Outcome.REACHED, "pick up the usb stick"),
        ("place(usb_stick, book)", Outcome.CENSORED, "lay the usb stick onto the book"),
    ]
    assert open_dataset(tmp_path / "out").schema == schema


def test_words_may_come_first_and_are_kept(tmp_path):
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    annotate(EXCERPT, Sources(words=tmp_path / "words.json"), tmp_path / "out")
    subgoals = lines(tmp_path / "s.jsonl", SUBGOALS)
    dataset = annotate(EXCERPT, Sources(subgoals=subgoals), tmp_path / "out")
    assert dataset.schema.verb("place").template == "lay {0} onto {1}"
    assert dataset.demonstrations[1].segments[1].text == "lay the usb stick onto the book"


def test_boxes_may_name_and_describe_their_objects(tmp_path):
    rows = [json.loads(line) for line in BOXES.read_text().splitlines()][:1]
    for number, item in enumerate(rows[0]["objects"]):
        item |= {"id": f"thing_{number}", "attributes": {"shade": "dark", "height": 0.5 * number}}
    dataset = annotate(EXCERPT, Sources(boxes=lines(tmp_path / "b.jsonl", rows)), tmp_path / "out")
    (graph,) = dataset.demonstrations[0].graphs.values()
    assert {o.id for o in graph.objects} == {f"thing_{i}" for i in range(len(rows[0]["objects"]))}
    assert graph["thing_1"].attributes == {"shade": "dark", "height": 0.5}
    assert dataset.schema.attributes["shade"] == ("dark",) and dataset.schema.attributes["height"] == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"colours": []}, "unknown field `colours`.*classes, attributes"),
        ({"predicates": ["on_top_of"]}, "unknown predicate on_top_of.*left_of.*attribute"),
        ({"verbs": [{"name": "wipe", "arguments": ["table"], "template": "wipe {0}"}]}, "unknown classes"),
        (
            {"classes": ["cup"], "verbs": [{"name": "lift", "arguments": ["cup"], "template": "lift it"}]},
            r"template 'lift it' does not fit 1 arguments.*\{0\}",
        ),
        ({"describing": ["colour"]}, "colour is no attribute"),
        ([], "Expected `object`, got `array`.*classes"),
    ],
)
def test_malformed_words(words, message, tmp_path):
    with pytest.raises(VineError, match=message):
        own(tmp_path, words=words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": 999}, "frames 0 to 999 of an episode of 302"),
        ({"outcome": "sucess"}, "unknown outcome 'sucess'.*reached"),
        ({"verb": "Grasp it"}, "malformed name 'Grasp it'"),
        ({"args": ["book"]}, r"grasp\(book\) takes .*book.*elsewhere.*usb_stick"),
        ({"episode_index": 7}, "no episode 7 among 2"),
    ],
)
def test_malformed_subgoals(change, message, tmp_path):
    with pytest.raises(VineError, match=message):
        own(tmp_path, subgoals=[SUBGOALS[0] | change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": [600, 0, 700, 10]}, "reaches out of an image of 640 x 480.*image_size"),
        ({"id": "The stick"}, "malformed id"),
        ({"attributes": {"cap": [1]}}, r"got `array`.*line 1, field objects\[0\].attributes"),
        ({"attributes": {"cap": 3}}, "attribute cap of the boxes does not fit.*words"),
    ],
)
def test_malformed_boxes(change, message, tmp_path):
    row = json.loads(BOXES.read_text().splitlines()[0])
    row["objects"] = [row["objects"][0] | change]
    with pytest.raises(VineError, match=message):
        own(tmp_path, boxes=lines(tmp_path / "b.jsonl", [row]))


def test_a_misspelt_attempt_is_no_failure(tmp_path):
    rows = [json.loads(line) for line in LABELS.read_text().splitlines()]
    rows[1]["grasp_attempts"][0]["outcome"] = "sucess"
    with pytest.raises(VineError, match="unknown outcome 'sucess'"):
        annotate(EXCERPT, Sources(labels=lines(tmp_path / "l.jsonl", rows)), tmp_path / "out")


class ShiftingPerception:
    """Finds the stick in every frame, a little to the right of where it was."""

    weights = "of a test"

    def perceive(self, observations, instructions, earlier=None):
        return [self._shifted(o, g) for o, g in zip(observations, earlier, strict=True)]

    def _shifted(self, observation, earlier):
        assert earlier is not None and observation.proprioception.shape == (6,)
        objects = tuple(
            replace(o, boxes={"top": Box(*(min(v + 0.001, 1.0) for v in o.boxes["top"]))})
            for o in earlier.objects
        )
        return replace(earlier, objects=objects, relations=derive_relations(objects, "top", ()))


def test_perception_gives_boxes_where_none_are_annotated(tmp_path):
    dataset = annotate(EXCERPT, Sources(labels=LABELS, boxes=BOXES, attempts="whole"), tmp_path / "data")
    everywhere = tuple({d.split for d in dataset.demonstrations})
    unboxed = export_skills(dataset, tmp_path / "unboxed", splits=everywhere, threads=1)
    assert unboxed.frames == 281 + 156 and unboxed.unboxed == unboxed.frames - 5
    perception: BoxPerceiver = ShiftingPerception()
    export_skills(dataset, tmp_path / "perceived", splits=everywhere, threads=1, perception=perception)
    for name, frames in (("unboxed", 5), ("perceived", unboxed.frames)):
        clips = open_dataset(tmp_path / name).demonstrations
        visible = [_environment(tmp_path / name, d.episode_index)[:, 5] for d in clips]
        assert int(np.concatenate(visible).sum()) == frames
    # An annotated box stays what it was said to be.
    first = _environment(tmp_path / "perceived", 0)[82, 1:5]
    said = dataset.boxes(0)[82]["top"]["usb_stick"]
    np.testing.assert_allclose(first, said, atol=1e-6)


def _environment(root: Path, episode: int) -> np.ndarray:
    from vine_vla.data.lerobot.tables import FrameTable

    dataset = open_dataset(root)
    return FrameTable(dataset.files, ["observation.environment_state"]).vector(
        episode, "observation.environment_state"
    )


@pytest.mark.parametrize(
    "feature",
    [
        {"shape": [480, 640, 3], "names": ["height", "width", "channel"]},
        {"shape": [3, 480, 640], "names": ["channels", "height", "width"]},
        {"shape": [3, 480, 640], "names": None},
    ],
)
def test_image_sizes_whichever_axis_is_first(feature):
    assert image_size(feature) == (480, 640)


def test_outcomes_of_episodes_stay_unknown_without_labels(tmp_path):
    dataset = own(tmp_path)
    assert {d.outcome for d in dataset.demonstrations} == {EpisodeOutcome.UNKNOWN}


def test_objects_of_two_cameras_are_one_by_id_or_by_order():
    schema = Schema(("cup",), {}, ("left_of",), (), ("front", "wrist"))

    def cup(x: float, name: str | None) -> LabelledObject:
        return LabelledObject("cup", Box(x, 0.4, x + 0.1, 0.5), name, {}, False)

    named = frame_graph(
        {"front": [cup(0.1, "a"), cup(0.6, "b")], "wrist": [cup(0.2, "b")]}, None, None, schema
    )
    assert {o.id: sorted(o.boxes) for o in named.objects} == {"a": ["front"], "b": ["front", "wrist"]}
    assert named.holds("left_of", "a", "b")
    ordered = {"front": [cup(0.6, None), cup(0.1, None)], "wrist": [cup(0.8, None), cup(0.2, None)]}
    found = frame_graph(ordered, None, None, schema)
    assert [(o.id, round(o.boxes["wrist"].x_min, 1)) for o in found.objects] == [
        ("cup_1", 0.2),
        ("cup_2", 0.8),
    ]
