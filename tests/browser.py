"""The system's Chromium driven by Playwright: real clicks and keys, no network, and the page's complaints.

Without Chromium the tests that use `tab` are skipped; they fail where `VINE_BROWSER_TESTS=required`, as
`.ci/run` has it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Tab:
    """One tab. `problems` collects console errors and warnings, exceptions, dialogs and blocked loads."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        page.on("request", lambda request: self.requests.append(request.url[:200]))

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            self.problems.append(message.text)

    def open(self, url: str) -> None:
        """Load a page anew, as if nothing had been there before."""
        self.page.goto("about:blank")
        self.problems.clear()
        self.requests.clear()
        self.page.goto(url)

    def value(self, expression: str, argument: Any = None) -> Any:
        """What a JavaScript expression gives, or a function of `argument`."""
        return self.page.evaluate(expression, argument)

    def text(self, selector: str) -> str:
        """The text that the first element that matches shows."""
        return self.page.locator(selector).first.inner_text()

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of the first element that matches."""
        self.page.locator(selector).first.click(timeout=10_000)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def view(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Size of the window and colour scheme."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def offline(self, off: bool) -> None:
        self.page.context.set_offline(off)


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def require_chromium() -> None:
    """Skip the test where there is no Chromium, or fail it where the browser tests are required."""
    if find_chromium() is None:
        said = "no chromium on this machine (apt-get install -y --no-install-recommends chromium)"
        if os.environ.get("VINE_BROWSER_TESTS") == "required":
            pytest.fail(said, pytrace=False)
        pytest.skip(said)


@contextmanager
def chromium() -> Iterator[Tab]:
    """A fresh browser with an empty profile; ended when the block ends."""
    program = find_chromium()
    if program is None:
        raise RuntimeError("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS, NO_NETWORK])
        try:
            yield Tab(browser.new_page())
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    """One browser for the tests of a module. Playwright's event loop ends with it."""
    require_chromium()
    with chromium() as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Tab:
    """The browser's tab in a usual window."""
    browser.view()
    return browser
