"""The task: repeatable episodes, exact restores, honest observations, true graphs that fit the images."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vine_vla.core.errors import VineError
from vine_vla.core.options import Outcome, Subgoal, candidate_subgoals, check_subgoal
from vine_vla.core.packing import pack, unpack
from vine_vla.core.protocols import DONE, FAILED
from vine_vla.core.text import describe
from vine_vla.tasks.plug import TASK
from vine_vla.tasks.plug.spec import ACTION, PLUG_SCHEMA
from vine_vla.tasks.plug.task import PlugInsertion


@pytest.fixture(scope="module")
def task() -> PlugInsertion:
    return PlugInsertion("seen")


@pytest.fixture(scope="module")
def blind() -> PlugInsertion:
    return PlugInsertion("seen", render=False)


def execute(task: PlugInsertion, subgoal: Subgoal, seed: int = 0, steps: int = 10**6) -> list[np.ndarray]:
    """The scripted skill executes (at most `steps` of) a subgoal; its actions."""
    skill = TASK.skill(task, 0.3)
    skill.start(subgoal, "", seed)
    taken: list[np.ndarray] = []
    while len(taken) < steps:
        out = skill.act(task.observe(), task.true_graph())
        if out.done[DONE] or out.done[FAILED]:
            break
        taken.append(out.actions[0])
        task.step(out.actions[0])
    return taken


def test_the_same_scene_and_seed_give_the_same_episode(blind: PlugInsertion) -> None:
    other = PlugInsertion("seen", render=False)
    traces = []
    for one in (blind, other):
        one.reset(3, 11)
        for subgoal in one.oracle_plans()[0]:
            execute(one, subgoal, seed=5)
        traces.append((one.steps, one.sim.data.qpos.tobytes(), one.observe().proprioception.tobytes()))
    assert traces[0] == traces[1]
    blind.reset(3, 12)
    first = blind.observe().proprioception
    blind.reset(3, 11)
    assert not np.array_equal(first, blind.observe().proprioception)


def test_images_repeat_exactly(task: PlugInsertion) -> None:
    first = task.reset(4, 1).images
    task.reset(5, 1)
    again = task.reset(4, 1).images
    assert all(np.array_equal(first[role], again[role]) for role in ("front", "wrist"))
    assert not np.array_equal(first["front"], task.reset(5, 1).images["front"])


def test_save_and_restore_are_exact_in_the_same_and_another_task(blind: PlugInsertion) -> None:
    blind.reset(6, 2)
    plan = blind.oracle_plans()[0]
    execute(blind, plan[0])
    execute(blind, plan[1], steps=20)  # in the middle of an insertion, in contact
    state, graph = blind.save_state(), blind.true_graph()
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-0.01, 0.01, 5).astype(np.float32) * (1, 1, 1, 5, 80) for _ in range(25)]
    ends = []
    fresh = PlugInsertion("unseen", render=False)
    fresh.reset(0, 0)
    for one in (blind, blind, fresh):
        one.restore_state(state)
        assert one.true_graph() == graph
        for action in actions:
            one.step(action.astype(np.float32))
        ends.append((one.sim.data.qpos.tobytes(), one.sim.data.qvel.tobytes(), one.steps, one.onset))
    assert ends[0] == ends[1] == ends[2]


def test_a_good_plan_succeeds_and_every_verdict_agrees(blind: PlugInsertion) -> None:
    blind.reset(0, 1)
    plan = blind.oracle_plans()[0]
    for subgoal in plan:
        assert blind.subgoal_status(subgoal) is None
        execute(blind, subgoal)
        assert blind.subgoal_status(subgoal) is Outcome.REACHED
    assert blind.is_success() and not blind.is_dead() and blind.onset is None and blind.failure_kind() is None
    assert blind.true_graph()["plug"].attributes["state"] == "seated"


def test_a_wrong_socket_is_dead_and_says_so(blind: PlugInsertion) -> None:
    number = next(n for n in range(50) if any(s.kind == "round" for s in _scene(n).sockets))
    blind.reset(number, 1)
    wrong = next(i for i, s in enumerate(blind.scene.sockets) if s.kind == "round")
    execute(blind, Subgoal("grasp_long", ("plug",)))
    subgoal = blind.subgoal(("insert", wrong))
    execute(blind, subgoal)
    assert blind.is_dead() and blind.subgoal_status(subgoal) is Outcome.DEAD and not blind.is_success()
    assert blind.failure_kind() in ("toppled", "dropped")
    assert blind.onset is not None and blind.onset <= blind.steps
    assert blind.true_graph()["plug"].attributes["state"] == "fallen"


def _plain(socket) -> bool:  # type: ignore[no-untyped-def]
    return socket.kind == "two_pin" and not socket.blocks


def _scene(number: int):  # type: ignore[no-untyped-def]
    from vine_vla.tasks.plug.scenes import plug_scene

    return plug_scene("seen", number)


def test_true_graphs_fit_the_schema_and_name_sockets_from_left_to_right(blind: PlugInsertion) -> None:
    for number in range(12):
        blind.reset(number, number)
        graph = blind.true_graph()
        sockets = sorted(graph.of_class("socket"), key=lambda o: o.boxes["front"].center[0])
        assert [o.id for o in sockets] == ["socket_1", "socket_2", "socket_3"]
        assert all("front" in o.boxes for o in graph.objects if o.cls != "gripper")
        assert unpack(pack([graph], PLUG_SCHEMA), PLUG_SCHEMA)[0].objects
        for item in graph.objects:
            for box in item.boxes.values():
                assert 0 <= box.x_min < box.x_max <= 1 and 0 <= box.y_min < box.y_max <= 1
        subgoals = candidate_subgoals(graph, PLUG_SCHEMA)
        texts = [describe(s, graph, PLUG_SCHEMA) for s in subgoals]
        assert len(set(texts)) == len(texts) == 6
        for subgoal in subgoals:
            check_subgoal(subgoal, graph, PLUG_SCHEMA)
            assert blind.subgoal(blind.choice(subgoal)) == subgoal


def test_ids_and_attributes_follow_the_episode(blind: PlugInsertion) -> None:
    blind.reset(1, 1)
    before = blind.true_graph()
    execute(blind, Subgoal("grasp_short", ("plug",)))
    after = blind.true_graph()
    assert [o.id for o in before.objects] == [o.id for o in after.objects]
    assert before["plug"].attributes == {"grasp": "none", "state": "rack"}
    assert after["plug"].attributes == {"grasp": "short", "state": "hand"}
    assert before["gripper"].attributes == {"grip": "open"} and after["gripper"].attributes == {
        "grip": "holding"
    }
    assert after.holds("held", "plug", "gripper") and not before.holds("held", "plug", "gripper")
    assert before["socket_1"] == after["socket_1"] or "wrist" in before["socket_1"].boxes


@pytest.mark.parametrize("role", ["front", "wrist"])
def test_boxes_hold_the_pixels_of_their_objects(task: PlugInsertion, role: str) -> None:
    """Recolour one object: the pixels that change lie in its box and, where nothing hides it, fill it."""
    number = next(n for n in range(200) if any(_plain(s) for s in _scene(n).sockets))
    task.reset(number, 3)
    boxes, size = task.true_boxes()[role], task.cameras.size
    index = next(i for i, s in enumerate(task.scene.sockets) if _plain(s))
    names = {"plug": "plug", task.subgoal(("insert", index)).args[1]: f"two_pin_{index}"}
    before = task.cameras.render()[role].astype(int)
    for name, body in names.items():
        part = task.sim.model.body(body)
        geoms = slice(int(part.geomadr[0]), int(part.geomadr[0] + part.geomnum[0]))
        kept = task.sim.model.geom_rgba[geoms].copy()
        task.sim.model.geom_rgba[geoms, :3] = 1 - kept[:, :3].round()
        changed = np.abs(task.cameras.render()[role].astype(int) - before).sum(-1) > 40
        task.sim.model.geom_rgba[geoms] = kept
        rows, columns = np.nonzero(changed)
        low = np.array([columns.min(), rows.min()])
        high = np.array([columns.max() + 1, rows.max() + 1])
        box = np.array(boxes[name]) * size
        assert (low >= box[:2] - 1.5).all() and (high <= box[2:] + 1.5).all(), name
        if name != "plug":  # the rack hides the prongs
            assert (low <= box[:2] + 3).all() and (high >= box[2:] - 3).all(), name


def test_observations_hold_nothing_but_images_proprioception_and_the_instruction() -> None:
    env = gymnasium.make("vine_vla.tasks.gym:vine/PlugInsertion-v0")
    check_env(env.unwrapped, skip_render_check=True)
    observation, _ = env.reset(seed=4, options={"scene": 2})
    assert set(observation) == {"front", "wrist", "proprioception", "instruction"}
    assert observation["front"].shape == (192, 192, 3) and observation["proprioception"].shape == (10,)
    again, _ = env.reset(seed=4, options={"scene": 2})
    assert np.array_equal(observation["front"], again["front"])
    with pytest.raises(VineError, match="scen"):
        env.reset(options={"scen": 2})
    env.close()


def test_proprioception_says_where_the_hand_is(blind: PlugInsertion) -> None:
    state = blind.reset(0, 0).proprioception
    assert state.dtype == np.float32 and not blind.observe().images
    assert state[:3] == pytest.approx(blind.sim.arm.tcp(), abs=1e-6)
    assert np.hypot(state[3], state[4]) == pytest.approx(1, abs=1e-6)
    assert state[9] == -1 and state[5] == pytest.approx(0.064, abs=1e-3)
    for _ in range(3):
        blind.step(np.array([0.02, 0, 0, 0, -1], np.float32))
    moved = blind.observe().proprioception
    yaw = np.arctan2(state[4], state[3])
    along = (moved[:2] - state[:2]) @ (np.cos(yaw), np.sin(yaw))
    assert 0.03 < along < 0.061  # forwards in the tool frame, not further than commanded
    assert moved[6] > 0.003  # and lagging behind


def test_release_opens_little_near_the_table(blind: PlugInsertion) -> None:
    blind.reset(0, 1)
    execute(blind, Subgoal("grasp_short", ("plug",)))
    for _ in range(9):
        blind.step(np.array([0, 0, -0.01, 0, 1], np.float32))
    for _ in range(5):
        blind.step(np.array([0, 0, 0, 0, -1], np.float32))
    assert blind.sim.arm.width() == pytest.approx(0.022 + 2 * 0.008, abs=0.003)


def test_bad_input_is_named(blind: PlugInsertion) -> None:
    blind.reset(0, 0)
    with pytest.raises(VineError, match="5 finite"):
        blind.step(np.array([np.nan, 0, 0, 0, 0], np.float32))
    with pytest.raises(VineError, match="no socket_9"):
        blind.subgoal_status(Subgoal("insert", ("plug", "socket_9")))
    with pytest.raises(VineError, match="unknown verb"):
        blind.subgoal_status(Subgoal("push", ("plug",)))
    with pytest.raises(VineError, match="reset"):
        _ = PlugInsertion("seen", render=False).instruction


def test_actions_are_limited(blind: PlugInsertion) -> None:
    blind.reset(0, 0)
    start = blind.sim.arm.position.copy()
    blind.step(np.array([9, 9, 9, 9, -1], np.float32))
    assert np.abs(blind.sim.arm.position - start).max() <= np.sqrt(2) * ACTION.high[0] + 1e-9


def test_a_neighbour_is_carried_to_a_socket_while_the_robot_works() -> None:
    task = PlugInsertion("pushed", render=False)
    still = np.array([0, 0, 0, 0, -1], np.float32)
    for number in range(6):
        task.reset(number, number)
        push = task.scene.push
        assert push is not None
        before = task.true_graph()
        plans = task.oracle_plans()
        state = None
        while task.steps < push.step + 25:
            task.step(still)
            if task.steps == push.step + 3:
                state = task.save_state()
        after = task.true_graph()
        assert [o.id for o in after.objects] == [o.id for o in before.objects]
        socket = task.subgoal(("insert", push.socket)).args[1]
        changed = {
            (o.id, name)
            for o in after.objects
            for name, value in o.attributes.items()
            if before[o.id].attributes[name] != value
        }
        assert changed == {(socket, "end" if push.block.side == "x" else "flank")}
        assert len(task.oracle_plans()) == len(plans) - 1
        block = after.of_class("block")[-1].boxes["front"].center
        target = after[socket].boxes["front"].center
        assert np.hypot(block[0] - target[0], block[1] - target[1]) < 0.15
        # From the middle of it the same future.
        assert state is not None
        task.restore_state(state)
        assert task.true_graph().of_class("block")[-1].boxes["front"].center != pytest.approx(block)
        while task.steps < push.step + 25:
            task.step(still)
        assert task.true_graph() == after


def test_nothing_is_carried_into_the_hand() -> None:
    task = PlugInsertion("pushed", render=False)
    task.reset(0, 0)
    push = task.scene.push
    assert push is not None
    socket = task.scene.sockets[push.socket]
    for _ in range(30):  # the hand goes to the socket and stays
        tcp = task.sim.arm.tcp()
        move = np.clip([socket.x - tcp[0], socket.y - tcp[1], 0.2 - tcp[2]], -0.04, 0.04)
        yaw = task.sim.arm.tcp_yaw()
        cos, sin = np.cos(yaw), np.sin(yaw)
        tool = [cos * move[0] + sin * move[1], -sin * move[0] + cos * move[1], move[2], 0, -1]
        task.step(np.array(tool, np.float32))
        if np.hypot(*(task.sim.arm.tcp()[:2] - (socket.x, socket.y))) < 0.05:
            break
    came = task.sim.carried_since
    for _ in range(60):
        task.step(np.array([0, 0, 0, 0, -1], np.float32))
    assert task.sim.carried_since == came
    assert came < 0 or came < 30
