"""`circuitgraph export`: a saved circuit as a file for Gephi, Cytoscape, networkx and others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitgraph.cli import options


def export(
    circuit: options.CircuitFile,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write; its ending says what: .graphml, .gexf, .json (node-link) or .cyjs (Cytoscape). "
            "An older file is replaced.",
            show_default=False,
        ),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            help="A coarser graph: by module, sublayer, layer or kind.", show_default="every reader a node of its own"
        ),
    ] = None,
    no_structural: Annotated[
        bool,
        typer.Option(
            "--no-structural",
            help="Leave out the edges from a head's queries, keys and values to the head, which are none of the "
            "circuit's own.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a circuit as a graph that other programs open. Loads no model."""
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.output import only_json, print_json
    from circuitgraph.cli.tables import refuse_to_replace

    refuse_to_replace([circuit], out)
    with only_json(as_json):
        from analysis.graph_files import write_graph
        from analysis.structure.coarse import coarse_graph

        found = Circuit.load(circuit)
        write_graph(found if by is None else coarse_graph(found, by), out, structural=not no_structural)
    if as_json:
        print_json({"out": str(out), "n_edges": len(found), "by": by})
        return
    print(f"{len(found):,} edges written to {out}" + (f", by {by}" if by is not None else ""))
