"""The blocks of `docs/extract.md` print what the page says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[3] / "docs" / "extract.md"


def test_docs_of_extract_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, PAGE.name, str(PAGE), 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with torch.random.fork_rng(devices=[]):
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
    assert runner.tries >= 25
