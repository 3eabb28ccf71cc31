"""The commands of the page on comparing circuits print what the page says."""

from __future__ import annotations

import shlex

from tests.circuitgraph.cli.conftest import call
from tests.doc_pages import DOCS, blocks_of, run_script

PAGE = DOCS / "how-to" / "compare-circuits.md"


def words(text: str) -> list[list[str]]:
    """The words of every line that has any; padding is no matter."""
    return [line.split() for line in text.splitlines() if line.split()]


def test_commands_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_script(PAGE)
    commands = [block.body for block in blocks_of(PAGE) if block.info == "console"]
    assert len(commands) == 7
    for body in commands:
        command, _, told = body.partition("\n")
        ended = call(*shlex.split(command.removeprefix("$ circuitgraph ")))
        assert ended.code == 0, ended.err
        assert words(ended.out) == words(told), command
