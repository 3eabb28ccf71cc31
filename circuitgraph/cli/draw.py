"""`circuitgraph draw`: a saved circuit as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitgraph.cli import options


def draw(
    circuit: options.CircuitFile,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write; its ending says what: .dot, .pdf, .svg or .png. An older file is replaced.",
            show_default=False,
        ),
    ],
    max_edges: Annotated[int, typer.Option(min=1, help="Above this many edges, only the strongest are drawn.")] = 150,
    as_json: options.Json = False,
) -> None:
    """Draw a circuit. Loads no model."""
    from analysis.drawing import draw as draw_circuit
    from analysis.drawing.selection import strongest_edges
    from circuitgraph.circuit import Circuit
    from circuitgraph.cli.output import only_json, print_json

    with only_json(as_json):
        found = Circuit.load(circuit)
        draw_circuit(found, out, max_edges=max_edges)
    n_drawn = len(strongest_edges(found, max_edges))
    if as_json:
        print_json({"out": str(out), "n_edges": len(found), "n_drawn": n_drawn})
        return
    left_out = f" (the strongest of {len(found):,})" if n_drawn < len(found) else ""
    print(f"{n_drawn:,} edges{left_out} drawn into {out}")
