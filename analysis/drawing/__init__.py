"""Circuits as diagrams: `draw(circuit, path)` picks DOT, PDF, SVG or PNG by the file's suffix."""

from __future__ import annotations

from pathlib import Path

from analysis.drawing.dot import circuit_to_dot
from analysis.drawing.render import FORMATS, render
from circuitgraph.atomic_file import write_atomically
from circuitgraph.circuit import Circuit
from circuitgraph.errors import UnknownNameError

__all__ = ["circuit_svg", "circuit_to_dot", "draw"]

MAX_EDGES = 150


def draw(circuit: Circuit, path: str | Path, *, max_edges: int = MAX_EDGES) -> Path:
    """Draw a circuit into a file.

    Args:
        circuit: The circuit.
        path: Where to; the suffix says what: `.dot`, `.pdf`, `.svg` or `.png`.
        max_edges: Above this many edges only the strongest are drawn, and the drawing says so.

    Returns:
        The path.

    Raises:
        UnknownNameError: No such suffix.
        RenderingError: Graphviz is missing or failed; `.dot` never needs it.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in ("dot", *FORMATS):
        raise UnknownNameError.of("drawing format", path.suffix, [f".{name}" for name in ("dot", *FORMATS)])
    dot_text = circuit_to_dot(circuit, max_edges=max_edges)
    return write_atomically(path, dot_text if suffix == "dot" else render(dot_text, suffix))


def circuit_svg(circuit: Circuit) -> str:
    """A circuit as SVG text, for notebooks.

    Raises:
        RenderingError: Graphviz is missing or failed.
    """
    return render(circuit_to_dot(circuit, max_edges=MAX_EDGES), "svg").decode()
