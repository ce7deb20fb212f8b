"""What commands print of figures: none of too few cases, none that is not there."""

import json

import pytest

from vine_vla.evaluation.verdicts import comparison_line, print_summary
from vine_vla.system2.card import metric_lines

SCORES = {"rate": 0.7, "brier": 0.1, "log_loss": 0.3, "ece": 0.02, "auroc": None}
PERCEPTION = {
    "frames": 40,
    "box_error_px": {"front": 1.25, "wrist": None},
    "class_accuracy": 0.9,
    "attribute_accuracy": None,
    "relation_f1": None,
}


def metrics(**perception):
    return {
        "judged_on": "calibration episodes",
        "graphs": "perceived",
        "outcomes": {
            "reach": {"count": 40} | SCORES,
            "by_verb": {"lift": {"count": 33} | SCORES, "turn": {"count": 7} | SCORES, "push": {"count": 0}},
        },
        "perception": PERCEPTION | perception,
    }


def test_figures_of_system2_that_are_missing_or_of_few_cases_are_not_printed():
    text = "\n".join(metric_lines(metrics()))
    assert "lift             n   33  reached 0.70" in text
    assert "turn             too few (n = 7)" in text and "push" not in text
    assert "perception: boxes off by front 1.2 px; classes 0.900" in text
    assert "None" not in text and "nan" not in text and "attributes" not in text


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"box_error_px": {}, "class_accuracy": None}, "perception: no boxes found"),
        ({"frames": 3}, "perception: held-out frames: too few (n = 3)"),
    ],
)
def test_perception_that_found_nothing_is_said_so(found, words):
    assert metric_lines(metrics(**found))[-1].strip() == words


def test_success_of_few_episodes_is_not_printed(capsys):
    arm = {"success": 1.0, "low": 0.4, "high": 1.0, "dead": 0.0, "stopped": 0.0, "replans": 0.0}
    comparison = {"a": "vine", "b": "flat", "scenes": 4, "difference": [None, None, None]}
    arms = [
        arm | {"arm": name, "episodes": n, "plan_seconds": None} for name, n in (("vine", 4), ("flat", 12))
    ]
    print_summary({"arms": arms, "comparisons": [comparison]})
    printed = capsys.readouterr().out
    assert "too few (n = 4)" in printed and printed.count("1.000") == 2  # success and its bound, of flat
    assert comparison_line(comparison) == "vine - flat: too few (n = 4)"
    assert json.dumps(comparison)
