"""The reader's guide names what is there: every name in code style is defined somewhere in the packages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.doc_pages import ROOT

PAGE = ROOT / "docs" / "developers" / "one-step.md"
_NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[a-z_]\w*)?)`")


def defined() -> set[str]:
    """Every class, function, method (as `Class.method` too), argument and attribute of the packages."""
    found: set[str] = set()
    for package in ("circuitgraph", "pruning"):
        for path in (ROOT / package).rglob("*.py"):
            found.update((path.stem, path.parent.name))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                    found.add(node.name)
                if isinstance(node, ast.FunctionDef):
                    found.update(one.arg for one in (*node.args.args, *node.args.kwonlyargs))
                if isinstance(node, ast.ClassDef):
                    for one in ast.walk(node):
                        name = getattr(one, "name", None) or getattr(one, "attr", None)
                        if isinstance(name, str):
                            found.add(f"{node.name}.{name}")
    return found


def names_in(page: Path) -> list[str]:
    return [name for name in _NAME.findall(page.read_text(encoding="utf-8")) if not name.endswith(".py")]


def test_every_name_of_the_guide_is_in_the_code() -> None:
    known, said = defined(), names_in(PAGE)
    assert len(said) > 40
    symbols = {"r", "z", "x"}  # of the formula
    assert [name for name in said if name not in known and name not in symbols] == []


def test_every_file_of_the_guide_is_there() -> None:
    forward = ROOT / "circuitgraph" / "forward"
    for path in re.findall(r"`([\w/]+\.py)`", PAGE.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file() or (forward / path).is_file(), path
