"""Triggers on the line world: somebody turns the sockets; an alarm is right if the old plan then fails."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from agent.line_world import SCHEMA, LineModel, LineSkill, LineWorld, TrueEyes

from studies.triggers import COLUMNS, trigger_table, watch_episode
from vine_vla.agent import AgentConfig
from vine_vla.core.text import describe
from vine_vla.evaluation.episodes import Parts
from vine_vla.search import SearchConfig, make_planner


def watched(scene, turned_at, clumsy=0.0):
    world = LineWorld(turned_at=turned_at)
    parts = Parts(
        perceiver=TrueEyes(world),
        planner=make_planner("tree", LineModel(), SearchConfig(expansions=32)),
        skill=LineSkill(clumsy=clumsy, gives_up=True),
        config=AgentConfig(budget=6, max_steps=200, subgoal_steps=40, watch=2),
        wording=partial(describe, schema=SCHEMA),
    )
    return watch_episode(world, parts, scene)


def test_alarms_come_before_the_failure_and_only_when_something_happened():
    quiet = pd.DataFrame([watched(s, 10**9) for s in range(20)], columns=list(COLUMNS))
    assert quiet["success"].all() and quiet["uncertainty"].isna().all() and quiet["on-failure"].isna().all()
    assert quiet["fixed"].notna().all()
    turned = pd.DataFrame([watched(s, 7) for s in range(40)], columns=list(COLUMNS))
    lost = turned[turned["success"] == 0]
    assert len(lost) > 15 and (lost["outcome"] == "dead").all()
    assert lost["uncertainty"].notna().all() and (lost["uncertainty"] < lost["onset"]).all()
    table = trigger_table(turned).set_index("trigger")
    assert table.loc["uncertainty", "recall"] == 1.0 and table.loc["uncertainty", "lead"] > 0
    assert table.loc["uncertainty", "precision"] > 0.6  # a blocked socket still takes one plug in five
    assert table.loc["on-failure", "alarms"] == 0  # in this world nobody says `failed` before it is too late


def test_the_clumsy_hand_is_an_alarm_of_its_own():
    rows = pd.DataFrame([watched(s, 10**9, clumsy=0.5) for s in range(20)], columns=list(COLUMNS))
    assert rows["on-failure"].notna().any() and rows["uncertainty"].isna().all()


def test_the_table_by_hand():
    rows = pd.DataFrame(
        [
            {"success": 0, "onset": 50, "on-failure": None, "fixed": 20, "uncertainty": 30},
            {"success": 0, "onset": 50, "on-failure": 60, "fixed": 20, "uncertainty": None},
            {"success": 1, "onset": None, "on-failure": None, "fixed": 20, "uncertainty": 10},
            {"success": 1, "onset": None, "on-failure": None, "fixed": None, "uncertainty": None},
        ]
    )
    table = trigger_table(rows).set_index("trigger")
    assert table.loc["uncertainty", ["alarms", "precision", "recall", "false_alarms", "lead"]].tolist() == [
        2, 0.5, 0.5, 0.5, 20.0,
    ]  # fmt: skip
    # An alarm after the onset is none.
    assert table.loc["on-failure", "alarms"] == 0 and np.isnan(table.loc["on-failure", "precision"])
    assert table.loc["fixed", "precision"] == pytest.approx(2 / 3) and table.loc["fixed", "recall"] == 1.0
