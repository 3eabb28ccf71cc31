"""How-tos are found by the words of a message, so the messages that they quote must be those of the code."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.doc_pages import DOCS, ROOT

PAGES = sorted((DOCS / "how-to").glob("*.md"))
LONG = 14


@functools.cache
def said_in_code() -> tuple[str, ...]:
    """Every piece of text in the packages, f-strings in pieces between their values."""
    pieces = set()
    for package in ("circuitgraph", "pruning", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    pieces.add(" ".join(node.value.split()))
    return tuple(pieces)


def quoted_messages(text: str) -> list[str]:
    """The block quotes of a page, cut where the page leaves something out."""
    lines = re.findall(r"^> (.+)$", text, re.MULTILINE)
    parts = [part.strip() for line in lines for part in re.split(r"…|·", line.replace("\\*", "*"))]
    return [part for part in parts if part]


def is_said(message: str) -> bool:
    return any(message in piece or (len(piece) >= LONG and piece in message) for piece in said_in_code())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quoted_messages_are_said_by_the_code(page):
    assert [message for message in quoted_messages(page.read_text()) if not is_said(message)] == []


def test_a_message_that_nobody_says_is_noticed():
    assert not is_said("a squirrel sits in this circuit, so nothing can be done")
    assert is_said("The circuit is empty: no path of kept edges leads from the input to the logits.")


def test_every_how_to_is_in_the_list_of_wishes():
    index = (DOCS / "how-to" / "index.md").read_text()
    assert [page.name for page in PAGES if page.name != "index.md" and f"]({page.name})" not in index] == []
