"""The built site, for tests: where it is, its pages, and what a browser says about them."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from tests.doc_pages import DOCS, ROOT

VARIABLE = "CIRCUITGRAPH_SITE"


def build(folder: Path) -> Path:
    """Build the site strictly, without running notebooks; those run in `test_pages.py` and in `make docs`.

    Args:
        folder: Where to.

    Returns:
        The folder of the pages.
    """
    strict = ["-q", "-E", "-n", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    # Cells that no kernel has seen have no language.
    unexecuted = ["-D", "nb_execution_mode=off", "-D", "suppress_warnings=myst-nb.lexer"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, *unexecuted, str(DOCS), str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def site_in(folder: Path) -> Path:
    """The site that `make docs` has built, or one built now in the folder."""
    given = os.environ.get(VARIABLE)
    return (ROOT / given) if given else build(folder)


def html_pages(site: Path) -> list[Path]:
    """The site's pages, without those that only redirect or search."""
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts and page.name != "search.html")


class Found(HTMLParser):
    """What a page holds: ids, links, pictures and inline drawings."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)


def read(page: Path) -> Found:
    """Parse a page."""
    found = Found()
    found.feed(page.read_text(encoding="utf-8"))
    return found
