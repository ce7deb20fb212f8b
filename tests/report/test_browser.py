"""The page in a real browser: no console error, no request, nodes open by mouse and by keyboard."""

import json
import re

import pytest
from report.test_page import ESCAPES, evil_run

from vine_vla.report import ReportConfig, write_report

pytestmark = pytest.mark.timeout(180)
CONFIG = ReportConfig(resamples=20)
TEXTS = (
    ".lead",
    ".note",
    ".tag.good",
    ".tag.poor",
    ".tag.even",
    ".tag.mark",
    "td",
    "thead th",
    ".facts dt",
    ".faint",
)
CONTRAST = """texts => {
  const light = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(light);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (!/rgba\\(.*, 0\\)/.test(c)) return c; } };
  const worst = {};
  for (const text of texts) { const e = document.querySelector(text); if (!e) continue;
    const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))];
    worst[text] = (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }
  return worst; }"""
"""WCAG contrast of the first element of each kind with the ground it stands on."""


@pytest.fixture(scope="module")
def url(finished_run, tmp_path_factory):
    return write_report(finished_run, tmp_path_factory.mktemp("page") / "report.html", CONFIG).as_uri()


@pytest.fixture
def page(tab, url):
    tab.open(url)
    return tab


def panel(page):
    return page.text("#panel")


def data(page):
    return json.loads(page.value("document.querySelector('#trees').textContent"))


def test_no_error_and_no_request(page, url):
    assert page.problems == []
    assert [r for r in page.requests if not r.startswith("data:")] == [url]


def test_a_click_opens_a_node(page):
    nodes = data(page)[0]["nodes"]
    other = next(i for i, n in enumerate(nodes) if n["parent"] == 0 and i and not n["best"])
    assert nodes[other]["text"] not in panel(page)
    page.click(f"#node-{other}")
    shown = panel(page)
    assert nodes[other]["text"] in shown and f"{nodes[other]['v']:.3f}" in shown
    assert f"\n{nodes[other]['visits']}\n" in shown
    assert page.value(f"document.querySelector('#node-{other}').getAttribute('aria-selected')") == "true"
    assert page.problems == []


def test_a_cut_node_shows_its_reason(page):
    trees = data(page)
    which, cut = next((t, i) for t, v in enumerate(trees) for i, n in enumerate(v["nodes"]) if n["pruned"])
    page.page.select_option("#chooser", str(which))
    path, parent = [], trees[which]["nodes"][cut]["parent"]
    while parent:
        path.append(parent)
        parent = trees[which]["nodes"][parent]["parent"]
    for i in reversed(path):
        if page.value(f"document.querySelector('#node-{i}').getAttribute('aria-expanded')") == "false":
            page.click(f"#node-{i} .toggle")
    page.click(f"#node-{cut}")
    assert re.search(r"Pruned: .*is under the", panel(page)) and page.problems == []


def test_the_keyboard_walks_unfolds_and_opens(page):
    nodes = data(page)[0]["nodes"]
    chosen = next(i for i, n in enumerate(nodes) if n["best"])
    focused = "document.activeElement.id"
    page.value(f"document.querySelector('#node-{chosen}').focus()")
    page.press("ArrowRight")
    child = page.value(focused)
    assert nodes[int(child.split("-")[1])]["parent"] == chosen
    page.press("Enter")
    assert nodes[int(child.split("-")[1])]["text"] in panel(page)
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.value(f"document.querySelector('#node-{chosen}').getAttribute('aria-expanded')") == "false"
    assert page.value(f"document.querySelector('#{child}')") is None
    page.press("ArrowRight")
    assert page.value(f"document.querySelector('#{child}') !== null")
    page.press("End")
    assert page.value(focused) != f"node-{chosen}"
    assert page.value("document.querySelectorAll('#tree [tabindex=\"0\"]').length") == 1
    assert page.problems == []


def test_the_chooser_changes_tree_scene_and_table(page):
    trees = data(page)
    assert len(trees) > 1
    page.page.select_option("#chooser", "1")
    assert page.value("document.querySelector('#tree svg').getAttribute('aria-label')") == trees[1]["title"]
    shown = page.value(
        "[...document.querySelectorAll('[data-tree]')].filter(e => !e.hidden).map(e => e.dataset.tree)"
    )
    assert shown == ["1", "1"]


def test_a_link_opens_a_node(tab, url):
    tab.open(f"{url}#node-2")
    assert tab.value("document.querySelector('#panel').dataset.node") == "2"


def test_overlays_can_be_hidden(page):
    shown = "getComputedStyle(document.querySelector('.overlay')).display"
    assert page.value(shown) != "none"
    page.click("#overlays")
    assert page.value(shown) == "none"


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(page, dark):
    page.view(dark=dark)
    found = page.value(CONTRAST, list(TEXTS))
    assert len(found) >= 7 and min(found.values()) >= 4.5, found


def test_a_narrow_screen_does_not_scroll_sideways(page):
    page.view(width=400)
    assert page.value("document.documentElement.scrollWidth") <= 400


def test_print_shows_everything_and_no_controls(page):
    page.page.emulate_media(media="print")
    hidden = ("nav", ".keys", ".chooser", ".switch")
    found = page.value("n => n.map(s => getComputedStyle(document.querySelector(s)).display)", list(hidden))
    assert set(found) == {"none"}
    assert page.value("getComputedStyle(document.querySelector('.strip')).flexWrap") == "wrap"
    page.page.emulate_media(media="screen")


def test_markup_in_the_data_does_not_run(tab, results_copy):
    target = write_report(evil_run(results_copy), results_copy / "evil.html", CONFIG)
    tab.open(target.as_uri())
    tab.click("#node-1")
    assert tab.value("window.pwned === undefined && !document.querySelector('img')")
    assert "<script>window.pwned" in panel(tab)
    assert tab.problems == []
    assert not set(ESCAPES) & set(tab.text("main"))
