"""Metrics by role as tables and flat rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def metrics_table(metrics: Mapping[str, Mapping[str, Any]], *, intervals: bool = False) -> pd.DataFrame:
    """Metrics by role as a table to look at.

    Args:
        metrics: By role, then by metric, as in `Evaluation.metrics`.
        intervals: Whether each metric's bounds are there as well, as `METRIC_low` and `METRIC_high`.

    Returns:
        A row per role, in the order given, a column per metric (float64), NaN where a role lacks it.

    Examples:
        >>> table = metrics_table({"circuit": {"kl": 0.25}, "random": {"kl": 3.0, "kl_sd": None}})
        >>> table["kl"].to_dict()
        {'circuit': 0.25, 'random': 3.0}
    """
    rows = {role: flat_row(row, intervals=intervals) for role, row in metrics.items()}
    return pd.DataFrame.from_dict(rows, orient="index").astype(float)


def flat_row(row: Mapping[str, Any], *, intervals: bool = False) -> dict[str, float | int | None]:
    """A role's metrics without what lies inside them: differences, and intervals unless they are asked for.

    Args:
        row: A role's metrics.
        intervals: Whether to add `METRIC_low` and `METRIC_high`, None where there is no interval.

    Examples:
        >>> flat_row({"kl": 0.25, "intervals": {"kl": [0.125, 0.5]}}, intervals=True)
        {'kl': 0.25, 'kl_low': 0.125, 'kl_high': 0.5}
    """
    found = {name: value for name, value in row.items() if not isinstance(value, Mapping)}
    for name, bounds in row.get("intervals", {}).items() if intervals else ():
        found[f"{name}_low"], found[f"{name}_high"] = bounds or (None, None)
    return found
