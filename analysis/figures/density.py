"""Layer-to-layer density as pictures: which share of the edges from one layer to another a circuit keeps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from analysis.columns import grouped, require_columns
from analysis.comparable import Circuits
from analysis.figures.colors import color_bar, density_colors
from analysis.figures.labels import label_layers
from analysis.figures.own_look import own_look
from analysis.figures.panels import PER_ROW, label_outside, panel_axes, title_panels, trim_height
from analysis.figures.style import DOUBLE_COLUMN, PALE, SINGLE_COLUMN, lay_out, style_axes
from analysis.sparsity import block_density


@own_look
def block_density_figure(
    circuits: Circuits | pd.DataFrame, *, axes: Axes | None = None, largest: float | None = None
) -> Figure:
    """Draw the density of layer-to-layer blocks: writers to the right, readers upward.

    Colours follow the square root of the density, so that sparse blocks can be told apart. Blocks of which nothing is
    kept are white; pairs of layers without edges are hatched.

    Args:
        circuits: One circuit, several, or names with their circuits; or a table of `analysis.block_density`.
        axes: Where to draw; by default a new figure with a panel per circuit.
        largest: The density at the end of the colours; by default the largest of all panels.

    Returns:
        The figure.

    Raises:
        ConfigurationError: There is no circuit, or there are several and `axes` is given.
        UnknownNameError: The table lacks a column.

    Examples:
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.h1<v>", "a0.h1->m1", "m1->logits"])
        >>> block_density_figure(circuit).axes[0].get_xlabel()
        'layer that writes'
    """
    table = circuits if isinstance(circuits, pd.DataFrame) else block_density(circuits)
    require_columns(table, numbers=["writer_layer", "reader_layer", "kept", "total"], others=["circuit"])
    matrices = {str(name): density_matrix(rows) for (name,), rows in grouped(table, ["circuit"])}
    figure, panels = panel_axes(len(matrices), axes, width=SINGLE_COLUMN if len(matrices) == 1 else DOUBLE_COLUMN)
    top = largest or max(float(np.nanmax(matrix)) for matrix in matrices.values()) or 1.0
    for panel, matrix in zip(panels, matrices.values(), strict=True):
        _draw(panel, matrix, top)
    label_outside(panels, "layer that writes", "layer that reads")
    ticks = [tick for tick in (0.01, 0.05, 0.1, 0.2, 0.5, 1.0) if tick <= top * (1 + 1e-9)]
    last = panels[min(len(panels), PER_ROW) - 1]
    color_bar(last, "share of edges kept (square-root scale)", ticks=ticks if len(ticks) > 1 else None)
    lay_out(figure)
    for panel, matrix in zip(panels, matrices.values(), strict=True):
        label_layers(panel.xaxis, len(matrix) - 1, first=-1, last=len(matrix) - 2)
        label_layers(panel.yaxis, len(matrix) - 1)
    if len(matrices) > 1:
        title_panels(panels, list(matrices))
    if axes is None:
        trim_height(figure)
    return figure


def density_matrix(table: pd.DataFrame) -> np.ndarray:
    """The densities of one circuit's blocks.

    Args:
        table: Its rows of `analysis.block_density`; kinds are added up.

    Returns:
        Kept / total `[reader_layer writer_layer]`, readers from layer 0 to the logits, writers from the embeddings to
        the last layer; NaN where the universe has no such edges.
    """
    blocks = table.groupby(["reader_layer", "writer_layer"], as_index=False).agg({"kept": "sum", "total": "sum"})
    readers, writers = (blocks[name].to_numpy(dtype=np.int64) for name in ("reader_layer", "writer_layer"))
    matrix = np.full((readers.max() + 1, readers.max() + 1), np.nan)
    matrix[readers, writers + 1] = blocks["kept"] / blocks["total"]
    return matrix


def _draw(axes: Axes, matrix: np.ndarray, largest: float) -> None:
    style_axes(axes)
    # What does not exist is hatched: neither white nor any colour says that there is nothing to keep.
    axes.patch.set(hatch="/////", edgecolor=PALE, linewidth=0)
    norm = PowerNorm(0.5, vmin=np.nextafter(0, 1), vmax=largest)
    place = (-1.5, len(matrix) - 1.5, -0.5, len(matrix) - 0.5)
    axes.imshow(matrix, cmap=density_colors(), norm=norm, extent=place, origin="lower", interpolation="nearest")
