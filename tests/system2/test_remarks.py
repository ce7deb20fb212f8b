"""What System 2 says of data that do not suffice: errors before training, warnings after it."""

import json
from dataclasses import replace

import pytest
from system2.pictures import PictureSource
from system2.test_training import CONFIG

from vine_vla import Outcome, VineError
from vine_vla.core.options import EpisodeOutcome, Split
from vine_vla.system2.compact import train_system2

GRAPHS = replace(CONFIG, perception=None)


def changed(change):
    """The drawn world with other labels."""
    source = PictureSource(24)
    source.demonstrations = tuple(change(d) for d in source.demonstrations)
    return source


def succeed(d, outcome=Outcome.REACHED):
    segments = tuple(replace(s, outcome=outcome) for s in d.segments)
    return replace(d, outcome=EpisodeOutcome.SUCCESS, segments=segments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: replace(d, graphs={f + 1: g for f, g in d.graphs.items()}),
            "none of the .* segments .* has a scene graph at its first frame.*--boxes",
        ),
        (
            lambda d: replace(d, outcome=EpisodeOutcome.UNKNOWN, outcome_source=None),
            "no successful episode among .*--outcomes",
        ),
        (lambda d: succeed(d, Outcome.CENSORED), "has a known outcome.*--subgoals"),
    ],
)
def test_data_that_teach_nothing_are_told_before_training(change, message, tmp_path):
    with pytest.raises(VineError, match=message):
        train_system2(changed(change), tmp_path / "system2", GRAPHS)


def test_without_failures_it_is_said_what_it_falls_back_to(tmp_path):
    folder = train_system2(changed(succeed), tmp_path / "system2", GRAPHS)
    metrics = json.loads((folder / "metrics.json").read_text())
    said = " ".join(metrics["warnings"])
    assert "no failed segment among" in said and "counts as feasible" in said
    assert "not calibrated: " in said and "20 are needed" in said
    assert "put is never pruned: " in said
    card = (folder / "MODEL_CARD.md").read_text()
    assert all(warning[1:] in card for warning in metrics["warnings"])


def test_with_few_failures_their_number_is_said(tmp_path):
    numbers = [d.episode_index for d in PictureSource(24).demonstrations if d.split is Split.TRAIN][:5]

    def fail(d):
        good = succeed(d)
        if d.episode_index not in numbers:
            return good
        segments = (*good.segments[:-1], replace(good.segments[-1], outcome=Outcome.DEAD))
        return replace(good, outcome=EpisodeOutcome.FAILURE, segments=segments)

    folder = train_system2(changed(fail), tmp_path / "system2", GRAPHS)
    warnings = json.loads((folder / "metrics.json").read_text())["warnings"]
    assert len([r for r in warnings if r.startswith("only 5 failed segments among ")]) == 1
    assert not any("no failed segment" in warning for warning in warnings)
