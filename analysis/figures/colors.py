"""Colours of values: one scale from light to dark, the same in grey, and the bar that explains it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.image import AxesImage

from analysis.figures.style import INK, SEQUENTIAL, SMALL_FONT_SIZE


def density_colors() -> Colormap:
    """Cividis from light to dark, without its lightest part, so that white is below the scale and seen to be.

    Examples:
        >>> lightest, darkest = density_colors()([0.0, 1.0])
        >>> lightest[:3].mean().round(2).item(), darkest[:3].mean().round(2).item()
        (0.69, 0.15)
    """
    colors = ListedColormap(mpl.colormaps[SEQUENTIAL](np.linspace(0.94, 0, 256)))
    return colors.with_extremes(under="white", bad=(0, 0, 0, 0))


def ink_on(color: Sequence[float]) -> str:
    """Black or white, whichever is read more easily on a colour.

    Examples:
        >>> ink_on((0, 0, 0.3)), ink_on((1, 1, 0))
        ('white', 'black')

    References:
        Relative luminance and contrast of the Web Content Accessibility Guidelines 2.1.
    """
    channels = np.array(color[:3], dtype=np.float64)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def color_bar(
    axes: Axes, label: str, *, ticks: Sequence[float] | None = None, values: np.ndarray | None = None
) -> Colorbar:
    """The scale of the colours of an axes' picture, as high as the axes, at its right.

    Args:
        axes: Axes with one picture.
        label: What the colours say.
        ticks: Where to put numbers; by default matplotlib decides.
        values: What the picture shows: where some lie beyond an end of the scale, that end is an arrow in their
            colour. None for no arrows.

    Returns:
        The bar.
    """
    place = axes.inset_axes((1.04, 0, 0.05, 1))
    bar = axes.figure.colorbar(axes.images[0], cax=place, ticks=ticks, extend=_beyond(axes.images[0], values))
    bar.ax.tick_params(which="both", labelsize=SMALL_FONT_SIZE, colors=INK, width=0.6, length=2.5, pad=2)
    bar.ax.minorticks_off()
    if ticks is not None:
        bar.ax.set_yticks(list(ticks), [f"{tick:g}" for tick in ticks])
    bar.set_label(label, fontsize=SMALL_FONT_SIZE, color=INK)
    bar.outline.set_linewidth(0.6)  # pyright: ignore[reportCallIssue]
    return bar


def _beyond(image: AxesImage, values: np.ndarray | None) -> str:
    """At which ends of a picture's scale there are values beyond it, in matplotlib's words."""
    known = np.zeros(0) if values is None else values[np.isfinite(values)]
    low, high = image.get_clim()
    under, over = bool((known < low).any()), bool((known > high).any())
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((under, over), "neither")
