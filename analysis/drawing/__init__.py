"""Circuits as diagrams: `draw(circuit)` for a notebook, `draw(circuit, path)` for DOT, PDF, SVG or PNG."""

from __future__ import annotations

from pathlib import Path
from typing import overload

from analysis.drawing.diagram import Drawing
from analysis.drawing.dot import circuit_to_dot
from circuitgraph.circuit import Circuit

__all__ = ["Drawing", "circuit_to_dot", "draw"]

MAX_EDGES = 150


@overload
def draw(circuit: Circuit, path: None = None, *, max_edges: int = MAX_EDGES) -> Drawing: ...
@overload
def draw(circuit: Circuit, path: str | Path, *, max_edges: int = MAX_EDGES) -> Path: ...
def draw(circuit: Circuit, path: str | Path | None = None, *, max_edges: int = MAX_EDGES) -> Drawing | Path:
    """Draw a circuit, for a notebook or into a file.

    Args:
        circuit: The circuit.
        path: Where to; the suffix says what: `.dot`, `.pdf`, `.svg` or `.png`.
        max_edges: Above this many edges only the strongest are drawn, and the drawing says so.

    Returns:
        The path; without one a drawing, which a notebook shows and which has `.dot`, `.svg` and `.save(path)`.

    Raises:
        UnknownNameError: No such suffix.
        RenderingError: Graphviz is missing or failed; `.dot` never needs it.
        OutputError: The file cannot be written.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> drawing = draw(Circuit.from_edges(universe, ["input->m0", "m0->logits"]))
        >>> '"input" -> "m0"' in drawing.dot
        True
    """
    drawing = Drawing(dot=circuit_to_dot(circuit, max_edges=max_edges))
    return drawing if path is None else drawing.save(path)
