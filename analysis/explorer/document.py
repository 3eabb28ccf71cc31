"""The explorer's file put together: page, style, code, library and contents in one HTML document.

Nothing in it comes from anywhere else, and a Content-Security-Policy in its head says so to the browser: no
source of anything is allowed but the very scripts and styles that are written here, by their hashes. Contents
are JSON in a block that is data to the browser, and reach the page as text only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from circuitgraph._version import __version__

LIBRARY = "cytoscape.min.js"
SCRIPTS = (
    "data.js",
    "paths.js",
    "filters.js",
    "look.js",
    "routes.js",
    "view.js",
    "controls.js",
    "heads.js",
    "selection.js",
    "table.js",
    "search.js",
    "keyboard.js",
    "export.js",
    "main.js",
)
"""The page's own code, in the order in which it is read; one scope for all of it."""

# What the library adds to the page by itself.
_LIBRARY_STYLE = ".__________cytoscape_container { position: relative; }"


def page_document(contents: Mapping[str, Any]) -> str:
    """The whole HTML file.

    Args:
        contents: From `analysis.explorer.contents.page_contents`.

    Returns:
        HTML text.

    Examples:
        >>> from analysis.explorer.contents import page_contents
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->logits"], provenance={"task": "</title><b>"})
        >>> document = page_document(page_contents(circuit))
        >>> "</title><b>" in document, "default-src &#x27;none&#x27;" in document
        (False, True)
    """
    library = (files("analysis.explorer") / "vendor" / LIBRARY).read_text(encoding="utf-8")
    code = "(function () {\n'use strict';\n" + "\n".join(_part(name) for name in SCRIPTS) + "\n})();\n"
    style = _part("page.css")
    parts = {
        "policy": html.escape(_policy([library, code], [style, _LIBRARY_STYLE])),
        "title": html.escape(contents["title"]),
        "version": html.escape(__version__),
        "style": style,
        "contents": json_block(contents),
        "library": library,
        "code": code,
    }
    page = _part("page.html")
    # Each mark is looked for in the page alone, never in what took another one's place.
    pieces = page.split("%%")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def json_block(value: object) -> str:
    r"""JSON that can stand in a script block: nothing in it opens or closes a tag.

    Args:
        value: JSON values.

    Returns:
        Text in ASCII.

    Examples:
        >>> print(json_block({"name": "</script>&\u2028"}))
        {"name":"\u003c/script\u003e\u0026\u2028"}
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _part(name: str) -> str:
    return (files("analysis.explorer") / "page" / name).read_text(encoding="utf-8")


def _policy(scripts: list[str], styles: list[str]) -> str:
    """Allow these scripts and styles, and nothing else; the page may not make HTML out of text either."""
    rules = [
        "default-src 'none'",
        "script-src " + " ".join(map(_source, scripts)),
        "style-src " + " ".join(map(_source, styles)),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
    ]
    return "; ".join(rules)


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
