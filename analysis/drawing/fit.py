"""Drawings for a column of a paper: at most so wide, with letters that can be read, of as many edges as fit.

1. Lay out as many edges as are wanted. Graphviz scales what is wider than the column, letters too.
2. If the letters stay at `MIN_FONT` or above, and the drawing is not higher than a page, done.
3. Otherwise look, by halves, for the largest number of edges that fits, and draw that many, or, where a number
   was asked for, draw that number and say how many would fit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from analysis.drawing.diagram import Drawing
from analysis.drawing.style import FONT_SIZE
from circuitgraph.errors import ConfigurationError, RenderingError

MIN_FONT = 6.0
"""Points: what journals ask for as the smallest letter of a figure."""

PAGE_HEIGHT = 9.0
"""Inches: what a figure on a page has room for at most."""

_TO_AN_INCH = {"in": 1.0, "cm": 2.54, "mm": 25.4, "pt": 72.0}
# Makes a drawing of so many edges at most.
Maker = Callable[[int], Drawing]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A drawing as printed: size of its letters in points, and its height in inches."""

    font: float
    height: float

    @property
    def fits(self) -> bool:
        """Whether it can be read, and has room on a page."""
        return self.font >= MIN_FONT - 1e-6 and self.height <= PAGE_HEIGHT


def inches(width: str | float) -> float:
    """A width in inches.

    Args:
        width: A number of inches, or text with a unit: `5.5in`, `14cm`, `84mm`, `396pt`.

    Raises:
        ConfigurationError: No such unit, or a width that no drawing has.

    Examples:
        >>> inches("5.5in"), inches("25.4 mm"), inches(3.3)
        (5.5, 1.0, 3.3)
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", str(width).lower())
    unit = "in" if match and not match[2] else match[2] if match else ""
    value = float(match[1]) / _TO_AN_INCH[unit] if match and unit in _TO_AN_INCH else 0.0
    if not 1 <= value <= 100:
        raise ConfigurationError(
            f"width: expected 1 to 100 inches, such as 5.5in, 14cm, 84mm or 396pt; got {str(width)[:40]!r}"
        )
    return value


def fit(make: Maker, width: float, *, usual: int, wanted: int | None) -> Drawing:
    """The drawing of as many edges as can be read at a width.

    Args:
        make: Makes the drawing of at most so many edges, at that width.
        width: In inches.
        usual: How many edges at most where no number is wanted.
        wanted: How many edges to draw in any case.

    Returns:
        The drawing, whose `note` says what did not fit.
    """
    most = wanted or usual
    drawing = make(most)
    try:
        printed = _printed(drawing)
        if printed.fits:
            return drawing
        fitting = _largest_that_fits(make, drawing.n_drawn)
    except RenderingError as error:
        return drawing.noted(f"whether it can be read at {width:g} in was not measured: {error}")
    n_fitting = 0 if fitting is None else fitting.n_drawn
    limits = f"{width:g} in, letters of {MIN_FONT:g} pt and at most {PAGE_HEIGHT:g} in high"
    if wanted is None and fitting is not None and n_fitting:
        return fitting.noted(f"{n_fitting:,} of {drawing.n_edges:,} edges drawn: as many as fit {limits}")
    return drawing.noted(
        f"{drawing.n_drawn:,} edges at {width:g} in have letters of {printed.font:.1f} pt and are "
        f"{printed.height:.1f} in high; {n_fitting:,} edges would fit ({limits})"
    )


def say(drawing: Drawing) -> Drawing:
    """Log a drawing's note, if it has one."""
    if drawing.note:
        logging.getLogger(__name__).warning("%s", drawing.note)
    return drawing


def _largest_that_fits(make: Maker, too_many: int) -> Drawing | None:
    best, low, high = None, 0, too_many
    while high - low > max(1, low // 20):
        middle = (low + high + 1) // 2
        drawing = make(middle)
        if _printed(drawing).fits and (drawing.n_drawn or not best):
            best, low = drawing, middle
        else:
            high = middle
    return best


def _printed(drawing: Drawing) -> Printed:
    head = drawing.svg[: drawing.svg.find("<title") + 1 or 4000]
    height = re.search(r'<svg [^>]*height="([\d.]+)pt"', head, re.DOTALL)
    scale = re.search(r'transform="scale\(([\d.]+)', head)
    if height is None or scale is None:
        raise RenderingError("Graphviz wrote an SVG without size and scale")
    return Printed(font=FONT_SIZE * float(scale[1]), height=float(height[1]) / 72)
