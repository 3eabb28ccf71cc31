"""Markdown tables and text for reports, with everything that Markdown or HTML would interpret escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

# An underscore inside a word emphasises nothing.
_SPECIAL = re.compile(r"([\\`*{}\[\]<>#|!~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def plain(value: object) -> str:
    r"""A value as Markdown text on one line that reads as it is.

    Examples:
        >>> print(plain("a|b <script>"))
        a\|b \<script\>
    """
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).replace("&", "&amp;").split()))


def code(text: str) -> str:
    """Text as inline code on one line, whatever backticks it holds.

    Examples:
        >>> code("a3.h7<q>"), code("a`b")
        ('`a3.h7<q>`', '`` a`b ``')
    """
    line = " ".join(text.split())
    if "`" not in line:
        return f"`{line}`"
    fence = "`" * (max(len(run) for run in re.findall("`+", line)) + 1)
    return f"{fence} {line} {fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[bool] | None = None) -> str:
    """A Markdown table.

    Args:
        header: Column names, already escaped.
        rows: Cells, already escaped.
        numbers: Whether a column holds numbers, which are set to the right `[column]`; by default all but the first.

    Returns:
        The table's lines.

    Examples:
        >>> print(table(["part", "n"], [["heads", "3"]]))
        | part | n |
        | :--- | ---: |
        | heads | 3 |
    """
    right = [False, *[True] * (len(header) - 1)] if numbers is None else numbers
    lines = [header, ["---:" if is_number else ":---" for is_number in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
