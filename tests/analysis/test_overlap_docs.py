"""The blocks of `docs/overlap.md` print what the page says."""

from __future__ import annotations

from tests.doc_pages import run_page


def test_docs_of_overlap_run() -> None:
    blocks, tries = run_page("overlap.md")
    assert blocks >= 5
    assert tries >= 15
