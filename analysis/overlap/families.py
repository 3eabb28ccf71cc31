"""Families of tests: p-values adjusted for being many, in log space, so that tiny ones stay apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.columns import column_names, grouped, numbers_in, require_columns
from circuitgraph.errors import ConfigurationError, UnknownNameError


def adjust_p_values(table: pd.DataFrame, *, method: str = "holm", by: str | Sequence[str] = ()) -> pd.DataFrame:
    """Adjust the p-values of a table for being a family.

    Args:
        table: A table with the column `log10_p`, such as one of `analysis.overlap_tests`, without missing values.
        method: `holm` controls the chance of any false rejection, whatever the dependence between tests.
            `benjamini-hochberg` controls the expected share of false ones among the rejections, for tests that are
            independent or depend on each other positively.
        by: Columns by whose values rows are families of their own, e.g. `"null"`. By default all rows are one
            family.

    Returns:
        A copy with the columns `family_size` (int64), `log10_p_adjusted` and `p_adjusted` (float64). Reject where
        `p_adjusted` is at most the level.

    Raises:
        UnknownNameError: No such method or column.
        ConfigurationError: The table is empty, or a logarithm is missing or above 0.

    Examples:
        >>> table = pd.DataFrame({"log10_p": np.log10([0.01, 0.04, 0.03])})
        >>> adjust_p_values(table)["p_adjusted"].round(12).tolist()
        [0.03, 0.06, 0.06]
        >>> adjust_p_values(table, method="benjamini-hochberg")["p_adjusted"].round(12).tolist()
        [0.03, 0.04, 0.04]

    References:
        Holm 1979, "A simple sequentially rejective multiple test procedure"; Benjamini and Hochberg 1995,
        "Controlling the false discovery rate".
    """
    if method not in _METHODS:
        raise UnknownNameError.of("method", method, _METHODS)
    by = column_names(by)
    require_columns(table, others=["log10_p", *by])
    logs = numbers_in(table, "log10_p")
    bad = np.flatnonzero(~(logs <= 0))
    if bad.size:
        raise ConfigurationError(f"log10_p of row {bad[0]}: expected at most 0; got {logs[bad[0]]}")
    sizes, results = np.zeros(len(table), dtype=np.int64), np.zeros(len(table))
    for _, family in grouped(table.reset_index(drop=True), by):
        members = family.index.to_numpy()
        sizes[members] = len(members)
        results[members] = _METHODS[method](logs[members])
    adjusted = table.copy()
    adjusted["family_size"] = sizes
    adjusted["log10_p_adjusted"] = results
    adjusted["p_adjusted"] = 10.0**results
    return adjusted


def _holm(logs: np.ndarray) -> np.ndarray:
    """The largest of (m - i + 1) p_(i) so far, from the smallest p upward."""
    order = np.argsort(logs, kind="stable")
    stepped = logs[order] + np.log10(np.arange(len(logs), 0, -1))
    adjusted = np.empty_like(logs)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 0)
    return adjusted


def _benjamini_hochberg(logs: np.ndarray) -> np.ndarray:
    """The smallest of p_(i) m / i yet to come, from the smallest p upward."""
    order, m = np.argsort(logs, kind="stable"), len(logs)
    stepped = logs[order] + np.log10(m / np.arange(1, m + 1))
    adjusted = np.empty_like(logs)
    adjusted[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 0)
    return adjusted


_METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "holm": _holm,
    "benjamini-hochberg": _benjamini_hochberg,
}
