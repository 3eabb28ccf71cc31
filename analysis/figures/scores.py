"""Edge scores sorted by size: how few edges hold most of it, and how methods differ in that."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.labels import legend_above, plain_labels
from analysis.figures.own_look import own_look
from analysis.figures.panels import panel_axes
from analysis.figures.style import FAINT, SINGLE_COLUMN, SeriesStyle, series_style, style_axes
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError

_MOST_POINTS = 400
_LINEAR_BELOW = 1e-3
_SMALLEST = 1e-6
"""Of the largest size: what a logarithmic axis shows at least, so that a few edges near 0 do not flatten the others."""


@own_look
def scores_figure(
    scores: EdgeScores | Mapping[str, EdgeScores], *, signed: bool = False, axes: Axes | None = None
) -> Figure:
    """Draw scores from the largest to the smallest, a line a method.

    Args:
        scores: The scores, or names with several.
        signed: False: sizes over ranks, both axes logarithmic, down to a millionth of the largest. True: scores with
            their signs, over ranks from the highest to the lowest; linear within a thousandth of the largest size.
        axes: Where to draw; by default a new figure.

    Returns:
        The figure. Several methods have units of their own, so each is divided by its largest size.

    Raises:
        ConfigurationError: There are no scores, or none that is not 0.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> found = EdgeScores.of(universe, np.arange(8.0), method="mine", direction="noising", estimates="a rank")
        >>> scores_figure(found).axes[0].get_ylabel(), scores_figure({"a": found, "b": found}).axes[0].get_ylabel()
        ('|score|', '|score| / largest')
    """
    several = {"": scores} if isinstance(scores, EdgeScores) else dict(scores)
    if not several:
        raise ConfigurationError("expected scores, or names with scores; got none")
    for name, found in several.items():
        if not found.values.any():
            raise ConfigurationError(f"the scores of {name or found.method!r} are all 0; there is nothing to draw")
    figure, (panel,) = panel_axes(1, axes, width=SINGLE_COLUMN, height=0.75 * SINGLE_COLUMN)
    style_axes(panel, grid="both")
    is_scaled = len(several) > 1
    lines = [
        _line(panel, found.values / (np.abs(found.values).max() if is_scaled else 1.0), series_style(place), signed)
        for place, found in enumerate(several.values())
    ]
    what = "score" if signed else "|score|"
    panel.set_ylabel(f"{what} / largest" if is_scaled else what)
    panel.set_xlabel("rank of the edge")
    drawn = np.abs(np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in lines]))
    if signed:
        panel.set_yscale("symlog", linthresh=_LINEAR_BELOW * float(drawn.max()))
        panel.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    else:
        panel.set_xscale("log")
        panel.set_yscale("log")
        if drawn.min() < _SMALLEST * drawn.max():
            panel.set_ylim(bottom=_SMALLEST * float(drawn.max()))
    panel.xaxis.set_major_formatter("{x:,g}")
    if is_scaled:
        legend_above(panel, lines, plain_labels(list(several)))
    return figure


def _line(panel: Axes, values: np.ndarray, style: SeriesStyle, signed: bool) -> Line2D:
    """One method's scores over their ranks, at as many places as a figure can show."""
    ordered = np.sort(values if signed else np.abs(values))[::-1]
    if not signed:
        ordered = ordered[ordered > 0]
    n = len(ordered)
    ends = np.linspace(0, n - 1, _MOST_POINTS) if signed else np.geomspace(1, n, _MOST_POINTS) - 1
    # The ends of a signed order fall as steeply as the beginning of one by size.
    steep = np.geomspace(1, n, _MOST_POINTS // 2) - 1 if signed else ends
    places = np.unique(np.concatenate([ends, steep, n - 1 - steep if signed else ends]).round().astype(int))
    marks = max(1, len(places) // 8)
    look = {"color": style.color, "linestyle": style.line, "marker": style.marker, "markersize": 3.5, "linewidth": 1.2}
    (line,) = panel.plot(places + 1, ordered[places], markevery=(0, marks), **look)
    return line
