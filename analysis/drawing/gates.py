"""A circuit whose edges are coloured by the gate that they belong to: AND, OR, ADDER or none.

Lines differ as well as colours, so that gates are told apart in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.drawing.diagram import Drawing
from analysis.drawing.fit import fit, inches, say
from analysis.drawing.membership import EdgeClass, drawing_of_classes
from analysis.drawing.selection import strongest_edges
from circuitgraph.circuits.circuit import Circuit

_LOOKS = {
    "AND": ("AND (noising only)", "#0072B2", "dotted"),
    "OR": ("OR (denoising only)", "#D55E00", "dashed"),
    "ADDER": ("ADDER (both)", "#009E73", "solid"),  # most edges of a large model are
    "": ("no gate", "#c4c4c4", "solid"),
}
_USUAL = 150


def draw_gates(
    circuit: Circuit,
    labels: Sequence[str],
    path: str | Path | None = None,
    *,
    max_edges: int | None = None,
    width: str | float | None = None,
    title: str = "",
) -> Drawing | Path:
    """Draw a circuit by its gates, for a notebook or into a file.

    Args:
        circuit: The circuit; its scores are the widths.
        labels: `AND`, `OR`, `ADDER` or an empty text, by edge.
        path: Where to; the suffix says what: `.dot`, `.pdf`, `.svg` or `.png`.
        max_edges: Above this many edges only the strongest are drawn, and the drawing says so.
        width: At most so wide, as in `analysis.draw`.
        title: Above the drawing.

    Returns:
        The path; without one a drawing, which a notebook shows and which has `.dot`, `.svg` and `.save(path)`.

    Raises:
        UnknownNameError: No such suffix.
        RenderingError: Graphviz is missing or failed; `.dot` never needs it.
        OutputError: The file cannot be written.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> drawing = draw_gates(Circuit.from_edges(universe, ["input->m0", "m0->logits"]), ["OR", "ADDER"])
        >>> "OR (denoising only): 1 edge" in drawing.dot, "AND" in drawing.dot
        (True, False)
    """
    wide = None if width is None else inches(width)
    of_gate = np.array(labels, dtype=object)

    def make(most: int) -> Drawing:
        chosen = strongest_edges(circuit, most, strengths=circuit.strengths)
        drawn = np.isin(np.arange(len(circuit)), chosen)
        classes = [
            EdgeClass(
                title=name, color=color, line=line, places=np.flatnonzero((of_gate == gate) & drawn).tolist(),
                n_edges=int((of_gate == gate).sum()),
            )
            for gate, (name, color, line) in _LOOKS.items()
        ]  # fmt: skip
        key = "the wider, the larger the two effects together"
        return drawing_of_classes(circuit, chosen, classes, circuit.strengths, key=key, title=title, width=wide)

    drawing = make(max_edges or _USUAL) if wide is None else fit(make, wide, usual=_USUAL, wanted=max_edges)
    return drawing if path is None else say(drawing).save(path)
