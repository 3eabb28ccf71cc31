"""Columns of tables that come from outside: named, present, grouped, and holding finite numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from circuitgraph.errors import ConfigurationError, UnknownNameError


def column_names(names: str | Sequence[str]) -> list[str]:
    """One name or several, as a list.

    Examples:
        >>> column_names("kl"), column_names(["kl", "accuracy"])
        (['kl'], ['kl', 'accuracy'])
    """
    return [names] if isinstance(names, str) else list(names)


def require_columns(table: pd.DataFrame, *, numbers: Sequence[str] = (), others: Sequence[str] = ()) -> None:
    """Refuse an empty table, a missing column, or a number that is missing or not finite.

    Args:
        table: The table.
        numbers: Columns that must hold finite numbers.
        others: Columns that must be there.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, or a number is missing or not finite.
    """
    for name in (*numbers, *others):
        if name not in table:
            raise UnknownNameError.of("column", name, map(str, table.columns))
    if not len(table):
        raise ConfigurationError("expected at least one row; the table is empty")
    for name in numbers:
        values = numbers_in(table, name)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ConfigurationError(
                f"column {name!r}, row {bad[0]}: expected a finite number; got {values[bad[0]]}. Drop such rows first"
            )


def numbers_in(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as floats, with NaN where a value is missing `[row]`.

    Raises:
        ConfigurationError: A value is no number.
    """
    try:
        return table[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"column {name!r}: expected numbers ({error})") from error


def grouped(table: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[object, ...], pd.DataFrame]]:
    """The rows that agree in some columns, with what they agree on; all rows where no column is named.

    Yields:
        One value a column of `by`, and the rows, groups in the order in which they first come.
    """
    if not by:
        yield (), table
        return
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        yield tuple(key) if isinstance(key, tuple) else (key,), group
