"""The blocks of `docs/extract.md` print what the page says."""

from __future__ import annotations

import torch

from tests.doc_pages import run_page


def test_docs_of_extract_run() -> None:
    with torch.random.fork_rng(devices=[]):
        blocks, tries = run_page("extract.md")
    assert blocks >= 6
    assert tries >= 25
