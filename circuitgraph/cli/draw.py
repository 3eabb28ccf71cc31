"""`circuitgraph draw`: a saved circuit as a picture, or one or two as a page to explore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.circuit import Circuit

_PICTURE_EDGES = 150


def draw(
    circuit: options.CircuitFile,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write; its ending says what: .dot, .pdf, .svg, .png, or .html for a page to "
            "explore the circuit in. An older file is replaced.",
            show_default=False,
        ),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OTHER]",
            help="A second circuit of the same universe; .html shows both, what they share and what only one has.",
            show_default=False,
        ),
    ] = None,
    max_edges: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Above this many edges, only the strongest are drawn.",
            show_default="150; .html: 5,000",
        ),
    ] = None,
    across_checkpoints: Annotated[
        bool,
        typer.Option("--across-checkpoints", help="Allow two circuits of different weights or models."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Draw a circuit, or write a page to explore one or two. Loads no model."""
    from circuitgraph.circuit import Circuit
    from circuitgraph.cli.output import only_json, print_json
    from circuitgraph.errors import ConfigurationError

    is_page = out.suffix.lower() == ".html"
    with only_json(as_json):
        if other is not None and not is_page:
            raise ConfigurationError(f"two circuits go into an .html page only; --out is {out.name}")
        paths = [circuit] if other is None else [circuit, other]
        named = dict(zip(file_names(paths), map(Circuit.load, paths), strict=True))
        if is_page:
            n_edges, n_drawn = _write_page(named, out, max_edges, across_checkpoints)
        else:
            n_edges, n_drawn = _draw_picture(named.popitem()[1], out, max_edges or _PICTURE_EDGES)
    if as_json:
        print_json({"out": str(out), "n_edges": n_edges, "n_drawn": n_drawn})
        return
    left_out = f" (the strongest of {n_edges:,})" if n_drawn < n_edges else ""
    print(f"{n_drawn:,} edges{left_out} drawn into {out}")


def file_names(paths: list[Path]) -> list[str]:
    """Short names for circuits by their files: the folder's where the file is `circuit.json`.

    Examples:
        >>> file_names([Path("runs/ioi/circuit.json"), Path("capitals.json")])
        ['ioi', 'capitals']
        >>> file_names([Path("a/ioi.json"), Path("b/ioi.json")])
        ['a/ioi.json', 'b/ioi.json']
        >>> file_names([Path("ioi.json"), Path("ioi.json")])
        ['ioi.json', 'ioi.json (again)']
    """
    names = [path.parent.name if path.stem == "circuit" and path.parent.name else path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [name + " (again)" * (name in names[:place]) for place, name in enumerate(names)]


def _write_page(named: dict[str, Circuit], out: Path, max_edges: int | None, across: bool) -> tuple[int, int]:
    """Write the page; how many edges the circuits have together, and how many of them are in it."""
    import numpy as np

    from analysis.explorer import MAX_EDGES, page_contents, page_document
    from circuitgraph.atomic_file import write_atomically

    limit = MAX_EDGES if max_edges is None else max_edges
    contents = page_contents(named, max_edges=limit, across_checkpoints=across)
    write_atomically(out, page_document(contents))
    n_edges = len(np.unique(np.concatenate([circuit.edge_ids for circuit in named.values()])))
    return n_edges, len(contents["edges"]["kind"])


def _draw_picture(circuit: Circuit, out: Path, max_edges: int) -> tuple[int, int]:
    """Draw the picture; how many edges the circuit has, and how many of them are in it."""
    from analysis.drawing import draw as draw_circuit
    from analysis.drawing.render import FORMATS
    from analysis.drawing.selection import strongest_edges
    from circuitgraph.errors import UnknownNameError

    known = [f".{name}" for name in ("html", "dot", *FORMATS)]
    if out.suffix.lower() not in known:
        raise UnknownNameError.of("drawing format", out.suffix, known)
    draw_circuit(circuit, out, max_edges=max_edges)
    return len(circuit), len(strongest_edges(circuit, max_edges))
