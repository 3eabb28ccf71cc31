"""`circuitgraph sparsity`: how large saved circuits are, where they lie, and how their scores are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import table_options

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.tables import ResultTable

_ALL, _LAYER, _KIND, _SPAN, _BLOCK, _SCORE = _BY = ("all", "layer", "kind", "span", "block", "score")


def sparsity(
    circuits: table_options.CircuitFiles,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="all: edges, nodes, heads, MLPs and depth; layer or kind: the same by that; span: edges at each span "
            "of tokens; block: edges from layer to layer; score: how much of the scores the strongest edges hold. May "
            "be repeated.",
            show_default=_ALL,
        ),
    ] = None,
    as_json: table_options.JsonTables = False,
    as_csv: table_options.Csv = False,
    as_latex: table_options.Latex = False,
    as_markdown: table_options.Markdown = False,
    out: table_options.TablesOut = None,
) -> None:
    """Count what circuits keep, each count with its denominator.

    Loads no model; the circuits need not be of one graph. "raw" counts edges before those on no path were
    dropped, "effective" after. CSV holds one of the tables.
    """
    from circuitgraph.cli.circuit_files import about_circuits, load_circuits, named_files
    from circuitgraph.cli.tables import TableFormat
    from circuitgraph.errors import UnknownNameError

    files = named_files(circuits)
    into = TableFormat.of(
        as_json=as_json, as_csv=as_csv, as_latex=as_latex, as_markdown=as_markdown, out=out,
        inputs=list(files.values()),
    )  # fmt: skip
    chosen = list(dict.fromkeys(by or [_ALL]))
    for name in chosen:
        if name not in _BY:
            raise UnknownNameError.of("--by", name, _BY)
    with into.alone():
        found = load_circuits(files)
        tables = _tables(found, chosen)
    into.write(tables, about={"circuits": about_circuits(found, files)})


def _tables(circuits: Mapping[str, Circuit], chosen: list[str]) -> list[ResultTable]:
    tables = []
    if _SPAN in chosen:
        _require_spans(circuits)
    if {_ALL, _LAYER, _KIND, _SPAN} & set(chosen):
        from analysis.sparsity import sparsity_table

        counts = sparsity_table(circuits)
        tables += [_counts(counts, name, circuits) for name in chosen if name not in (_BLOCK, _SCORE)]
    if _BLOCK in chosen:
        tables.append(_blocks(circuits))
    if _SCORE in chosen:
        tables.append(_scores(circuits))
    return tables


def _require_spans(circuits: Mapping[str, Circuit]) -> None:
    from circuitgraph.errors import ConfigurationError

    for name, circuit in circuits.items():
        if not circuit.universe.spans:
            raise ConfigurationError(
                f"--by span: the edges of {name} are not divided by spans of tokens; leave it out, or find a circuit "
                "with discover --spans"
            )


def _counts(counts: pd.DataFrame, by: str, circuits: Mapping[str, Circuit]) -> ResultTable:
    """The rows of the sparsity table that are in all, by layer, by kind or by span."""
    from circuitgraph.cli.tables import ResultTable

    frame = counts.query("by == @by or by.str.endswith('_' + @by)").reset_index(drop=True)
    ends = {
        _ALL: {"stage": "stage"}, _LAYER: {"by": "by", "layer": "layer"}, _KIND: {"by": "by", "kind": "kind"},
        _SPAN: {"kind": "span"},
    }  # fmt: skip
    counted = {"kept": "kept", "total": "of", "density": "kept share", "sparsity": "cut share"}
    titles = {_ALL: "Size", _LAYER: "By layer", _KIND: "By kind", _SPAN: "By span of tokens"}
    people = frame.assign(by=frame["by"].str.replace("_", " "))
    if by == _LAYER:
        people["layer"] = _layer_names(frame, "layer", circuits)
    return ResultTable(
        name=by,
        title=titles[by],
        frame=frame,
        shown={"circuit": "circuit", "part": "part", **ends[by], **counted},
        for_people=people,
    )


def _blocks(circuits: Mapping[str, Circuit]) -> ResultTable:
    from analysis.sparsity import block_density
    from circuitgraph.cli.tables import ResultTable

    frame = block_density(circuits)
    kept = frame.query("kept > 0")
    people = kept.assign(
        writer_layer=_layer_names(kept, "writer_layer", circuits),
        reader_layer=_layer_names(kept, "reader_layer", circuits),
    )
    shown = {
        "circuit": "circuit", "writer_layer": "from", "reader_layer": "to", "kept": "kept", "total": "of",
        "density": "kept share",
    }  # fmt: skip
    title = "From layer to layer, where edges are kept"
    return ResultTable(name=_BLOCK, title=title, frame=frame, shown=shown, for_people=people)


def _scores(circuits: Mapping[str, Circuit]) -> ResultTable:
    from analysis.sparsity import score_concentration
    from circuitgraph.cli.tables import ResultTable

    shown = {
        "circuit": "circuit", "top": "strongest edges", "n_edges": "of", "total_score": "sum of |scores|",
        "share": "they hold",
    }  # fmt: skip
    return ResultTable(name=_SCORE, title="How the scores are spread", frame=score_concentration(circuits), shown=shown)


def _layer_names(frame: pd.DataFrame, column: str, circuits: Mapping[str, Circuit]) -> list[str]:
    """Layers as people call them: the embeddings, a number, or the logits."""
    names = []
    for circuit, layer in zip(frame["circuit"].tolist(), frame[column].tolist(), strict=True):
        last = circuits[circuit].universe.n_layers
        names.append({-1: "embeddings", last: "logits"}.get(layer, str(layer)))
    return names
