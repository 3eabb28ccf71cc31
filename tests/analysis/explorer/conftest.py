"""A real Chromium for the explorer's pages: one for all tests, and a page that may neither complain nor call home."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.explorer import write_explorer
from tests.analysis.explorer.shown import Shown

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
# A busy machine is slow, never wrong.
PATIENCE_MS = 120_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The Chromium of this machine; none is ever fetched."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not there")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on the path: install one (apt-get install chromium) to run the browser's tests")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opening(browser: Any, folder: Path) -> Iterator[Callable[..., Shown]]:
    """Write circuits as pages and open them; at the end no page may have logged, raised or asked for anything."""
    opened: list[Shown] = []

    def open_page(circuits: Any, *, size: tuple[int, int] = (1200, 800), theme: str = "light", **options: Any) -> Shown:
        file = write_explorer(circuits, folder / f"page{len(opened)}.html", **options)
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
        page.set_default_timeout(PATIENCE_MS)
        shown = Shown(page, file)
        opened.append(shown)
        shown.open()
        return shown

    yield open_page
    for shown in opened:
        shown.page.close()
        assert shown.complaints == []
        assert shown.requests == [shown.file.as_uri()]


@pytest.fixture
def explore(browser, tmp_path) -> Iterator[Callable[..., Shown]]:
    """A function that opens circuits in pages of their own."""
    with opening(browser, tmp_path) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def kept_open(browser, tmp_path_factory) -> Iterator[Callable[..., Shown]]:
    """The same for pages that all tests of a module share."""
    with opening(browser, tmp_path_factory.mktemp("pages")) as open_page:
        yield open_page
