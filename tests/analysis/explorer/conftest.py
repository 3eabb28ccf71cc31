"""The explorer's pages in a real Chromium: none may complain or call home."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.explorer import write_explorer
from tests.analysis.explorer.shown import Shown
from tests.chromium import PATIENCE_MS


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
