"""Numbers of faithfulness over sparsity: area under a curve, and which points nothing else beats.

Works on any table with a row per circuit: methods, tasks, seeds and sparsities may be mixed, as columns say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from analysis.columns import column_names, grouped, numbers_in, require_columns
from circuitgraph.errors import ConfigurationError


def area_under_curves(
    table: pd.DataFrame,
    *,
    x: str = "sparsity",
    y: str = "kl",
    by: str | Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    log_x: bool = False,
) -> pd.DataFrame:
    """Area under each curve, between the same limits for all.

    Curves are linear between their points; several points at one x, such as seeds, are averaged first. Nothing is
    extrapolated.

    Args:
        table: One row per circuit.
        x: Column of sparsities, or of anything else that curves run along.
        y: Column of faithfulness, in any unit.
        by: Columns whose values tell curves apart, e.g. `["method", "task"]`.
        limits: From where to where along x; by default the widest range that all curves cover.
        log_x: Whether the area is over the decimal logarithm of x, such as of the number of edges: then every decade
            counts alike, and small circuits as much as large ones. Curves are linear between their points there.

    Returns:
        One row a curve, with the columns of `by`, `n_points` (int64), the number of different x on the curve, `low`,
        `high` (float64), the limits, `area` (float64), and `mean` (float64), the area / (high - low), or over the
        difference of their logarithms: the mean of y over the range, comparable between ranges.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, a value is missing or not finite, a curve has fewer than two points or
            does not cover the limits, the curves cover no common range, or `log_x` meets an x that is not above 0.

    Examples:
        >>> table = pd.DataFrame({"sparsity": [0.0, 0.5, 1.0], "kl": [0.0, 0.0, 1.0]})
        >>> print(area_under_curves(table))
           n_points  low  high  area  mean
        0         3  0.0   1.0  0.25  0.25
        >>> area_under_curves(table, limits=(0.5, 0.75))["mean"].item()
        0.25
        >>> by_size = pd.DataFrame({"n_edges": [10, 100, 1000], "kl": [2.0, 1.0, 0.0]})
        >>> area_under_curves(by_size, x="n_edges", log_x=True)["mean"].item()
        1.0
    """
    by = column_names(by)
    require_columns(table, numbers=[x, y], others=by)
    curves = {key: _curve(group, x, y) for key, group in grouped(table, by)}
    for key, (along, _) in curves.items():
        if len(along) < 2:
            raise ConfigurationError(f"{_called(by, key)} has one value of {x!r}; an area needs at least two")
    low, high = limits or (
        max(float(along[0]) for along, _ in curves.values()),
        min(float(along[-1]) for along, _ in curves.values()),
    )
    if not low < high:
        told = "; ".join(f"{_called(by, key)}: {along[0]:g} to {along[-1]:g}" for key, (along, _) in curves.items())
        raise ConfigurationError(f"no range of {x!r} from {low:g} to {high:g}; the curves cover {told}")
    rows = []
    for key, (along, height) in curves.items():
        if low < along[0] or high > along[-1]:
            raise ConfigurationError(
                f"{_called(by, key)} covers {x!r} from {along[0]:g} to {along[-1]:g}, the limits are {low:g} to "
                f"{high:g}; nothing is extrapolated"
            )
        inside = np.concatenate([[low], along[(along > low) & (along < high)], [high]])
        if log_x:
            if along[0] <= 0:
                raise ConfigurationError(f"log_x needs values of {x!r} above 0; {_called(by, key)} has {along[0]:g}")
            inside, along = np.log10(inside), np.log10(along)
        area = float(trapezoid(np.interp(inside, along, height), inside))
        rows.append((*key, len(height), low, high, area, area / (inside[-1] - inside[0])))
    return pd.DataFrame(rows, columns=[*by, "n_points", "low", "high", "area", "mean"])


def pareto_front(
    table: pd.DataFrame,
    *,
    maximise: str | Sequence[str] = (),
    minimise: str | Sequence[str] = (),
    by: str | Sequence[str] = (),
) -> pd.DataFrame:
    """Mark the rows that no other row beats.

    A row is beaten by another that is at least as good in every column and better in one; equal rows do not beat
    each other.

    Args:
        table: One row per circuit.
        maximise: Columns in which more is better, e.g. `"sparsity"`.
        minimise: Columns in which less is better, e.g. `"kl"`.
        by: Columns whose values tell fronts apart, e.g. `"task"`.

    Returns:
        A copy of the table with the column `on_front` (bool).

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, no column is to be maximised or minimised, or a value is missing or not
            finite.

    Examples:
        >>> table = pd.DataFrame({"sparsity": [0.9, 0.9, 0.99], "kl": [0.1, 0.2, 0.5]})
        >>> pareto_front(table, maximise="sparsity", minimise="kl")["on_front"].tolist()
        [True, False, True]
    """
    maximise, minimise, by = (column_names(names) for names in (maximise, minimise, by))
    if not maximise and not minimise:
        raise ConfigurationError("say what is better: a column in maximise= or in minimise=")
    require_columns(table, numbers=[*maximise, *minimise], others=by)
    marked = table.copy()
    on_front = pd.Series(False, index=range(len(table)))
    places = table.reset_index(drop=True)
    for _, group in grouped(places, by):
        more, less = (group[names].to_numpy(dtype=np.float64) for names in (maximise, minimise))
        on_front[group.index] = _undominated(np.concatenate([more, -less], axis=1))
    marked["on_front"] = on_front.to_numpy()
    return marked


def _undominated(points: np.ndarray) -> np.ndarray:
    """Which points `[point column]` no other is at least as good as everywhere and better somewhere."""
    alive = np.ones(len(points), dtype=bool)
    for place, point in enumerate(points):
        alive[place] = not np.any((points >= point).all(1) & (points > point).any(1))
    return alive


def _curve(group: pd.DataFrame, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Different values along x, rising, and the mean height at each."""
    along, place = np.unique(numbers_in(group, x), return_inverse=True)
    height = np.bincount(place, weights=numbers_in(group, y)) / np.bincount(place)
    return along, height


def _called(by: list[str], key: tuple[object, ...]) -> str:
    return (
        "the curve of " + ", ".join(f"{name} {value}" for name, value in zip(by, key, strict=True))
        if by
        else "the curve"
    )
