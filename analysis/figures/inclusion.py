"""Inclusion over seeds as a picture: how many edges are in how many circuits, and in which layers they end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.columns import require_columns
from analysis.comparable import Circuits
from analysis.figures.labels import label_layers, legend_above, overlapping
from analysis.figures.own_look import own_look
from analysis.figures.style import (
    BLUE,
    DOUBLE_COLUMN,
    INK,
    ORANGE,
    SKY,
    SMALL_FONT_SIZE,
    lay_out,
    new_figure,
    style_axes,
)
from analysis.seeds import inclusion_frequency
from circuitgraph.errors import ConfigurationError

# Classes of edges from the surest: name, colour, hatch.
_CLASSES = (("in all", BLUE, ""), ("in at least half", SKY, "//////"), ("in fewer", ORANGE, "......"))


@own_look
def inclusion_figure(circuits: Circuits | pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> Figure:
    """Draw how many edges are in exactly 1, 2, … circuits, and how those of each class spread over the layers.

    Args:
        circuits: Circuits of one universe, such as one per seed; or a table of `analysis.inclusion_frequency`.
        axes: Where to draw, one for each part; by default a new figure.

    Returns:
        The figure. Its left part has a bar a number of circuits, its right part a stack a layer that edges end in.

    Raises:
        ConfigurationError: There is no edge to draw, or `axes` does not hold two.
        GraphMismatchError: The circuits are of different universes or models.
        UnknownNameError: The table lacks a column.

    Examples:
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> [int(bar.get_height()) for bar in inclusion_figure([a, b]).axes[0].patches]
        [1, 2]
    """
    table = circuits if isinstance(circuits, pd.DataFrame) else inclusion_frequency(circuits)
    require_columns(table, numbers=["count", "frequency", "reader_layer"], others=["kind"])
    if axes is None:
        panels = new_figure(DOUBLE_COLUMN, 2.2).subplots(1, 2, width_ratios=[1, 1.6]).tolist()
    else:
        panels = list(axes)
    if len(panels) != 2:
        raise ConfigurationError(f"axes: expected two, one for each part; got {len(panels)}")
    n_circuits = round(float(table["count"].iloc[0] / table["frequency"].iloc[0]))
    _draw_numbers(panels[0], table["count"].to_numpy(dtype=np.int64), n_circuits)
    _draw_layers(panels[1], table, grow=axes is None)
    return panels[0].figure.canvas.figure


def _draw_numbers(axes: Axes, counts: np.ndarray, n_circuits: int) -> None:
    """A bar a number of circuits, with its height above where there is room."""
    style_axes(axes, grid="y")
    edges = np.bincount(counts, minlength=n_circuits + 1)[1:]
    axes.bar(np.arange(1, n_circuits + 1), edges, width=0.8, color=BLUE)
    axes.set_xlabel(f"circuits, of {n_circuits}")
    axes.set_ylabel("edges in exactly that many")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlim(0.4, n_circuits + 0.6)
    axes.set_ylim(0, 1.12 * max(edges.max(), 1))
    look = {"ha": "center", "va": "bottom", "fontsize": SMALL_FONT_SIZE, "color": INK}
    texts = [axes.text(place, height, f"{height:,}", **look) for place, height in enumerate(edges.tolist(), 1)]
    lay_out(axes.figure.canvas.figure)
    if overlapping(texts):
        for text in texts:
            text.remove()


def _draw_layers(axes: Axes, table: pd.DataFrame, *, grow: bool) -> None:
    """A stack a layer, the surest edges at the bottom."""
    style_axes(axes, grid="y")
    layers, frequency = table["reader_layer"].to_numpy(dtype=np.int64), table["frequency"].to_numpy(dtype=np.float64)
    # The tolerance lets 3 of 3 be all, however the division was rounded.
    place = np.select([frequency >= 1 - 1e-9, frequency >= 0.5 - 1e-9], [0, 1], default=2)
    highest = int(layers.max())
    below, bars = np.zeros(highest + 1), []
    for number, (_, color, hatch) in enumerate(_CLASSES):
        edges = np.bincount(layers[place == number], minlength=highest + 1)
        look = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3, "width": 0.9}
        bars.append(axes.bar(np.arange(highest + 1), edges, bottom=below, **look)[0])
        below += edges
    axes.set_xlabel("layer that reads")
    axes.set_ylabel("edges")
    axes.set_xlim(-0.6, highest + 0.6)
    legend_above(axes, bars, [name for name, _, _ in _CLASSES], grow=grow)
    logits = layers[(table["kind"] == "logits").to_numpy()]
    # Without an edge into the logits nothing tells how many layers there are, and nothing needs to.
    lay_out(axes.figure.canvas.figure)
    label_layers(axes.xaxis, int(logits[0]) if logits.size else highest + 1, last=highest)
