"""Drawn marks stand where the numbers say, and every drawing is well-formed."""

from xml.etree import ElementTree

import pytest

from vine_vla.report import charts
from vine_vla.report.markup import Markup, element, json_text, script_text


def parsed(markup):
    return ElementTree.fromstring(markup)


def test_interval_marks_stand_at_their_values():
    scale = charts.rate_scale()
    mark = parsed(charts.interval_mark(0.25, 0.5, 0.75, scale, "half", tone="good", reference=0.5))
    circle, band = mark.find("circle"), mark.find("rect")
    assert float(circle.get("cx")) == pytest.approx(scale(0.5), abs=0.01)
    assert float(band.get("width")) == pytest.approx(scale(0.75) - scale(0.25), abs=0.02)
    assert mark.get("aria-label") == "half" and mark.get("role") == "img"
    unknown = parsed(charts.interval_mark(0, float("nan"), 1, scale, "none", tone="even"))
    assert unknown.find("circle") is None


@pytest.mark.parametrize(
    ("bounds", "edge"), [([0.02, -0.01], 0.1), ([0.31, 0.05], 0.4), ([-0.95, 0.2], 1.0), ([], 0.1)]
)
def test_differences_are_drawn_around_zero(bounds, edge):
    scale = charts.difference_scale(bounds)
    assert (scale.low, scale.high) == (-edge, edge)
    assert 0.0 in charts.ticks(scale) and 3 <= len(charts.ticks(scale)) <= 6


def test_the_scene_grid_has_a_cell_for_every_scene_and_merges_only_what_is_equal():
    few = parsed(charts.scene_grid([4, 5, 6], [charts.GridRow("a", [1.0, 0.0, None])]))
    assert [r.get("class").split()[-1] for r in few.iter("rect")] == ["win", "loss", "none"]
    many = parsed(
        charts.scene_grid(range(400), [charts.GridRow("a", [1.0] * 100 + [0.5] * 100 + [0.0] * 200)])
    )
    cells = list(many.iter("rect"))
    assert [c.get("class").split()[-1] for c in cells] == ["win", "half", "loss"]
    assert float(cells[2].get("width")) == pytest.approx(2 * float(cells[0].get("width")), abs=0.05)


def test_reliability_points_stand_at_prediction_and_share():
    bins = [charts.ReliabilityBin(0.2, 0.1, 0.0, 0.3, 30), charts.ReliabilityBin(0.8, 0.9, 0.7, 1.0, 10)]
    plot = parsed(charts.reliability_plot({"seen": bins}, "label"))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in plot.iter("circle")]
    (x1, y1), (x2, y2) = dots
    assert (x2 - x1) / (y1 - y2) == pytest.approx(0.6 / 0.8, abs=1e-3)
    bars = [float(r.get("height")) for r in plot.iter("rect")]
    assert bars[0] == pytest.approx(3 * bars[1], rel=0.02)


def test_times_are_drawn_on_decades():
    scale = charts.log_scale([3.0, 250.0])
    assert charts.decades(scale) == [1, 10, 100, 1000]
    assert scale(10) - scale(1) == pytest.approx(scale(1000) - scale(100))


def test_stacked_bars_share_their_width_by_count():
    bar = parsed(charts.stacked_bar([("success", 30, "win"), ("dead", 10, "loss")], "x"))
    wide = [float(r.get("width")) + 1 for r in bar.iter("rect")]
    assert wide[0] == pytest.approx(3 * wide[1])


def test_text_is_escaped_unless_it_is_markup():
    made = element("td", "<b>&", element("i", "x"), title='"<', hidden=False, open=True, data_x=1.5)
    assert made == '<td title="&quot;&lt;" open data-x="1.5">&lt;b&gt;&amp;<i>x</i></td>'
    assert isinstance(made, Markup)


def test_scripts_cannot_be_closed_by_data():
    text = json_text({"a": "</script><!--"})
    assert "<" not in text and '"a"' in text
    with pytest.raises(ValueError, match="must not hold"):
        script_text("</script>")
    with pytest.raises(TypeError):
        element("script", "plain text")
