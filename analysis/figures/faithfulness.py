"""Faithfulness over sparsity as pictures: a curve a method or task, with its spread over seeds and its area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.columns import column_names, grouped, numbers_in, require_columns
from analysis.faithfulness import area_under_curves
from analysis.figures.labels import legend_above, plain_label, plain_labels
from analysis.figures.own_look import own_look
from analysis.figures.panels import label_outside, panel_axes
from analysis.figures.style import DOUBLE_COLUMN, INK, SINGLE_COLUMN, SeriesStyle, series_style, style_axes
from circuitgraph.errors import ConfigurationError

_PER_ROW = 2
_Key = tuple[object, ...]


@own_look
def curves_figure(
    table: pd.DataFrame,
    *,
    x: str = "sparsity",
    y: str = "kl",
    by: str | Sequence[str] = (),
    panels: str | None = None,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    labels: tuple[str, str] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draw curves of faithfulness over sparsity.

    Every row is a point; where several share an x, such as seeds, the line goes through their mean and a band
    spans from the lowest to the highest. The legend gives the area under each curve, as `analysis.area_under_curves`
    has it, and the range of x that it is of: the widest that all curves of the panel cover. Curves of one point have no
    area, and there is none where the curves have no common range. Rows that `analysis.pareto_front` marks as `on_front`
    are ringed. Where the table has the bounds of an interval, `Y_low` and `Y_high` as
    `pruning.metrics_table(..., intervals=True)` gives them, they are lines through the points.

    Args:
        table: One row per circuit.
        x: Column of sparsities, or of anything else that curves run along.
        y: Column of faithfulness, in any unit.
        by: Columns whose values tell curves apart, e.g. `["method"]`.
        panels: A column whose values get a panel each, e.g. `"task"`. A curve looks the same in all of them.
        limits: The range for the areas, instead of the widest.
        log: Whether y is on a logarithmic scale.
        labels: What to write at the axes, instead of the columns' names.
        axes: Where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, a value is missing or not finite, `log` meets a value that is not above
            0, limits reach beyond a curve, or several panels were to go on `axes`.

    Examples:
        >>> table = pd.DataFrame({"sparsity": [0.0, 0.5, 1.0], "kl": [0.0, 0.0, 1.0], "method": "pruning"})
        >>> figure = curves_figure(table, by="method")
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['pruning (AUC 0.25)']
    """
    by = column_names(by)
    require_columns(table, numbers=[x, y], others=[*by, *([panels] if panels else [])])
    if log and (numbers_in(table, y) <= 0).any():
        raise ConfigurationError(f"a logarithmic scale needs values above 0; column {y!r} has others")
    # A curve's look goes by all curves of the table, so that it is the same in every panel.
    styles = {key: series_style(place) for place, (key, _) in enumerate(grouped(table, by))}
    names = dict(zip(styles, plain_labels([", ".join(map(str, key)) or y for key in styles]), strict=True))
    parts = {str(key[0]) if key else "": rows for key, rows in grouped(table, [panels] if panels else [])}
    width = SINGLE_COLUMN if len(parts) == 1 else DOUBLE_COLUMN
    height = 0.7 * width / min(len(parts), _PER_ROW)
    figure, places = panel_axes(len(parts), axes, width=width, per_row=_PER_ROW, height=height)
    label_outside(places, *map(plain_label, labels or (x, y)), per_row=_PER_ROW)
    for place, (part, rows) in enumerate(parts.items()):
        panel = places[place]
        style_axes(panel, grid="both")
        if log:
            panel.set_yscale("log")
            # Powers of ten would be set in exponents, smaller than print allows.
            panel.yaxis.set_major_formatter("{x:,g}")
        areas = _areas(rows, x, y, by, limits)
        handles, told = [], []
        for key, points in grouped(rows, by):
            handles.append(_draw_curve(panel, points, x, y, styles[key]))
            told.append(f"{names[key]} (AUC {areas.per_curve[key]:.3g})" if key in areas.per_curve else names[key])
        if "on_front" in rows:
            handles.append(_ring(panel, rows, x, y))
            told.append("Pareto front")
        if by or part or areas.told or "on_front" in rows:
            title = "; ".join(filter(None, [plain_label(part), areas.told]))
            legend_above(panel, handles, told, title=title, grow=axes is None and place % _PER_ROW == 0)
    return figure


class _Areas(NamedTuple):
    """The area of every curve that has one, and the range that they are of, in words."""

    per_curve: dict[_Key, float]
    told: str


def _areas(rows: pd.DataFrame, x: str, y: str, by: list[str], limits: tuple[float, float] | None) -> _Areas:
    along = {key: numbers_in(points, x) for key, points in grouped(rows, by)}
    curves = {key for key, places in along.items() if len(np.unique(places)) > 1}
    lowest = max((along[key].min() for key in curves), default=0.0)
    highest = min((along[key].max() for key in curves), default=0.0)
    if limits is None and lowest >= highest:
        return _Areas({}, "")
    chosen = pd.concat([points for key, points in grouped(rows, by) if key in curves])
    table = area_under_curves(chosen, x=x, y=y, by=by, limits=limits)
    areas = {key: float(found["area"].iloc[0]) for key, found in grouped(table, by)}
    low, high = table["low"].iloc[0], table["high"].iloc[0]
    return _Areas(areas, f"AUC from {low:.3g} to {high:.3g}")


def _draw_curve(axes: Axes, points: pd.DataFrame, x: str, y: str, style: SeriesStyle) -> Line2D:
    across, up = numbers_in(points, x), numbers_in(points, y)
    spread = pd.Series(up).groupby(across).agg(["mean", "min", "max"])
    if len(points) > len(spread):
        axes.fill_between(spread.index, spread["min"], spread["max"], color=style.color, alpha=0.18, linewidth=0)
        axes.plot(across, up, linestyle="", marker=style.marker, markersize=2, color=style.color, alpha=0.6)
    if f"{y}_low" in points and f"{y}_high" in points:
        low, high = numbers_in(points, f"{y}_low"), numbers_in(points, f"{y}_high")
        axes.vlines(across, low, high, color=style.color, linewidth=0.8, alpha=0.8)
    look = {"color": style.color, "linestyle": style.line, "marker": style.marker, "linewidth": 1.2, "markersize": 4}
    (line,) = axes.plot(spread.index, spread["mean"], **look)
    return line


def _ring(axes: Axes, rows: pd.DataFrame, x: str, y: str) -> Line2D:
    look = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 0.8}
    chosen = rows["on_front"].to_numpy(dtype=bool)
    (rings,) = axes.plot(numbers_in(rows, x)[chosen], numbers_in(rows, y)[chosen], linestyle="", **look)
    return rings
