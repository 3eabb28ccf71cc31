"""Pages of `docs/` as tests: their Python blocks run in turn and print what the page says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def run_page(name: str, *, flags: int = 0) -> tuple[int, int]:
    """Run a page's blocks as one session.

    Args:
        name: The page's file.
        flags: Options of doctest, beside those for white space.

    Returns:
        How many blocks there are, and how many lines were tried.
    """
    page = DOCS / name
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, page.name, str(page), 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | flags)
    runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
    return len(blocks), runner.tries
