"""How faithful circuits of all sizes are: measures over the number of edges, both ends of the axis alike visible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.columns import column_names, grouped, numbers_in, require_columns
from analysis.figures.labels import legend_above, legend_within, plain_labels
from analysis.figures.own_look import own_look
from analysis.figures.style import DOUBLE_COLUMN, SeriesStyle, new_figure, series_style, style_axes
from circuitgraph.errors import ConfigurationError

_MEASURES = {
    "kl": ("KL (nats)", 1.0),
    "mse": ("mean squared error", 1.0),
    "exact_match": ("exact match (%)", 100.0),
    "accuracy": ("accuracy (%)", 100.0),
}
_PER_ROW = 2


@own_look
def front_figure(table: pd.DataFrame, *, by: str | Sequence[str] = ()) -> Figure:
    """Draw measures over the number of edges kept, on a logarithmic axis: a panel per measure.

    Args:
        table: A row per circuit, with `n_edges` and at least one of `kl`, `mse`, `exact_match` and `accuracy`; bounds
            of intervals as `MEASURE_low` and `MEASURE_high` are drawn where there are any.
        by: Columns whose values tell lines apart, such as `["method"]`. Where several rows of a line have the same
            `sparsity`, such as those of seeds, the line goes through their mean and a band spans them.

    Returns:
        The figure.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, or has no measure.

    Examples:
        >>> table = pd.DataFrame({"n_edges": [700, 70], "kl": [0.1, 0.4], "accuracy": [1.0, 0.8]})
        >>> [panel.get_ylabel() for panel in front_figure(table).axes]
        ['KL (nats)', 'accuracy (%)']
    """
    by = column_names(by)
    require_columns(table, numbers=["n_edges"], others=by)
    measures = [name for name in _MEASURES if name in table and bool(table[name].notna().any())]
    if not measures:
        raise ConfigurationError(
            f"expected a column of {', '.join(_MEASURES)}; got {', '.join(map(str, table.columns))}"
        )
    lines = {key: series_style(place) for place, (key, _) in enumerate(grouped(table, by))}
    names = plain_labels([", ".join(map(str, key)) for key in lines]) if by else []
    rows = -(-len(measures) // _PER_ROW)
    figure = new_figure(DOUBLE_COLUMN, 2.2 * rows + 0.4)
    across = min(_PER_ROW, len(measures))
    panels: list[Axes] = np.ravel(figure.subplots(rows, across, squeeze=False)).tolist()
    panels, free = panels[: len(measures)], panels[len(measures) :]
    for panel in free:
        panel.axis("off")
    for panel, measure in zip(panels, measures, strict=True):
        label, scale = _MEASURES[measure]
        style_axes(panel, grid="both")
        panel.set_xscale("log")
        _plain_ticks(panel.xaxis, numbers_in(table, "n_edges"))
        panel.set_xlabel("edges kept")
        panel.set_ylabel(label)
        drawn = [_draw_line(panel, rows_of, measure, scale, lines[key]) for key, rows_of in grouped(table, by)]
        if by and panel is panels[0]:
            _legend(panel, free, drawn, names)
        if scale == 1.0 and numbers_in(table, measure).min() > 0:
            panel.set_yscale("log")
            _plain_ticks(panel.yaxis, numbers_in(table, measure))
    return figure


def _plain_ticks(axis: Axis, values: np.ndarray) -> None:
    """Numbers as they are written, at powers of ten; over few of these, at twice and five times as much too."""
    axis.set_major_formatter("{x:,g}")
    few = values.max() <= 10 * values.min()
    axis.set_minor_locator(LogLocator(subs=(2, 5)) if few else LogLocator(subs="auto"))
    axis.set_minor_formatter("{x:,g}" if few else NullFormatter())


def _legend(panel: Axes, free: Sequence[Axes], lines: Sequence[Line2D], names: Sequence[str]) -> None:
    """All panels have the same lines, so one legend: where no panel is, or else above the first one."""
    if free:
        legend_within(free[0], lines, names)
    else:
        legend_above(panel, lines, names, grow=True)


def _draw_line(panel: Axes, points: pd.DataFrame, measure: str, scale: float, style: SeriesStyle) -> Line2D:
    """One line, with what spreads about it."""
    edges, values = numbers_in(points, "n_edges"), scale * numbers_in(points, measure)
    steps, place = np.unique(numbers_in(points, "sparsity") if "sparsity" in points else -edges, return_inverse=True)
    counts = np.bincount(place)
    along, mean = (np.bincount(place, weights=numbers) / counts for numbers in (edges, values))
    if len(points) > len(steps):
        low, high = np.full(len(steps), np.inf), np.full(len(steps), -np.inf)
        np.minimum.at(low, place, values)
        np.maximum.at(high, place, values)
        panel.fill_between(along, low, high, color=style.color, alpha=0.18, linewidth=0)
    elif f"{measure}_low" in points and f"{measure}_high" in points:
        low, high = scale * numbers_in(points, f"{measure}_low"), scale * numbers_in(points, f"{measure}_high")
        panel.vlines(edges, low, high, color=style.color, linewidth=0.8, alpha=0.8)
    look = {"color": style.color, "linestyle": style.line, "marker": style.marker, "linewidth": 1.2, "markersize": 4}
    (line,) = panel.plot(along, mean, **look)
    return line
