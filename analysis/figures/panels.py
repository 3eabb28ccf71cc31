"""Where a figure is drawn: on axes that came from outside, or on a new figure with a panel for everything shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.labels import plain_labels
from analysis.figures.style import FONT_SIZE, INK, lay_out, new_figure
from circuitgraph.errors import ConfigurationError

# How many panels stand side by side at most.
PER_ROW = 3


def panel_axes(
    n_panels: int, axes: Axes | None, *, width: float, per_row: int = PER_ROW, height: float | None = None
) -> tuple[Figure, list[Axes]]:
    """The axes to draw on.

    Args:
        n_panels: How many panels are needed.
        axes: Axes from outside, good for one panel.
        width: Of a new figure, in inches.
        per_row: How many panels of a new figure stand side by side at most.
        height: Of a row of panels, in inches; by default such that panels are nearly square.

    Returns:
        The figure and as many axes.

    Raises:
        ConfigurationError: Axes came, and more than one panel is needed.

    Examples:
        >>> figure, panels = panel_axes(4, None, width=6.8)
        >>> len(panels), figure.get_size_inches().round(1).tolist()
        (4, [6.8, 3.9])
    """
    if axes is not None:
        if n_panels > 1:
            raise ConfigurationError(
                f"axes= holds one panel, and {n_panels} are needed; leave it out, or draw them one by one"
            )
        return axes.figure.canvas.figure, [axes]
    n_columns = min(n_panels, per_row)
    n_rows = math.ceil(n_panels / n_columns)
    each = 0.85 * width / n_columns if height is None else height
    figure = new_figure(width, each * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    for unused in grid[n_panels:]:
        unused.remove()
    return figure, grid[:n_panels]


def label_outside(panels: Sequence[Axes], x: str, y: str, *, per_row: int = PER_ROW) -> None:
    """Say along which axes all panels run: below the lowest of each column, and left of the first of each row."""
    for place, panel in enumerate(panels):
        if place % per_row == 0:
            panel.set_ylabel(y)
        if place + per_row >= len(panels):
            panel.set_xlabel(x)


def title_panels(panels: Sequence[Axes], names: Sequence[str]) -> None:
    """Give every panel its name, shortened to the panel's width.

    Args:
        panels: Panels of a figure that is otherwise finished, since their widths are measured.
        names: Any names.
    """
    lay_out(panels[0].figure.canvas.figure)
    for limit in range(40, 4, -2):
        for panel, label in zip(panels, plain_labels(names, limit), strict=True):
            panel.set_title(label, fontsize=FONT_SIZE, color=INK, pad=3)
        if all(panel.title.get_window_extent().width <= panel.bbox.width for panel in panels):
            return


def trim_height(figure: Figure) -> None:
    """Cut a new figure to the height of what is on it, where panels of fixed shape leave room above and below.

    Args:
        figure: A finished figure whose panels fill its width.
    """
    lay_out(figure)
    figure.set_figheight(figure.get_tightbbox().height + 0.1)
    lay_out(figure)
