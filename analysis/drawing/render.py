"""DOT text to PDF, SVG or PNG, by the `dot` program, or by the Graphviz inside pygraphviz's wheel."""

from __future__ import annotations

import shutil

from circuitgraph.errors import RenderingError

FORMATS = ("pdf", "svg", "png")
PNG_DPI = 144


def render(dot_text: str, file_format: str) -> bytes:
    """Lay out and draw DOT text.

    Args:
        dot_text: A graph in DOT.
        file_format: `pdf`, `svg` or `png`.

    Returns:
        The file's content.

    Raises:
        RenderingError: Neither `dot` nor pygraphviz is there, or Graphviz failed.
    """
    if shutil.which("dot"):
        return _by_program(dot_text, file_format)
    return _by_pygraphviz(dot_text, file_format)


def _by_program(dot_text: str, file_format: str) -> bytes:
    import graphviz

    try:
        return graphviz.Source(dot_text).pipe(format=file_format)
    except (graphviz.CalledProcessError, graphviz.ExecutableNotFound, OSError) as error:
        raise RenderingError(f"Graphviz could not draw the circuit: {error}") from error


def _by_pygraphviz(dot_text: str, file_format: str) -> bytes:
    try:
        import pygraphviz
    except ImportError as error:
        raise RenderingError(
            f"drawing {file_format} needs Graphviz: install the `dot` program, or `pip install pygraphviz` "
            "(its wheel holds Graphviz); writing .dot needs neither"
        ) from error
    try:
        drawn = pygraphviz.AGraph(string=dot_text).draw(format=file_format, prog="dot")
    except (OSError, ValueError, RuntimeError) as error:
        raise RenderingError(f"Graphviz could not draw the circuit: {error}") from error
    if not drawn:
        raise RenderingError("Graphviz drew nothing; draw fewer edges (max_edges) or write .dot")
    return drawn
