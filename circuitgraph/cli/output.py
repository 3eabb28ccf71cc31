"""Where a command writes: results to standard output, everything said on the way to standard error.

With `--json`, standard output carries JSON and nothing else, whatever the libraries print. What programs read (JSON,
CSV, LaTeX, Markdown) is UTF-8, whatever the terminal's encoding; tables for people show what the terminal cannot as
codes.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from circuitgraph.files.plain_json import json_text

if TYPE_CHECKING:
    import pandas as pd

_WIDTH_OF_A_PIPE = 120
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def say(text: str) -> None:
    """Say something on standard error, as it is; where nobody can read it any more, the work goes on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Say on standard error that something is not as it should be."""
    say(f"Warning: {text}")


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """While work is done, keep standard output for the JSON that follows."""
    if not wanted:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def utf8_output() -> None:
    """Write to standard output in UTF-8 from here on, for programs; half a surrogate pair is written as its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON, in UTF-8."""
    utf8_output()
    print(json_text(value), flush=True)


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as JSON values, with null for what is missing.

    Args:
        table: The table.
    """
    plain = table.astype(object).where(table.notna(), None)
    return [dict(zip(plain.columns, row, strict=True)) for row in plain.itertuples(index=False)]


def print_table(
    columns: Iterable[str], rows: Iterable[Iterable[object]], *, title: str = "", to_stderr: bool = False
) -> None:
    """Print a table; cells are shown as they are, wrapped and never cut, each control character as its code.

    Args:
        columns: Headers; those that begin with `>` are aligned to the right.
        rows: The cells.
        title: Above the table.
        to_stderr: Whether it belongs to what is said on the way.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=to_stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=to_stderr, highlight=False, width=_WIDTH_OF_A_PIPE)
    if title:  # by itself: a title within the table is folded to the table's width
        console.print(Text(title), style="table.title")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    console.print(table)


def visible(text: str) -> str:
    r"""Text whose control characters, which could steer a terminal, are written as their codes.

    Examples:
        >>> print(visible("a\x1b[31m\nb"))
        a\x1b[31m\nb
    """
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def power_of_ten(log10: float) -> str:
    """The p-value with this decimal logarithm; below 1e-300, where figures mean nothing any more, that alone.

    Examples:
        >>> power_of_ten(-0.30103), power_of_ten(-40.5), power_of_ten(-1234.0), power_of_ten(0.0)
        ('0.500', '3.2e-41', '< 1e-300', '1.000')
    """
    if log10 >= -3:
        return figure(10.0**log10)
    if log10 < -300:
        return "< 1e-300"
    exponent = math.floor(log10)
    mantissa = f"{10 ** (log10 - exponent):.1f}"
    return f"1.0e{exponent + 1:03d}" if mantissa == "10.0" else f"{mantissa}e{exponent:03d}"


def bytes_text(n: float) -> str:
    """A number of bytes for people.

    Examples:
        >>> bytes_text(3 << 20), bytes_text(5.5 * 2**30)
        ('3 MiB', '5.5 GiB')
    """
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


def figure(value: float | int | None) -> str:
    """A figure of a table, or a dash where there is none.

    Examples:
        >>> figure(0.25), figure(12), figure(None), figure(1e-07)
        ('0.250', '12', '–', '1.0e-07')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
