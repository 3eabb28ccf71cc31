"""A causal trace as a picture: which layers bring back what was lost, at which place of the prompt."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.figures.colors import color_bar, density_colors
from analysis.figures.labels import label_layers
from analysis.figures.own_look import own_look
from analysis.figures.panels import label_outside, panel_axes, title_panels
from analysis.figures.style import DOUBLE_COLUMN, PALE, lay_out, style_axes
from circuitgraph.errors import ConfigurationError, UnknownNameError

MEASURES = ("probability", "kl")
_INCHES_PER_PLACE, _INCHES_BESIDE = 0.2, 0.62
_SHOWN = {"mlp": "MLP", "null_token": "null token"}
_COLUMNS = ("corruption", "kind", "place", "width", "layer")


@own_look
def causal_trace_figure(
    table: pd.DataFrame,
    *,
    width: int | None = None,
    measure: str = "probability",
    limits: tuple[float, float] = (0.02, 1.0),
    n_layers: int | None = None,
) -> Figure:
    """Draw the share of what was lost that comes back, a panel per corruption and kind of part.

    Args:
        table: A row per corruption and window, as `trace.csv` of `circuitgraph causal-trace`.
        width: Which windows: so many layers on either side; by default the narrowest.
        measure: Of which measure: `probability` or `kl`.
        limits: The shares at the ends of the colours; what is below, as next to nothing is, is white, and what is
            above as dark as the end.
        n_layers: How many layers the model has; by default up to the last in the table.

    Returns:
        The figure: layers from left to right, places from top to bottom, corruptions and kinds in panels.

    Raises:
        UnknownNameError: No such measure.
        ConfigurationError: No rows of that width, several for one window, another table, or limits or a number of
            layers that do not fit.

    Examples:
        >>> rows = [("null_token", "mlp", "last", 0, layer, 0.5) for layer in range(3)]
        >>> columns = ["corruption", "kind", "place", "width", "layer", "probability_share"]
        >>> figure = causal_trace_figure(pd.DataFrame(rows, columns=columns))
        >>> [axes.get_title() for axes in figure.axes]
        ['MLP, null token']
    """
    if measure not in MEASURES:
        raise UnknownNameError.of("measure of a causal trace", measure, MEASURES)
    value = f"{measure}_share"
    missing = [name for name in (*_COLUMNS, value) if name not in table.columns]
    if missing:
        raise ConfigurationError(
            f"the table has no column {missing[0]!r}; expected that of `circuitgraph causal-trace`"
        )
    low, high = limits
    if not low < high < float("inf"):
        raise ConfigurationError(f"limits: expected the lower and the upper end of the colours; got {low} and {high}")
    widths = sorted(table["width"].unique().tolist())
    width = widths[0] if width is None and widths else width
    rows = pd.DataFrame(table[table["width"] == width])
    if not len(rows):
        there = ", ".join(map(str, widths)) or "none"
        raise ConfigurationError(f"the table has no windows of {width} layers on either side; it has widths {there}")
    twice = rows[rows.duplicated(list(_COLUMNS))]
    if len(twice):
        which = ", ".join(f"{name} {twice[name].tolist()[0]}" for name in _COLUMNS)
        raise ConfigurationError(f"the table has several rows for one window ({which}); draw each trace by itself")
    kinds, corruptions = list(dict.fromkeys(rows["kind"])), list(dict.fromkeys(rows["corruption"]))
    places = list(dict.fromkeys(rows["place"]))
    needed = max(table["layer"].tolist()) + 1
    shown_layers = needed if n_layers is None else n_layers
    if shown_layers < needed:
        raise ConfigurationError(f"n_layers is {n_layers}, and the table has layer {needed - 1}")
    height = _INCHES_BESIDE + _INCHES_PER_PLACE * len(places)
    n_panels = len(kinds) * len(corruptions)
    figure, panels = panel_axes(n_panels, None, width=DOUBLE_COLUMN, per_row=len(kinds), height=height)
    shown = [(corruption, kind) for corruption in corruptions for kind in kinds]
    for panel, (corruption, kind) in zip(panels, shown, strict=True):
        part = pd.DataFrame(rows[(rows["corruption"] == corruption) & (rows["kind"] == kind)])
        _draw(panel, part.pivot(index="place", columns="layer", values=value), places, shown_layers, limits)
    label_outside(panels, f"layer ± {width}" if width else "layer", "restored at", per_row=len(kinds))
    for place, panel in enumerate(panels):
        panel.set_yticks(
            range(len(places)), [one.replace("_", " ") for one in places] if place % len(kinds) == 0 else []
        )
    label = f"{'KL' if measure == 'kl' else measure}\nrestored"
    for panel in panels[len(kinds) - 1 :: len(kinds)]:
        color_bar(panel, label, ticks=limits, values=rows[value].to_numpy(dtype=float))
    title_panels(
        panels, [f"{_SHOWN.get(kind, kind)}, {_SHOWN.get(corruption, corruption)}" for corruption, kind in shown]
    )
    lay_out(figure)
    for panel in panels:
        label_layers(panel.xaxis, shown_layers, last=shown_layers - 1)
    return figure


def _draw(axes: Axes, found: pd.DataFrame, places: list[str], n_layers: int, limits: tuple[float, float]) -> None:
    """One panel; layers without a window are hatched."""
    numbers = found.reindex(index=places, columns=range(n_layers)).to_numpy(dtype=float, na_value=np.nan)
    style_axes(axes)
    axes.patch.set(hatch="/////", edgecolor=PALE, linewidth=0)
    axes.imshow(numbers, cmap=density_colors(), norm=Normalize(*limits), aspect="auto", interpolation="nearest")
    axes.tick_params(length=0)
