"""The blocks of `docs/structure.md` print what the page says."""

from __future__ import annotations

import doctest

from tests.doc_pages import run_page


def test_docs_of_structure_run() -> None:
    blocks, tries = run_page("structure.md", flags=doctest.ELLIPSIS)
    assert blocks >= 10
    assert tries >= 35
