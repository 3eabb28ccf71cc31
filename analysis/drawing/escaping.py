"""Text from models, tasks and prompts made safe for DOT: strings and HTML-like labels."""

from __future__ import annotations

import html
import re

# XML 1.0, and with it SVG and HTML-like labels, cannot hold these at all.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def xml_text(text: str) -> str:
    r"""Text with everything that XML cannot hold replaced; what it can escape is left to its writer.

    Examples:
        >>> xml_text("a\x00<b>")
        'a\ufffd<b>'
    """
    return _FORBIDDEN.sub("\ufffd", text)


def quoted(text: str) -> str:
    r"""A DOT string that shows the text as it is: quotes, backslashes, entities and line ends escaped.

    Examples:
        >>> print(quoted('say "a\\b" & go\nhome'))
        "say \"a\\b\" &amp; go\nhome"
    """
    clean = _FORBIDDEN.sub("\ufffd", text)
    escaped = clean.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub("\r\n|\r|\n", r"\\n", escaped) + '"'


def html_text(text: str, limit: int = 90) -> str:
    """Text inside an HTML-like label, on one line and cut where it is longer than the limit.

    Examples:
        >>> html_text('<script>"x"</script>')
        '&lt;script&gt;&quot;x&quot;&lt;/script&gt;'
    """
    line = " ".join(_FORBIDDEN.sub("\ufffd", text).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return html.escape(line)
