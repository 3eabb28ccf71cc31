"""How nodes and edges look: the Okabe-Ito colours, told apart by line style as well, for print and everybody.

A query, key or value edge is known by its colour, by its line and by its arrow head, so that a drawing
survives a grey printer. Widths follow the strength of an edge, or what cutting it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FONT = "Helvetica"
INK = "#222222"
SOFT = "#595959"
FAINT = "#8a8a8a"
# Points, as printed where nothing is scaled down.
TITLE_SIZE = 8.5
FONT_SIZE = 7
SMALL_FONT_SIZE = 7
MIN_WIDTH = 0.5
MAX_WIDTH = 2.4


@dataclass(frozen=True, kw_only=True)
class EdgeStyle:
    """Look of one kind of edge.

    Attributes:
        color: Line colour.
        line: Graphviz line style.
        arrow: Graphviz arrow head.
        label: What the legend calls it.
        glyph: The arrow head as a character for the legend.
        extra_width: Added to the width, since dots look fainter than a line.
    """

    color: str
    line: str
    arrow: str
    label: str
    glyph: str = ""
    extra_width: float = 0.0


EDGE_STYLES = {
    "q": EdgeStyle(color="#0072B2", line="solid", arrow="normal", label="query", glyph="▶"),
    "k": EdgeStyle(color="#D55E00", line="dashed", arrow="diamond", label="key", glyph="◆", extra_width=0.2),
    "v": EdgeStyle(color="#009E73", line="dotted", arrow="dot", label="value", glyph="●", extra_width=0.6),
    "qkv": EdgeStyle(color="#0072B2", line="solid", arrow="normal", label="query, key, value", glyph="▶"),
    "mlp": EdgeStyle(color="#6B4C9A", line="solid", arrow="vee", label="into an MLP"),
    "logits": EdgeStyle(color="#555555", line="solid", arrow="vee", label="into the logits"),
}


@dataclass(frozen=True, kw_only=True)
class NodeStyle:
    """Look of one kind of node: Graphviz shape, fill and border."""

    shape: str
    fill: str
    border: str


NODE_STYLES = {
    "embedding": NodeStyle(shape="box", fill="#EDEDED", border="#555555"),
    "vector": NodeStyle(shape="box", fill="#FFF2CC", border="#B38600"),
    "head": NodeStyle(shape="ellipse", fill="#DCEBF7", border="#0072B2"),
    "mlp": NodeStyle(shape="box", fill="#E9E2F3", border="#6B4C9A"),
    "logits": NodeStyle(shape="box", fill="#EDEDED", border="#555555"),
}


def line_widths(strengths: Sequence[float] | np.ndarray) -> np.ndarray:
    """Line widths in points: from `MIN_WIDTH` at 0 to `MAX_WIDTH` at the largest.

    Args:
        strengths: Strengths or effects of the edges to draw, not below 0 `[edge]`.

    Returns:
        Widths `[edge]`; all in between where all are the same, so that width says nothing.

    Examples:
        >>> line_widths([0.0, 2.0, 1.0]).round(2).tolist()
        [0.5, 2.4, 1.45]
    """
    sizes = np.asarray(strengths, dtype=np.float64)
    if sizes.size == 0 or np.ptp(sizes) <= 1e-12 * sizes.max():
        return np.full(sizes.shape, 1.0)
    return MIN_WIDTH + (MAX_WIDTH - MIN_WIDTH) * sizes / sizes.max()
