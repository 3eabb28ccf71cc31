"""Small cards of HTML, which notebooks show by themselves: of circuits, models, results.

A card takes its colours from the page, so that it is readable in light and dark, and loads nothing from elsewhere.
All names are escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# HTML has no place for these, and a notebook's file none for lone surrogates.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_CARD = (
    "display:inline-block;border:1px solid currentColor;border-radius:4px;padding:0.6em 0.9em;"
    "font-family:sans-serif;font-size:13px;line-height:1.45;text-align:left"
)
# Old browsers' rules let no colour into a table unless it is told.
_TABLE = "border:0;margin:0.5em 0 0 0;color:inherit;font-size:inherit"
_CELL = "padding:0 0.9em 0 0;border:0;background:transparent;color:inherit;font-size:inherit;text-align:{align}"


def escaped(text: object) -> str:
    """Anything as HTML text on one line.

    Examples:
        >>> escaped('<script>"x"</script>  &')
        '&lt;script&gt;&quot;x&quot;&lt;/script&gt; &amp;'
    """
    return html.escape(" ".join(_FORBIDDEN.sub("\ufffd", str(text)).split()))


def card(title: str, lines: Iterable[str], *tables: str) -> str:
    """A card.

    Args:
        title: Its heading, as plain text.
        lines: Lines below it, as plain text.
        tables: What comes last, as HTML.
    """
    paragraphs = "".join(f'<div style="opacity:0.8">{escaped(line)}</div>' for line in lines)
    heading = f'<div style="font-weight:600">{escaped(title)}</div>'
    return f'<div style="{_CARD}">{heading}{paragraphs}{"".join(tables)}</div>'


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column is text and whose others are numbers; all of it as plain text.

    Examples:
        >>> html_table(["part", "kept"], [("<a>", 1)]).count("&lt;a&gt;")
        1
    """
    head, body = _row("th", header), "".join(_row("td", row) for row in rows)
    return f'<table style="{_TABLE}"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _row(tag: str, cells: Sequence[object]) -> str:
    styles = (_CELL.format(align="right" if place else "left") for place in range(len(cells)))
    inside = "".join(
        f'<{tag} style="{style}">{escaped(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True)
    )
    return f"<tr>{inside}</tr>"
