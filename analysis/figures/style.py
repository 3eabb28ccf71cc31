"""How figures look: sizes for print, colours for everybody, and files that are the same bytes each time.

The colours are Okabe and Ito's, which people who are colour-blind tell apart. Series differ in marker, line and hatch
too, so that a figure survives a grey printer. Text is never below 7 points at print size.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.own_look import own_look
from circuitgraph.errors import UnknownNameError
from circuitgraph.files.atomic_file import write_atomically

# Inches: a column of a two-column page, and the whole page.
SINGLE_COLUMN = 3.3
DOUBLE_COLUMN = 6.8

# Points.
FONT_SIZE = 8.0
SMALL_FONT_SIZE = 7.0

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, BLACK = "#56B4E9", "#E69F00", "#000000"
INK, GREY, FAINT, PALE = "#222222", "#555555", "#BBBBBB", "#DDDDDD"

# Falls in lightness from end to end, so that it is the same scale in grey.
SEQUENTIAL = "cividis"

FORMATS = ("pdf", "svg", "png")
PNG_DPI = 300

# Nothing that changes from run to run goes into a file.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"Creator": "circuitgraph", "Producer": None, "CreationDate": None, "ModDate": None},
    "svg": {"Creator": "circuitgraph", "Date": None},
    "png": {"Software": "circuitgraph"},
}
# TrueType, since publishers refuse Type 3 fonts; names in SVG that do not hang on a random salt.
_FILE_SETTINGS: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "circuitgraph", "svg.fonttype": "path"}

_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, BLACK, SKY, ORANGE)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "||||")


@dataclass(frozen=True, kw_only=True)
class SeriesStyle:
    """Look of one series.

    Attributes:
        color: Of its line, markers or bars.
        marker: Matplotlib's name of the marker.
        line: Matplotlib's line style.
        hatch: Pattern of its bars.
    """

    color: str
    marker: str
    line: Any
    hatch: str


def series_style(place: int) -> SeriesStyle:
    """The look of a figure's n-th series; no two of the first 280 look the same.

    Args:
        place: 0 for the first.

    Examples:
        >>> series_style(0)
        SeriesStyle(color='#0072B2', marker='o', line='-', hatch='')
        >>> series_style(7).color == series_style(0).color, series_style(7).marker == series_style(0).marker
        (True, False)
    """
    return SeriesStyle(
        color=_COLORS[place % len(_COLORS)],
        marker=_MARKERS[place % len(_MARKERS)],
        line=_LINES[place % len(_LINES)],
        hatch=_HATCHES[place % len(_HATCHES)],
    )


@own_look
def new_figure(width: float = SINGLE_COLUMN, height: float | None = None) -> Figure:
    """An empty figure, white, in the size in which it is printed, laid out so that nothing is cut off.

    Args:
        width: In inches.
        height: In inches; by default three quarters of the width.

    Examples:
        >>> new_figure(DOUBLE_COLUMN, 2).get_size_inches().tolist()
        [6.8, 2.0]
    """
    size = (width, 0.75 * width if height is None else height)
    return NotebookFigure(figsize=size, dpi=200, facecolor="white", layout="constrained")


class NotebookFigure(Figure):
    """A figure that notebooks show by itself, without pyplot and its list of open figures."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """PNG, and a size that a screen shows somewhat larger than print."""
        width, height = (round(130 * inches) for inches in self.get_size_inches())
        return figure_bytes(self, "png"), {"width": width, "height": height}


def style_axes(axes: Axes, *, grid: str = "") -> None:
    """Give axes the house's sizes and lines; whatever is drawn later keeps to them.

    Args:
        axes: The axes.
        grid: Which grid lines there are: `x`, `y`, `both` or none.
    """
    axes.set_facecolor("white")
    axes.tick_params(which="both", labelsize=SMALL_FONT_SIZE, colors=INK, width=0.6, length=2.5, pad=2)
    axes.tick_params(which="minor", length=1.5, width=0.4)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_fontsize(FONT_SIZE)
        text.set_color(INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.offsetText.set_fontsize(SMALL_FONT_SIZE)
    for side, spine in axes.spines.items():
        spine.set_linewidth(0.6)
        spine.set_edgecolor(INK)
        spine.set_visible(side in ("left", "bottom"))
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.4, alpha=0.6)  # pyright: ignore[reportArgumentType]


@own_look
def lay_out(figure: Figure) -> None:
    """Lay a figure out as it will be printed, so that it can be measured.

    Args:
        figure: The figure.
    """
    # Each round starts from the places of the last; panels of a fixed shape take several to come to rest.
    before = None
    for _ in range(8):
        figure.draw_without_rendering()
        now = np.array([axes.get_position().extents for axes in figure.axes])
        if before is not None and np.allclose(now, before, atol=1e-3):
            return
        before = now


def save_figure(figure: Figure, path: str | Path, *, dpi: int = PNG_DPI) -> Path:
    """Write a figure; the same figure gives the same bytes each time.

    Args:
        figure: The figure.
        path: Where to; the suffix says what: `.pdf`, `.svg` or `.png`.
        dpi: Dots per inch of a PNG, and of pictures inside the others.

    Returns:
        The path.

    Raises:
        UnknownNameError: No such suffix.
        OutputError: The file cannot be written.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from matplotlib.figure import Figure
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(Figure(figsize=(1, 1)), Path(folder) / "empty.svg").name
        'empty.svg'
    """
    path = Path(path)
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise UnknownNameError.of("figure format", path.suffix, [f".{name}" for name in FORMATS])
    return write_atomically(path, figure_bytes(figure, suffix, dpi=dpi))


@own_look
def figure_bytes(figure: Figure, file_format: str, *, dpi: int = PNG_DPI) -> bytes:
    """A figure as a file's content.

    Args:
        figure: The figure.
        file_format: `pdf`, `svg` or `png`.
        dpi: As of `save_figure`.

    Examples:
        >>> figure_bytes(new_figure(), "svg") == figure_bytes(new_figure(), "svg")
        True
    """
    content = io.BytesIO()
    with mpl.rc_context(_FILE_SETTINGS):
        figure.savefig(content, format=file_format, dpi=dpi, metadata=_METADATA[file_format], facecolor="white")
    return content.getvalue()
