"""The page about the cache runs, and prints what it says it prints."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pruning.frozen import keys

PAGE = Path(__file__).parents[3] / "docs" / "explanations" / "cache.md"


@pytest.mark.slow
def test_the_pages_python_runs_and_prints_what_it_says(capsys, monkeypatch) -> None:
    monkeypatch.setattr(keys, "code_digest", lambda: keys._CODE_AT_IMPORT)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    shutil.rmtree(names["disk"].folder)
    promised = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
    assert len(promised) == 2 and capsys.readouterr().out.splitlines() == promised
