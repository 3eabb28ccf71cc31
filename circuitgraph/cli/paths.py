"""`circuitgraph paths`: the strongest paths of a saved circuit."""

from __future__ import annotations

from typing import Annotated

import typer

from circuitgraph.cli import options, table_options


def paths(
    circuit: options.CircuitFile,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many paths.")] = 10,
    by: Annotated[
        str,
        typer.Option(
            help="What makes a path strong: weakest (its smallest |score|), lowest (its lowest score) or product "
            "(of |scores|)."
        ),
    ] = "weakest",
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="Where paths start, such as input, a3.h7 or m3. May be repeated.", show_default="embeddings"
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--to", help="Where paths end, such as a5.h1<q>, m9 or logits. May be repeated.", show_default="logits"
        ),
    ] = None,
    through: Annotated[
        list[str] | None,
        typer.Option(
            help="A node (a3.h7) or an edge (a3.h7->m4) that every path passes. May be repeated: all of them.",
            show_default="anything",
        ),
    ] = None,
    as_json: table_options.JsonTables = False,
    as_csv: table_options.Csv = False,
    as_latex: table_options.Latex = False,
    as_markdown: table_options.Markdown = False,
    out: table_options.TablesOut = None,
) -> None:
    """List the strongest paths of a circuit, and count all of them. Loads no model."""
    from circuitgraph.cli.circuit_files import about_circuits, load_circuits, named_files
    from circuitgraph.cli.tables import ResultTable, TableFormat

    files = named_files([str(circuit)])
    into = TableFormat.of(
        as_json=as_json, as_csv=as_csv, as_latex=as_latex, as_markdown=as_markdown, out=out, inputs=[circuit]
    )
    with into.alone():
        from analysis.structure.paths import count_paths, strongest_paths

        loaded = load_circuits(files)
        (found,) = loaded.values()
        table = strongest_paths(found, k, by=by, sources=sources, targets=targets, through=through)
        n_paths = count_paths(found, sources=sources, targets=targets, through=through)
    shown = {"rank": "rank", "path": "path", "strength": "strength", "n_edges": "edges", "weakest_edge": "weakest edge"}
    about = {
        "circuits": about_circuits(loaded, files),
        "settings": {"by": by, "from": sources, "to": targets, "through": through, "k": k},
        "n_paths": n_paths,
    }
    title = f"The {len(table):,} strongest of {n_paths:,} paths (by {by})" if n_paths else "There is no such path"
    into.write([ResultTable(name="paths", title=title, frame=table, shown=shown)], about=about)
