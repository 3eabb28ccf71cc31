"""Where edges end, as pictures: how many into each layer, by kind, for one circuit or for many."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.comparable import Circuits, named_circuits
from analysis.drawing.style import EDGE_STYLES
from analysis.figures.colors import color_bar, density_colors, ink_on
from analysis.figures.labels import label_layers, legend_above, plain_labels, spread_labels
from analysis.figures.own_look import own_look
from analysis.figures.panels import label_outside, panel_axes, title_panels
from analysis.figures.style import (
    DOUBLE_COLUMN,
    INK,
    PALE,
    SINGLE_COLUMN,
    SMALL_FONT_SIZE,
    lay_out,
    new_figure,
    style_axes,
)
from circuitgraph.errors import ConfigurationError

# Above this many circuits, bars give way to one row of coloured cells per circuit.
MOST_BARS = 6
_Counts = dict[str, dict[str, np.ndarray]]
_SHORT = {"mlp": "MLP"}
_HATCHES = {"q": "", "k": "//////", "v": "......", "qkv": "", "mlp": "\\\\\\\\\\\\", "logits": "xxxxxx"}


@own_look
def layer_counts_figure(circuits: Circuits, *, axes: Axes | None = None) -> Figure:
    """Draw how many kept edges end in each layer, by kind of reader.

    Up to six circuits get a panel of stacked bars each, on one scale. More get a row each in a picture of layers, whose
    colours follow the square root of the count, and in one of kinds.

    Args:
        circuits: One circuit, several, or names with their circuits.
        axes: Where to draw a single circuit; by default a new figure.

    Returns:
        The figure.

    Raises:
        ConfigurationError: There is no circuit, or there are several and `axes` is given.

    Examples:
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.h1<v>", "a0.h1->m1", "input->m1", "m1->logits"])
        >>> [int(bar.get_height()) for bar in layer_counts_figure(circuit).axes[0].patches if bar.get_height()]
        [1, 2, 1]
    """
    counts = layer_counts(circuits)
    if len(counts) <= MOST_BARS:
        return _bars(counts, axes)
    if axes is not None:
        raise ConfigurationError(f"axes= holds one panel, and {len(counts)} circuits need two; leave it out")
    return _cells(counts)


def layer_counts(circuits: Circuits) -> dict[str, dict[str, np.ndarray]]:
    """How many kept edges end in each layer, by kind of reader.

    Args:
        circuits: One circuit, several, or names with their circuits.

    Returns:
        For every circuit and every kind of its universe the counts `[layer]`; the logits come after the last layer.

    Examples:
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> (counts,) = layer_counts(Circuit.from_edges(universe, ["input->m0", "m0->logits"])).values()
        >>> {kind: numbers.tolist() for kind, numbers in counts.items()}
        {'q': [0, 0], 'k': [0, 0], 'v': [0, 0], 'mlp': [1, 0], 'logits': [0, 1]}
    """
    counts = {}
    for name, circuit in named_circuits(circuits).items():
        universe = circuit.universe
        readers = universe.endpoints(circuit.edge_ids)[1]
        kinds, layers = universe.reader_kinds[readers], universe.reader_layers[readers]
        counts[name] = {
            kind: np.bincount(layers[kinds == kind], minlength=universe.n_layers + 1)
            for kind in EDGE_STYLES
            if (universe.reader_kinds == kind).any()
        }
    return counts


def _bars(counts: _Counts, axes: Axes | None) -> Figure:
    n = len(counts)
    per_row = 1 if n == 1 else 2
    width = SINGLE_COLUMN if n == 1 else DOUBLE_COLUMN
    figure, panels = panel_axes(n, axes, width=width, per_row=per_row, height=1.9)
    label_outside(panels, "layer that reads", "edges kept", per_row=per_row)
    highest = max(float(_all_kinds(of_kinds).max()) for of_kinds in counts.values()) or 1.0
    stacks: dict[str, Artist] = {}
    for panel, of_kinds in zip(panels, counts.values(), strict=True):
        stacks |= _stack(panel, of_kinds)
        panel.set_ylim(0, 1.05 * highest)
    if n > 1:
        title_panels(panels, list(counts))
    kinds = [kind for kind in EDGE_STYLES if kind in stacks]
    handles, names = [stacks[kind] for kind in kinds], [EDGE_STYLES[kind].label for kind in kinds]
    if n == 1:
        legend_above(panels[0], handles, names, grow=axes is None)
    else:
        look = {"frameon": False, "fontsize": SMALL_FONT_SIZE, "labelcolor": INK, "handlelength": 2.6}
        figure.legend(handles, names, loc="outside upper center", ncols=len(kinds), **look)
    lay_out(figure)
    for panel, of_kinds in zip(panels, counts.values(), strict=True):
        label_layers(panel.xaxis, _n_layers(of_kinds))
    return figure


def _stack(axes: Axes, of_kinds: dict[str, np.ndarray]) -> dict[str, Artist]:
    """Bars on bars; one bar of each kind, for the legend."""
    style_axes(axes, grid="y")
    places = np.arange(_n_layers(of_kinds) + 1)
    below, first = np.zeros(len(places)), {}
    for kind, numbers in of_kinds.items():
        look = {"color": EDGE_STYLES[kind].color, "hatch": _HATCHES[kind], "edgecolor": "white", "linewidth": 0.3}
        first[kind] = axes.bar(places, numbers, bottom=below, width=0.9, **look)[0]
        below = below + numbers
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.yaxis.set_major_formatter("{x:,g}")
    return first


def _n_layers(of_kinds: dict[str, np.ndarray]) -> int:
    return len(next(iter(of_kinds.values()))) - 1


def _all_kinds(of_kinds: dict[str, np.ndarray]) -> np.ndarray:
    return np.sum(list(of_kinds.values()), axis=0)


def _cells(counts: _Counts) -> Figure:
    """Circuits as rows: shares of the kinds, and edges into the layers, the logits in a column of their own."""
    n_layers = max(_n_layers(of_kinds) for of_kinds in counts.values())
    kinds = [kind for kind in EDGE_STYLES if any(kind in of_kinds for of_kinds in counts.values())]
    layers = np.full((len(counts), n_layers + 1), np.nan)
    shares = np.full((len(counts), len(kinds)), np.nan)
    for row, of_kinds in enumerate(counts.values()):
        numbers = _all_kinds(of_kinds)
        layers[row, : len(numbers) - 1], layers[row, -1] = numbers[:-1], numbers[-1]
        for kind in of_kinds if numbers.any() else ():
            shares[row, kinds.index(kind)] = 100 * of_kinds[kind].sum() / numbers.sum()
    figure = new_figure(DOUBLE_COLUMN, 0.7 + 0.13 * len(counts))
    left, right = figure.subplots(1, 2, width_ratios=[1, 3])
    _write_shares(left, shares)
    left.set_xticks(range(len(kinds)), [_SHORT.get(kind, kind) for kind in kinds])
    left.set_xlabel("% of edges into")
    left.set_yticks(range(len(counts)), plain_labels(list(counts)))
    _picture(right, layers, PowerNorm(0.5, vmin=np.nextafter(0, 1), vmax=max(float(np.nanmax(layers)), 1.0)))
    right.set_yticks([])
    right.set_xlabel("layer that reads")
    color_bar(right, "edges kept (square-root scale)")
    lay_out(figure)
    label_layers(right.xaxis, n_layers)
    spread_labels(left.yaxis)
    spread_labels(left.xaxis)
    return figure


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    image = _picture(axes, shares, Normalize(0, 100))
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            look = {"ha": "center", "va": "center_baseline", "fontsize": SMALL_FONT_SIZE}
            ink = ink_on(list(image.to_rgba(share)))
            axes.text(column, row, f"{share:.0f}", color=ink, **look).set_in_layout(False)


def _picture(axes: Axes, numbers: np.ndarray, norm: Normalize) -> AxesImage:
    style_axes(axes)
    axes.patch.set(hatch="/////", edgecolor=PALE, linewidth=0)
    image = axes.imshow(numbers, cmap=density_colors(), norm=norm, aspect="auto", interpolation="nearest")
    axes.tick_params(length=0)
    return image
