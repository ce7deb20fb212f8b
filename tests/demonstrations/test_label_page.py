"""The labelling page in a real browser, by keys alone: what they say is in the sidecar."""

import shutil
import time
from pathlib import Path

import pytest
from demonstrations.test_label_server import EXCERPT, FIRST, SECOND, serving
from report.chromium import chromium, find_chromium

from vine_vla.data import open_dataset
from vine_vla.data.annotate.labelling import Labeller

pytestmark = [
    pytest.mark.skipif(
        find_chromium() is None, reason="no chromium on this machine (Debian package chromium)"
    ),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as page:
        yield page


@pytest.fixture
def root(tmp_path):
    return Path(shutil.copytree(EXCERPT, tmp_path / "copy"))


def text(page, selector):
    return page.value(f"document.querySelector('{selector}').textContent")


def wait(page, selector, words):
    """Until an element says so; the page draws and saves in its own time."""
    end = time.monotonic() + 30
    while words not in text(page, selector):
        assert time.monotonic() < end, f"{selector} says {text(page, selector)!r}, not {words!r}"
        time.sleep(0.02)


def labels(root):
    return [(d.outcome.value, d.onset_frame) for d in open_dataset(root).demonstrations]


def load(browser, url):
    browser.problems.clear()
    browser.requests.clear()
    browser.look()
    browser.open(url)
    wait(browser, "#place", "frame 0")


def test_keys_label_step_and_move(browser, root):
    with serving(Labeller(root)) as server:
        load(browser, server.url)
        assert text(browser, "#counts") == "0 of 2 episodes labelled, 2 left"
        browser.press("o")
        wait(browser, "#status", "Not saved: episode 0 is labelled unknown, an onset belongs to a failure")
        assert browser.problems and all("400" in p for p in browser.problems)  # the browser's own note of it
        browser.problems.clear()
        browser.press("f")
        for key in ("PageDown", "ArrowRight", "ArrowRight", "ArrowLeft", "o"):  # faster than pictures come
            browser.press(key)
        wait(browser, "#status", "Saved: episode 0 is ✗ failure, onset at frame 11.")
        assert labels(root) == [("failure", 11), ("unknown", None)]
        wait(browser, "#place", "frame 11 of 0 to 301, 1.10 s")
        assert text(browser, "#episodes li:first-child button") == "0✗failure, onset 11"
        browser.press("m")
        wait(browser, "#title", f"Episode 1: {SECOND}")
        wait(browser, "#place", "frame 0 of 0 to 181")
        browser.press("s")
        wait(browser, "#status", "Saved: episode 1 is ✓ success.")
        assert text(browser, "#counts") == "2 of 2 episodes labelled, 0 left"
        browser.press("p")
        wait(browser, "#title", FIRST)
        browser.press("t")
        wait(browser, "#status", "Saved: episode 0 is … truncated.")
        browser.press("n")
        browser.press("u")
        wait(browser, "#status", "Saved: episode 1 is ? unknown.")
        assert labels(root) == [("truncated", None), ("unknown", None)]
        browser.press("End")
        wait(browser, "#place", "frame 181")
        assert browser.problems == []
        assert all(r.startswith((server.url, "data:")) for r in browser.requests)


def test_the_picture_is_the_frame_of_the_dataset(browser, root):
    """A pixel of the canvas, in the second episode of a video file."""
    with serving(Labeller(root)) as server:
        load(browser, server.url + "#1")
        browser.press("PageDown")
        wait(browser, "#place", "frame 10")
        shown = browser.value(
            "[...document.querySelector('#picture').getContext('2d').getImageData(0, 0, 128, 96).data]"
        )
        wanted = server.labeller.dataset.images(1, [10], "top")[0].astype(float)
        grey = [sum(shown[i : i + 3]) / 3 for i in range(0, len(shown), 4)]
        assert abs(wanted.mean(-1).ravel() - grey).mean() < 2


def test_labels_there_are_shown(browser, root):
    Labeller(root).set_outcome(SECOND, "failure")
    Labeller(root).set_onset(SECOND, 90)
    with serving(Labeller(root)) as server:
        load(browser, server.url + "#1")
        assert text(browser, "#label") == "✗ failure, onset at frame 90 (by human)"
        assert text(browser, "#counts") == "1 of 2 episodes labelled, 1 left"
        assert browser.value("document.querySelector('[aria-pressed=true]').dataset.outcome") == "failure"
        browser.press("c")
        wait(browser, "#label", "✗ failure (by human)")
        assert labels(root) == [("unknown", None), ("failure", None)]
        assert browser.problems == []


def test_it_plays_and_stops(browser, root):
    with serving(Labeller(root)) as server:
        load(browser, server.url)
        for key in ("+", "+", " "):
            browser.press(key)
        wait(browser, "#place", "frame 5")
        browser.press(" ")
        time.sleep(0.3)
        at = text(browser, "#place")
        time.sleep(0.3)
        assert text(browser, "#place") == at and "speed 4×" in at
        assert browser.problems == []


def test_a_click_does_the_same_and_leaves_the_space_bar_alone(browser, root):
    with serving(Labeller(root)) as server:
        load(browser, server.url)
        browser.click("[data-outcome=failure]")
        wait(browser, "#status", "Saved: episode 0 is ✗ failure.")
        assert browser.value("document.activeElement === document.body")
        browser.click("#episodes li:nth-child(2) button")
        wait(browser, "#title", SECOND)
        assert labels(root) == [("failure", None), ("unknown", None)]


def test_a_dead_server_is_told_and_what_was_saved_is_kept(browser, root):
    reach = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    with serving(Labeller(root)) as server:
        load(browser, server.url)
        browser.press("f")
        wait(browser, "#status", "Saved")
        browser.call("Network.emulateNetworkConditions", offline=True, **reach)
        browser.press("s")
        wait(browser, "#status", "Not saved: the server does not answer")
        browser.call("Network.emulateNetworkConditions", offline=False, **reach)
        assert text(browser, "#label") == "✗ failure (by human)"
        browser.press("t")  # and on it goes when the server is back
        wait(browser, "#status", "Saved: episode 0 is … truncated.")
        assert labels(root) == [("truncated", None), ("unknown", None)]


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_scrolls_sideways(browser, root, width):
    with serving(Labeller(root)) as server:
        load(browser, server.url)
        browser.look(width=width)
        assert browser.value("document.documentElement.scrollWidth") <= width
