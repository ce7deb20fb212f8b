"""The labelling page in a real browser, by keys alone: what they say is in the sidecar."""

import shutil
import time
from pathlib import Path

import pytest
from demonstrations.test_label_server import EXCERPT, FIRST, SECOND, serving

from vine_vla.data import open_dataset
from vine_vla.data.annotate.labelling import Labeller

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def root(tmp_path):
    return Path(shutil.copytree(EXCERPT, tmp_path / "copy"))


def text(page, selector):
    return page.page.text_content(selector)


def wait(page, selector, words):
    """Until an element says so; the page draws and saves in its own time."""
    end = time.monotonic() + 30
    while words not in text(page, selector):
        assert time.monotonic() < end, f"{selector} says {text(page, selector)!r}, not {words!r}"
        time.sleep(0.02)


def labels(root):
    return [(d.outcome.value, d.onset_frame) for d in open_dataset(root).demonstrations]


def load(tab, url):
    tab.open(url)
    wait(tab, "#place", "frame 0")


def test_keys_label_step_and_move(tab, root):
    with serving(Labeller(root)) as server:
        load(tab, server.url)
        assert text(tab, "#counts") == "0 of 2 episodes labelled, 2 left"
        tab.press("o")
        wait(tab, "#status", "Not saved: episode 0 is labelled unknown, an onset belongs to a failure")
        assert tab.problems and all("400" in p for p in tab.problems)  # the browser's own note of it
        tab.problems.clear()
        tab.press("f")
        for key in ("PageDown", "ArrowRight", "ArrowRight", "ArrowLeft", "o"):  # faster than pictures come
            tab.press(key)
        wait(tab, "#status", "Saved: episode 0 is ✗ failure, onset at frame 11.")
        assert labels(root) == [("failure", 11), ("unknown", None)]
        wait(tab, "#place", "frame 11 of 0 to 301, 1.10 s")
        assert text(tab, "#episodes li:first-child button") == "0✗failure, onset 11"
        tab.press("m")
        wait(tab, "#title", f"Episode 1: {SECOND}")
        wait(tab, "#place", "frame 0 of 0 to 181")
        tab.press("s")
        wait(tab, "#status", "Saved: episode 1 is ✓ success.")
        assert text(tab, "#counts") == "2 of 2 episodes labelled, 0 left"
        tab.press("p")
        wait(tab, "#title", FIRST)
        tab.press("t")
        wait(tab, "#status", "Saved: episode 0 is … truncated.")
        tab.press("n")
        tab.press("u")
        wait(tab, "#status", "Saved: episode 1 is ? unknown.")
        assert labels(root) == [("truncated", None), ("unknown", None)]
        tab.press("End")
        wait(tab, "#place", "frame 181")
        assert tab.problems == []
        assert all(r.startswith((server.url, "data:")) for r in tab.requests)


def test_the_picture_is_the_frame_of_the_dataset(tab, root):
    """A pixel of the canvas, in the second episode of a video file."""
    with serving(Labeller(root)) as server:
        load(tab, server.url + "#1")
        tab.press("PageDown")
        wait(tab, "#place", "frame 10")
        shown = tab.value(
            "[...document.querySelector('#picture').getContext('2d').getImageData(0, 0, 128, 96).data]"
        )
        wanted = server.labeller.dataset.images(1, [10], "top")[0].astype(float)
        grey = [sum(shown[i : i + 3]) / 3 for i in range(0, len(shown), 4)]
        assert abs(wanted.mean(-1).ravel() - grey).mean() < 2


def test_labels_there_are_shown(tab, root):
    Labeller(root).set_outcome(SECOND, "failure")
    Labeller(root).set_onset(SECOND, 90)
    with serving(Labeller(root)) as server:
        load(tab, server.url + "#1")
        assert text(tab, "#label") == "✗ failure, onset at frame 90 (by human)"
        assert text(tab, "#counts") == "1 of 2 episodes labelled, 1 left"
        assert tab.value("document.querySelector('[aria-pressed=true]').dataset.outcome") == "failure"
        tab.press("c")
        wait(tab, "#label", "✗ failure (by human)")
        assert labels(root) == [("unknown", None), ("failure", None)]
        assert tab.problems == []


def test_it_plays_and_stops(tab, root):
    with serving(Labeller(root)) as server:
        load(tab, server.url)
        for key in ("+", "+", " "):
            tab.press(key)
        wait(tab, "#place", "frame 5")
        tab.press(" ")
        time.sleep(0.3)
        at = text(tab, "#place")
        time.sleep(0.3)
        assert text(tab, "#place") == at and "speed 4×" in at
        assert tab.problems == []


def test_a_click_does_the_same_and_leaves_the_space_bar_alone(tab, root):
    with serving(Labeller(root)) as server:
        load(tab, server.url)
        tab.click("[data-outcome=failure]")
        wait(tab, "#status", "Saved: episode 0 is ✗ failure.")
        assert tab.value("document.activeElement === document.body")
        tab.click("#episodes li:nth-child(2) button")
        wait(tab, "#title", SECOND)
        assert labels(root) == [("failure", None), ("unknown", None)]


def test_a_dead_server_is_told_and_what_was_saved_is_kept(tab, root):
    with serving(Labeller(root)) as server:
        load(tab, server.url)
        tab.press("f")
        wait(tab, "#status", "Saved")
        tab.offline(True)
        tab.press("s")
        wait(tab, "#status", "Not saved: the server does not answer")
        tab.offline(False)
        assert text(tab, "#label") == "✗ failure (by human)"
        tab.press("t")  # and on it goes when the server is back
        wait(tab, "#status", "Saved: episode 0 is … truncated.")
        assert labels(root) == [("truncated", None), ("unknown", None)]


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_scrolls_sideways(tab, root, width):
    with serving(Labeller(root)) as server:
        load(tab, server.url)
        tab.view(width=width)
        assert tab.value("document.documentElement.scrollWidth") <= width
