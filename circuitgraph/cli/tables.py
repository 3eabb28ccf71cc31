"""Tables of results in the format that was asked for: for a terminal, or as JSON, CSV, LaTeX or Markdown.

JSON and CSV hold the tables whole, as the analysis made them; the others show the columns that people read.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.output import figure, only_json, power_of_ten, print_table, say, utf8_output
from circuitgraph.errors import ConfigurationError, OutputError
from circuitgraph.files.csv_text import csv_text
from circuitgraph.files.plain_json import json_text

if TYPE_CHECKING:
    import pandas as pd

TEXT, JSON, CSV, LATEX, MARKDOWN = "text", "json", "csv", "latex", "markdown"
# Shares of a universe, where what matters begins at the third digit.
_SHARES = frozenset({"density", "sparsity"})
_SUFFIXES = {".json": JSON, ".csv": CSV, ".tex": LATEX, ".md": MARKDOWN, ".txt": TEXT}


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """A table and how people see it.

    Attributes:
        name: Its key in JSON.
        title: Above it.
        frame: The table, whole.
        shown: Columns for people, with their headers. `log10_…` columns are shown as the numbers themselves.
        for_people: What people see of it, where that is less or named otherwise.
    """

    name: str
    title: str
    frame: pd.DataFrame
    shown: Mapping[str, str]
    for_people: pd.DataFrame | None = None

    @property
    def cells(self) -> tuple[list[bool], list[list[str]]]:
        """Which columns hold numbers, and the text of all cells, row by row."""
        from pandas.api.types import is_bool_dtype, is_numeric_dtype

        frame = self.frame if self.for_people is None else self.for_people
        # A p-value at its floor is text, "≤ 0.005", and stands among numbers.
        numbers = [
            name.startswith("log10_") or (is_numeric_dtype(frame[name]) and not is_bool_dtype(frame[name]))
            for name in self.shown
        ]
        columns = [[_cell(value, name) for value in frame[name].tolist()] for name in self.shown]
        return numbers, [list(row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """In which format results are written, and where.

    Attributes:
        name: `text`, `json`, `csv`, `latex` or `markdown`.
        out: The file; None for standard output.
    """

    name: str
    out: Path | None

    @classmethod
    def of(
        cls,
        *,
        as_json: bool,
        as_csv: bool,
        as_latex: bool,
        as_markdown: bool,
        out: Path | None,
        inputs: Sequence[Path] = (),
    ) -> TableFormat:
        """Settle what the options ask for; without any, the ending of the file decides.

        Args:
            as_json: `--json`.
            as_csv: `--csv`.
            as_latex: `--latex`.
            as_markdown: `--markdown`.
            out: `--out`.
            inputs: Files that are read, which the output must not replace.

        Raises:
            ConfigurationError: More than one format, or a file whose ending says none.
            OutputError: The file is one of those that are read.
        """
        asked = {JSON: as_json, CSV: as_csv, LATEX: as_latex, MARKDOWN: as_markdown}
        chosen = [name for name, wanted in asked.items() if wanted]
        if len(chosen) > 1:
            raise ConfigurationError(f"expected one format; got --{' and --'.join(chosen)}")
        if out is not None:
            refuse_to_replace(inputs, out)
        if not chosen and out is not None and out.suffix.lower() not in _SUFFIXES:
            raise ConfigurationError(
                f"--out {out}: its ending says no format; expected {', '.join(_SUFFIXES)}, or one of --json, --csv, "
                "--latex and --markdown beside it"
            )
        by_suffix = TEXT if out is None else _SUFFIXES.get(out.suffix.lower(), TEXT)
        return cls(name=chosen[0] if chosen else by_suffix, out=out)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """While work is done, keep standard output for what a program will read."""
        return only_json(self.name != TEXT and self.out is None)

    def write(
        self,
        tables: Sequence[ResultTable],
        *,
        about: Mapping[str, Any],
        first: str = "",
        csv: pd.DataFrame | None = None,
    ) -> None:
        """Write results.

        Args:
            tables: The tables, in order.
            about: What JSON says beside them: what was compared, and how.
            first: Lines above the tables, for people at a terminal.
            csv: The one table that CSV holds, where there are several.

        Raises:
            ConfigurationError: CSV of several tables.
            OutputError: The file cannot be written.
        """
        with self._stream():
            if self.name == JSON:
                print(json_text({**about, **{table.name: records(table.frame) for table in tables}}))
            elif self.name == CSV:
                print(csv_text(_one_frame(tables, csv)), end="")
            elif self.name == TEXT:
                _print_all(tables, first)
            else:
                lines = _latex if self.name == LATEX else _markdown
                print("\n\n".join(lines(table) for table in tables))

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """Standard output, or a file that is written whole or not at all."""
        from circuitgraph.files.atomic_file import write_atomically

        if self.out is None:
            if self.name != TEXT:
                utf8_output()
            yield
            sys.stdout.flush()
            return
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            yield
        write_atomically(self.out, written.getvalue())
        say(f"Written to {self.out}")


def refuse_to_replace(inputs: Sequence[Path], out: Path) -> None:
    """Refuse an output that is one of the files read, or would replace one of a folder that is.

    Raises:
        OutputError: It is.
    """
    for path in inputs:
        if path.is_dir() and out.exists() and path.resolve() in out.resolve().parents:
            raise OutputError(f"{out} would replace a file of {path}, which is read; choose another")
        if path.exists() and out.exists() and path.samefile(out):
            raise OutputError(f"--out {out} is a file that is read; choose another")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as plain values; what is missing or not finite is None.

    Examples:
        >>> import pandas as pd
        >>> records(pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [0.5, float("inf")]}))
        [{'a': 1, 'b': 0.5}, {'a': None, 'b': None}]
    """
    columns = {str(name): [_value(value) for value in frame[name].tolist()] for name in frame}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _value(value: Any) -> Any:
    import math

    import pandas as pd

    if isinstance(value, tuple):
        return list(value)
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value


def _cell(value: Any, column: str) -> str:
    value = _value(value)
    if column.startswith("log10_") and isinstance(value, float):
        return power_of_ten(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column in _SHARES and value is not None:
        return f"{value:.4f}"
    return value if isinstance(value, str) else figure(value)


def _one_frame(tables: Sequence[ResultTable], csv: pd.DataFrame | None) -> pd.DataFrame:
    if csv is not None:
        return csv
    if len(tables) != 1:
        told = ", ".join(table.name for table in tables)
        raise ConfigurationError(f"CSV holds one table; here are {told}. Ask for one of them, or for --json")
    return tables[0].frame


def _print_all(tables: Sequence[ResultTable], first: str) -> None:
    if first:
        print(first)
    for table in tables:
        numbers, rows = table.cells
        headers = [">" * is_number + name for is_number, name in zip(numbers, table.shown.values(), strict=True)]
        print(f"\n{table.title}")
        if rows:
            print_table(headers, rows)
        else:
            print("(none)")


def _latex(table: ResultTable) -> str:
    from analysis import latex

    numbers, rows = table.cells
    texts = [
        [latex.number(cell) if is_number else latex.plain(cell) for is_number, cell in zip(numbers, row, strict=True)]
        for row in rows
    ]
    return latex.table(
        [latex.plain(name) for name in table.shown.values()], texts, numbers=numbers, caption=latex.plain(table.title)
    )


def _markdown(table: ResultTable) -> str:
    from analysis import markdown

    numbers, rows = table.cells
    header = [markdown.plain(name) for name in table.shown.values()]
    cells = [[markdown.plain(cell) for cell in row] for row in rows]
    return f"{markdown.plain(table.title)}\n\n" + markdown.table(header, cells, numbers=numbers)
