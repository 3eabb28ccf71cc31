"""Task × circuit as a picture: how faithful each circuit is on each task."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.cells import draw_cells, finish_cells
from analysis.figures.own_look import own_look
from analysis.figures.panels import panel_axes, trim_height
from analysis.figures.style import DOUBLE_COLUMN, SINGLE_COLUMN
from circuitgraph.errors import ConfigurationError

_FEW = 4  # Above this many circuits a single column is too narrow for the numbers.


@own_look
def transfer_figure(
    matrix: pd.DataFrame,
    *,
    label: str = "faithfulness",
    values: bool | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    axes: Axes | None = None,
) -> Figure:
    """Draw a table of tasks and circuits.

    Args:
        matrix: Tasks as index and circuits as columns, such as `analysis.faithfulness_matrix` gives.
        label: What the values are.
        values: Whether to write the values into their cells; by default where there is room.
        limits: The values at the ends of the colours; what is below is white, what is above as dark as the end.
        axes: Where to draw; by default a new figure, one column wide for up to four circuits, else two.

    Returns:
        The figure.

    Raises:
        ConfigurationError: The table is empty, or all its values are missing.

    Examples:
        >>> table = pd.DataFrame([[0.75, -0.5, 0.25]], index=["a"], columns=["a", "b", "c"])
        >>> [text.get_text() for text in transfer_figure(table).axes[0].texts]
        ['0.75', '−0.50', '0.25']
    """
    numbers = matrix.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(numbers).any():
        raise ConfigurationError(
            f"expected a table with a value for at least one task and circuit; got {matrix.shape[0]} tasks and "
            f"{matrix.shape[1]} circuits without any"
        )
    n_rows, n_columns = matrix.shape
    width = SINGLE_COLUMN if n_columns <= _FEW else DOUBLE_COLUMN
    figure, (panel,) = panel_axes(1, axes, width=width, height=1.4 * width * max(1.0, n_rows / n_columns))
    draw_cells(panel, matrix, limits)
    panel.set_ylabel("task")
    panel.set_xlabel("circuit")
    finish_cells(panel, numbers, label=label, values=values)
    if axes is None:
        trim_height(figure)
    return figure
