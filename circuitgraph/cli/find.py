"""`circuitgraph find`: edges of a saved circuit by the names of their ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitgraph.cli import options, table_options


def find(
    circuit: options.CircuitFile,
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help="Such as 'm* -> a5.*<q>', 'a3.h7 -> ** -> logits', or 'a5.*, m5' without an arrow. Quote it.",
            show_default=False,
        ),
    ],
    save: Annotated[
        Path | None,
        typer.Option(
            help="Also write a circuit: the edges found, with all that flows into and out of them.",
            show_default="no file",
        ),
    ] = None,
    as_json: table_options.JsonTables = False,
    as_csv: table_options.Csv = False,
    as_latex: table_options.Latex = False,
    as_markdown: table_options.Markdown = False,
    out: table_options.TablesOut = None,
) -> None:
    """Find edges by name: `*`, `?`, `{3..7}`, `{q,k}` and `!` in names, `->`, `<-` and `**` between them.

    docs/how-to/structure.md explains the queries. Loads no model.
    """
    from circuitgraph.cli.circuit_files import about_circuits, load_circuits, named_files, save_with_vectors
    from circuitgraph.cli.output import say
    from circuitgraph.cli.tables import ResultTable, TableFormat, refuse_to_replace

    files = named_files([str(circuit)])
    into = TableFormat.of(
        as_json=as_json, as_csv=as_csv, as_latex=as_latex, as_markdown=as_markdown, out=out, inputs=[circuit]
    )
    if save is not None:
        refuse_to_replace([circuit], save)
    with into.alone():
        from analysis.query.found import find as search

        loaded = load_circuits(files)
        (parent,) = loaded.values()
        found = search(parent, query)
        if save is not None:
            part = found.circuit
            save_with_vectors(part, save, [circuit])
            say(f"{len(part):,} edges written to {save}")
    shown = {"source": "from", "target": "to", "kind": "kind", "score": "score"}
    about = {"circuits": about_circuits(loaded, files), "query": query, "n_found": len(found)}
    title = f"{len(found):,} of {len(parent):,} edges fit {query}"
    into.write([ResultTable(name="edges", title=title, frame=found.table, shown=shown)], about=about)
