"""Drawn marks stand where the numbers say, every drawing is well-formed, and texts stay text."""

import re
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError

from vine_vla.report import outcomes
from vine_vla.report.calibration import Bin, Panel
from vine_vla.report.charts import UNIT, Scale, decades, difference_scale
from vine_vla.report.rendering import ENVIRONMENT, render

charts = ENVIRONMENT.get_template("charts.html").module


def parsed(markup):
    return ElementTree.fromstring(markup.strip())


def test_interval_marks_stand_at_their_values():
    mark = parsed(charts.interval(0.25, 0.5, 0.75, UNIT, "half", "good", 0.5))
    circle, band = mark.find("circle"), mark.find("rect")
    assert float(circle.get("cx")) == pytest.approx(UNIT(0.5), abs=0.01)
    assert float(band.get("width")) == pytest.approx(UNIT(0.75) - UNIT(0.25), abs=0.02)
    assert mark.get("aria-label") == "half" and mark.get("role") == "img"
    assert any(line.get("class") == "reference" for line in mark.iter("line"))
    unknown = parsed(charts.interval(0, float("nan"), 1, UNIT, "none", "even"))
    assert unknown.find("circle") is None


@pytest.mark.parametrize(
    ("bounds", "edge"), [([0.02, -0.01], 0.1), ([0.31, 0.05], 0.4), ([-0.95, 0.2], 1.0), ([], 0.1)]
)
def test_differences_are_drawn_around_zero(bounds, edge):
    scale = difference_scale(bounds)
    assert (scale.low, scale.high) == (-edge, edge)
    assert 0.0 in scale.ticks and 3 <= len(scale.ticks) <= 6
    labels = [text.text for text in parsed(charts.axis(scale, "points", 100)).iter("text")]
    assert "0" in labels and any(label.startswith("−") for label in labels)


def test_values_beyond_an_axis_are_drawn_at_its_end():
    assert Scale(0, 1, 10, 20)(7) == 20 and Scale(0, 1, 10, 20)(-7) == 10


def test_the_scene_grid_has_a_cell_for_every_scene_and_merges_only_what_is_equal():
    few = outcomes.grid_runs([4, 5, 6, 7], [1.0, 1.0, 0.0, float("nan")])
    assert [(run.tone, run.count) for run in few] == [("win", 1), ("win", 1), ("loss", 1), ("none", 1)]
    many = outcomes.grid_runs(range(400), [1.0] * 100 + [0.5] * 100 + [0.0] * 200)
    assert [(run.tone, run.count) for run in many] == [("win", 100), ("half", 100), ("loss", 200)]
    grid = outcomes.Grid(400, 1, [outcomes.GridRow("a", many)], [])
    cells = list(parsed(charts.scene_grid(grid)).iter("rect"))
    assert [c.get("class").split()[-1] for c in cells] == ["win", "half", "loss"]
    assert float(cells[2].get("width")) == pytest.approx(2 * float(cells[0].get("width")), abs=0.05)
    assert cells[1].find("title").text == "a, 100 scenes: 50%"


def test_reliability_points_stand_at_prediction_and_share():
    bins = [Bin(0.2, 0.1, 0.0, 0.3, 30), Bin(0.8, 0.9, 0.7, 1.0, 10)]
    plot = parsed(charts.reliability(Panel("t", "", "label", [bins])))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in plot.iter("circle")]
    (x1, y1), (x2, y2) = dots
    assert (x2 - x1) / (y1 - y2) == pytest.approx(0.6 / 0.8, abs=1e-3)
    bars = [float(r.get("height")) for r in plot.iter("rect")]
    assert bars[0] == pytest.approx(3 * bars[1], rel=0.02)


def test_times_are_drawn_on_decades():
    scale = decades([3.0, 250.0])
    assert scale.ticks == [1, 10, 100, 1000]
    assert scale(10) - scale(1) == pytest.approx(scale(1000) - scale(100))
    mark = parsed(charts.span(10, 100, scale, "times"))
    assert float(mark.find("circle").get("cx")) == pytest.approx(scale(10), abs=0.01)


def test_stacked_bars_share_their_width_by_count():
    parts = outcomes.stacked({"success": 30, "dead": 10, "limit": 0}, {"success": "win", "dead": "loss"})
    bar = parsed(charts.stacked(parts, "x"))
    wide = [float(r.get("width")) + 1 for r in bar.iter("rect")]
    assert len(wide) == 2 and wide[0] == pytest.approx(3 * wide[1])
    assert [t.text for t in bar.iter("text")] == ["30", "10"]


def test_text_is_escaped_wherever_it_is_put():
    assert "<b>" not in charts.meter(0.5, 0.4, 0.6, '"><b>') and "&lt;b&gt;" in charts.meter(
        0.5, None, None, "<b>"
    )
    made = charts.legend([("win", "<i>\x1b[31m")])
    assert "&lt;i&gt;\ufffd[31m" in made


def test_a_template_that_misses_a_value_is_an_error():
    with pytest.raises(UndefinedError):
        render("options.html")


def test_every_value_of_a_template_is_escaped():
    """No template passes data through unescaped: `safe` stands only behind literals."""
    for name in ENVIRONMENT.list_templates(extensions=["html"]):
        source = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)[0]
        assert "autoescape" not in source
        assert all(quoted in "'\"" for quoted in re.findall(r"(.)\|\s*safe", source)), name
