"""Circuits as diagrams: `draw(circuit)` for a notebook, `draw(circuit, path)` for DOT, PDF, SVG or PNG."""

from __future__ import annotations

from pathlib import Path
from typing import overload

from analysis.drawing.diagram import Drawing
from analysis.drawing.dot import circuit_drawing, circuit_to_dot
from analysis.drawing.effects import Effects, read_effects
from analysis.drawing.fit import fit, inches, say
from circuitgraph.circuits.circuit import Circuit

__all__ = ["Drawing", "circuit_to_dot", "draw"]

MAX_EDGES = 150


@overload
def draw(
    circuit: Circuit,
    path: None = None,
    *,
    max_edges: int | None = None,
    width: str | float | None = None,
    effects: Effects | None = None,
) -> Drawing: ...
@overload
def draw(
    circuit: Circuit,
    path: str | Path,
    *,
    max_edges: int | None = None,
    width: str | float | None = None,
    effects: Effects | None = None,
) -> Path: ...
def draw(
    circuit: Circuit,
    path: str | Path | None = None,
    *,
    max_edges: int | None = None,
    width: str | float | None = None,
    effects: Effects | None = None,
) -> Drawing | Path:
    """Draw a circuit, for a notebook or into a file.

    Args:
        circuit: The circuit.
        path: Where to; the suffix says what: `.dot`, `.pdf`, `.svg` or `.png`.
        max_edges: Above this many edges only the strongest are drawn, and the drawing says so; by default 150, or with
            `width` as many as can be read.
        width: At most so wide, for a column of a paper: inches, or text such as `5.5in` or `8.4cm`. Letters are at
            least 6 points; where `max_edges` is given and makes them smaller, that is logged, with how many would fit.
        effects: Edges are as wide as KL rises when each alone is cut from the circuit, in place of the score: a result
            folder, its `metrics.json`, or that file's `effects`.

    Returns:
        The path; without one a drawing, which a notebook shows and which has `.dot`, `.svg` and `.save(path)`.

    Raises:
        UnknownNameError: No such suffix.
        ConfigurationError: No such width, or there are no effects.
        RenderingError: Graphviz is missing or failed; `.dot` never needs it.
        OutputError: The file cannot be written.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> drawing = draw(Circuit.from_edges(universe, ["input->m0", "m0->logits"]))
        >>> '"input" -> "m0"' in drawing.dot
        True
    """
    measured = None if effects is None else read_effects(effects)
    wide = None if width is None else inches(width)

    def make(most: int) -> Drawing:
        return circuit_drawing(circuit, max_edges=most, effects=measured, width=wide)

    drawing = make(max_edges or MAX_EDGES) if wide is None else fit(make, wide, usual=MAX_EDGES, wanted=max_edges)
    return drawing if path is None else say(drawing).save(path)
