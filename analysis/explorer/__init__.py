"""One or two circuits as a page to look around in: `write_explorer(circuits, path)`.

The page is one HTML file that asks the network for nothing: the graph library (`vendor/`), the page's own code
(`page/`) and the circuits lie in it. `contents` turns circuits into what the page is told, `layout` places the
nodes, `heads` adds what heads do, `document` puts the file together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.comparable import Circuits
from analysis.drawing.effects import Effects
from analysis.explorer.contents import MAX_EDGES, page_contents
from analysis.explorer.document import page_document
from analysis.explorer.heads import Heads
from circuitgraph.files.atomic_file import write_atomically

__all__ = ["MAX_EDGES", "page_contents", "page_document", "write_explorer"]


def write_explorer(
    circuits: Circuits,
    path: str | Path,
    *,
    max_edges: int = MAX_EDGES,
    across_checkpoints: bool = False,
    effects: Mapping[str, Effects] | None = None,
    heads: Heads | None = None,
) -> Path:
    """Write a self-contained HTML page to explore a circuit, or two and what they differ in.

    Args:
        circuits: One circuit or two of one universe, best with names: `{"antonyms": a, "capitals": b}`.
        path: The file to write, as a rule `.html`.
        max_edges: Above this many edges (of both circuits together) only the strongest are in the page, each
            circuit's scores taken as shares of its largest, and the page says so.
        across_checkpoints: Allow circuits of different weights or models of the same universe.
        effects: By a circuit's name what cutting each edge alone costs, as in `analysis.drawing.draw`: a column of the
            table, and a choice of what makes lines wide.
        heads: What heads do: the folder that `circuitgraph heads` wrote, its `heads.json`, or what that holds. A
            selected head then shows its roles, where it looks on a few prompts, and the tokens that it says most.

    Returns:
        The path.

    Raises:
        GraphMismatchError: The circuits, or the heads, are of different universes or models.
        ConfigurationError: There is no circuit, there are more than two, or `max_edges` is below 1; or `heads` cannot
            be read.
        OutputError: The file cannot be written.

    Examples:
        >>> import tempfile
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_explorer(circuit, Path(folder) / "circuit.html").read_text()
        >>> page.startswith("<!doctype html>"), "http-equiv" in page
        (True, True)
    """
    contents = page_contents(
        circuits, max_edges=max_edges, across_checkpoints=across_checkpoints, effects=effects, heads=heads
    )
    return write_atomically(Path(path), page_document(contents))
