"""Overlap of many circuits as a picture: a square of values, in the order of their clusters, with the tree above it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram

from analysis.figures.cells import draw_cells, finish_cells
from analysis.figures.own_look import own_look
from analysis.figures.panels import panel_axes, trim_height
from analysis.figures.style import DOUBLE_COLUMN, GREY, SINGLE_COLUMN
from analysis.overlap.matrices import Clusters
from circuitgraph.errors import ConfigurationError

# Above this many circuits a single column is too narrow.
_FEW = 8


@own_look
def overlap_figure(
    matrix: pd.DataFrame | Clusters,
    *,
    label: str = "IoU",
    values: bool | None = None,
    tree: bool = False,
    limits: tuple[float, float] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draw a square table of overlap.

    Args:
        matrix: What `analysis.overlap_matrix` gives, drawn in its order, or what `analysis.cluster` gives, drawn in the
            order of the clusters.
        label: What the values are.
        values: Whether to write the values into their cells; by default where there is room.
        tree: Whether to draw the tree of the clusters above, whose heights are distances, 1 - value.
        limits: The values at the ends of the colours. By default from 0, or the smallest value if that is negative, to
            1, or the largest value if that is more.
        axes: Where to draw; by default a new figure, one column wide for up to eight circuits, else two.

    Returns:
        The figure.

    Raises:
        ConfigurationError: The table is empty or not square, all its values are missing, or a tree is asked for
            without clusters.

    Examples:
        >>> table = pd.DataFrame([[1, 0.25], [0.25, 1]], index=["a", "b"], columns=["a", "b"])
        >>> [text.get_text() for text in overlap_figure(table).axes[0].texts]
        ['1.00', '0.25', '0.25', '1.00']
    """
    table = matrix.matrix if isinstance(matrix, Clusters) else matrix
    numbers = _checked(table)
    if tree and not isinstance(matrix, Clusters):
        raise ConfigurationError("a tree needs clusters; pass analysis.cluster(matrix)")
    n = len(numbers)
    width = SINGLE_COLUMN if n <= _FEW else DOUBLE_COLUMN
    figure, (panel,) = panel_axes(1, axes, width=width, height=1.4 * width)
    draw_cells(panel, table, limits or _limits(numbers))
    if tree and isinstance(matrix, Clusters) and n > 1:
        _draw_tree(panel, matrix.linkage)
    finish_cells(panel, numbers, label=label, values=values)
    if axes is None:
        trim_height(figure)
    return figure


def _checked(table: pd.DataFrame) -> np.ndarray:
    if table.shape[0] != table.shape[1] or not len(table):
        raise ConfigurationError(f"expected a square table with at least one circuit; got {table.shape}")
    numbers = table.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(numbers).any():
        raise ConfigurationError("every value of the table is missing; there is nothing to draw")
    return numbers


def _limits(numbers: np.ndarray) -> tuple[float, float]:
    return min(0.0, float(np.nanmin(numbers))), max(1.0, float(np.nanmax(numbers)))


def _draw_tree(axes: Axes, linkage: np.ndarray) -> None:
    """The tree on axes of its own, whose leaves stand over the columns."""
    drawn = dendrogram(linkage, no_plot=True)
    # scipy puts leaf i at 10 i + 5.
    lines = [
        np.column_stack([(np.array(across) - 5) / 10, up])
        for across, up in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    above = axes.inset_axes((0, 1.02, 1, 0.18))
    above.add_collection(LineCollection(lines, colors=GREY, linewidths=0.8))
    above.set_xlim(axes.get_xlim())
    above.set_ylim(0, 1.05 * max(float(linkage[:, 2].max()), 1e-9))
    above.set_axis_off()
