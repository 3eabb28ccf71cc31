"""A table of numbers as coloured cells, with the numbers in them where there is room."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from analysis.figures.colors import color_bar, density_colors, ink_on
from analysis.figures.labels import plain_labels, spread_labels
from analysis.figures.style import PALE, SMALL_FONT_SIZE, lay_out, style_axes


def draw_cells(axes: Axes, table: pd.DataFrame, limits: tuple[float, float]) -> None:
    """Draw a table's values as colours, its index and columns beside them; missing values are hatched.

    Args:
        axes: Where to draw.
        table: Numbers.
        limits: The values at the ends of the colours.
    """
    numbers = table.to_numpy(dtype=np.float64, na_value=np.nan)
    style_axes(axes)
    axes.patch.set(hatch="/////", edgecolor=PALE, linewidth=0)
    axes.imshow(numbers, cmap=density_colors(), norm=Normalize(*limits), interpolation="nearest")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    for axis, names in ((axes.xaxis, table.columns), (axes.yaxis, table.index)):
        axis.set_ticks(range(len(names)), plain_labels([str(name) for name in names], 22))


def finish_cells(axes: Axes, numbers: np.ndarray, *, label: str, values: bool | None) -> None:
    """What stands round and in the cells: the bar of colours, labels that do not overlap, the numbers.

    Args:
        axes: Axes of `draw_cells`.
        numbers: The values `[row column]`.
        label: What they are.
        values: Whether the numbers are written; None where they fit.
    """
    color_bar(axes, label, values=numbers)
    spread_labels(axes.xaxis)
    spread_labels(axes.yaxis)
    if values is not False:
        write_values(axes, numbers, everywhere=values is True)


def write_values(axes: Axes, numbers: np.ndarray, *, everywhere: bool) -> None:
    """Write all values into their cells, if the widest fits or that does not matter.

    Args:
        axes: Axes of `draw_cells`, finished but for these texts.
        numbers: The values `[row column]`.
        everywhere: Write them even where they do not fit.
    """
    image = axes.images[0]
    whole = bool(np.all(numbers[np.isfinite(numbers)] % 1 == 0)) and np.nanmax(numbers) > 1

    def text_of(number: float) -> str:
        text = f"{number:,.0f}" if whole else f"{number:.2f}"
        return "–" if np.isnan(number) else text.replace("-", "\N{MINUS SIGN}")

    widest = axes.text(0, 0, max((text_of(number) for number in numbers.flat), key=len), fontsize=SMALL_FONT_SIZE)
    lay_out(axes.figure.canvas.figure)
    box, cell = widest.get_window_extent(), axes.bbox.width / numbers.shape[1]
    widest.remove()
    if not everywhere and max(box.width, box.height) > 0.95 * cell:
        return
    for (row, column), number in np.ndenumerate(numbers):
        ink = "black" if np.isnan(number) else ink_on(list(image.to_rgba(number)))
        look = {"ha": "center", "va": "center", "fontsize": SMALL_FONT_SIZE, "color": ink}
        axes.text(column, row, text_of(number), **look).set_in_layout(False)
