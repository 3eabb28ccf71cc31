"""A diagram that notebooks show and that is saved in any format: DOT text, laid out when it is looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from analysis.drawing.render import FORMATS, render
from circuitgraph.errors import RenderingError, UnknownNameError
from circuitgraph.files.atomic_file import write_atomically


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A diagram.

    Attributes:
        dot: The graph in DOT.
        n_drawn: How many edges it shows.
        n_edges: How many there are.
        note: What did not fit the width that was asked for; empty where everything did.
    """

    dot: str
    n_drawn: int = 0
    n_edges: int = 0
    note: str = ""

    def noted(self, note: str) -> Drawing:
        """The same drawing with a note."""
        return replace(self, note=note)

    @cached_property
    def svg(self) -> str:
        """The diagram as SVG text.

        Raises:
            RenderingError: Graphviz is missing or failed.
        """
        return render(self.dot, "svg").decode()

    def save(self, path: str | Path) -> Path:
        """Write the diagram into a file.

        Args:
            path: Where to; the suffix says what: `.dot`, `.pdf`, `.svg` or `.png`.

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
        return write_atomically(path, self.dot if suffix == "dot" else render(self.dot, suffix))

    def __repr__(self) -> str:
        return f"<Drawing of {self.dot.count(chr(10))} lines of DOT; .save(path) writes .dot, .pdf, .svg or .png>"

    def _repr_svg_(self) -> str | None:
        """For notebooks; without Graphviz they show the text of `repr` instead."""
        try:
            return self.svg
        except RenderingError:
            return None
