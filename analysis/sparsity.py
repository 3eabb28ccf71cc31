"""How large a circuit is, where it lies, how deep it goes, and how its scores are spread, as tidy tables.

All counts come from flat edge indices and closed-form totals; no graph is built. Every share has its
denominator beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.comparable import Circuits, named_circuits
from analysis.strata import Strata, node_groups, strata
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import EDGE_KINDS, WRITER_KINDS, Universe

_NODE_KINDS = ("embedding", "vector", "head", "mlp", "q", "k", "v", "qkv", "logits")
_COUNT_DTYPES = {"layer": "Int64", "kind": "string", "kept": "int64", "total": "int64"}
# Stage, part, by, layer, kind, kept, total.
_Row = tuple[str, str, str, int | None, str | None, int, int]


def sparsity_table(circuits: Circuits) -> pd.DataFrame:
    """Count the edges, nodes, heads and MLPs of circuits, by layer and by kind.

    Circuits need not be of one universe: every row carries its own denominator.

    Args:
        circuits: One circuit, several, or names with their circuits.

    Returns:
        One row a count, with the columns

        - `circuit` (str): its name;
        - `stage` (str): `raw`, before dangling edges were dropped, or `effective`. A circuit keeps of its
          raw edges only their number, so `raw` has one row; all else is effective;
        - `part` (str): `edges`, `nodes` (writers and readers), `heads`, `mlps`, or `depth`: the edges on the
          longest path, of the most there could be;
        - `by` (str): `all`, `reader_layer`, `writer_layer`, `reader_kind`, `writer_kind`, `layer` or `kind`; with
          spans of token positions also `span`, whose name stands under `kind`;
        - `layer` (Int64): the layer, -1 for embeddings, the number of layers for the logits; missing in rows
          that are not by layer;
        - `kind` (string): the kind; missing in rows that are not by kind;
        - `kept`, `total` (int64): the count, and its denominator in the universe;
        - `density` (float64): kept / total;
        - `sparsity` (float64): 1 - density.

    Raises:
        ConfigurationError: There is no circuit.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> edges = ["input->a0.h1<v>", "a0.h1->logits", "a0.h0->logits"]
        >>> table = sparsity_table(Circuit.from_edges(universe, edges))
        >>> print(table.query("part == 'edges' and by == 'all'")[["stage", "kept", "total", "sparsity"]])
               stage  kept  total  sparsity
        0        raw     3     13  0.769231
        1  effective     2     13  0.846154
    """
    rows: list[tuple[object, ...]] = []
    for name, circuit in named_circuits(circuits).items():
        rows += [(name, *row) for row in _count_rows(circuit)]
    columns = ["circuit", "stage", "part", "by", "layer", "kind", "kept", "total"]
    table = pd.DataFrame(rows, columns=columns).astype(_COUNT_DTYPES)
    table["density"] = table["kept"] / table["total"]
    table["sparsity"] = 1 - table["density"]
    return table


def block_density(circuits: Circuits, *, kinds: bool = False) -> pd.DataFrame:
    """Count the edges between each pair of layers.

    Args:
        circuits: One circuit, several, or names with their circuits.
        kinds: Whether to tell kinds of writers and readers apart.

    Returns:
        One row for every circuit and every pair of layers that the universe joins, kept edges or none, with
        the columns `circuit` (str), `writer_layer` (int64, -1 for embeddings), `reader_layer` (int64, the
        number of layers for the logits), with `kinds` also `writer_kind` and `reader_kind` (str), then `kept`
        and `total` (int64) and `density` (float64), which is kept / total.

    Raises:
        ConfigurationError: There is no circuit.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.h1<v>", "a0.h1->logits"])
        >>> print(block_density(circuit).drop(columns="circuit"))
           writer_layer  reader_layer  kept  total   density
        0            -1             0     1      7  0.142857
        1            -1             1     0      1  0.000000
        2             0             0     0      2  0.000000
        3             0             1     1      3  0.333333
    """
    by = ["writer_layer", "reader_layer", *(["writer_kind", "reader_kind"] if kinds else [])]
    tables = []
    for name, circuit in named_circuits(circuits).items():
        groups = strata(circuit.universe)
        writer, reader = np.nonzero(groups.sizes)
        edges = {
            "writer_layer": groups.writer_layers[writer],
            "reader_layer": groups.reader_layers[reader],
            "writer_kind": groups.writer_kinds[writer],
            "reader_kind": groups.reader_kinds[reader],
            "kept": groups.counts(circuit.universe, circuit.edge_ids)[writer, reader],
            "total": groups.sizes[writer, reader],
        }
        table = pd.DataFrame(edges).groupby(by, as_index=False).agg({"kept": "sum", "total": "sum"})
        table.insert(0, "circuit", name)
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    table["density"] = table["kept"] / table["total"]
    return table


def score_concentration(circuits: Circuits, *, top: Sequence[int] = (1, 10, 100, 1000)) -> pd.DataFrame:
    """How much of the edge scores the strongest edges hold.

    Args:
        circuits: One circuit, several, or names with their circuits.
        top: Numbers of edges.

    Returns:
        One row per circuit and number, with the columns `circuit` (str), `top` and `n_edges` (int64),
        `total_score` (float64), the sum of the strengths (|score|, see `Circuit.strengths`), and `share`
        (Float64), the part of it that the `top` strongest edges hold: 1 where the circuit has no more edges, and
        missing where `total_score` is 0.

    Raises:
        ConfigurationError: There is no circuit, or a number is below 1.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, {"input->logits": -6.0, "input->m0": 3.0, "m0->logits": 1.0})
        >>> score_concentration(circuit, top=[1, 2])["share"].tolist()
        [0.6, 0.9]
    """
    for number in top:
        if number < 1:
            raise ConfigurationError(f"top: expected numbers of edges of at least 1; got {number}")
    rows = []
    for name, circuit in named_circuits(circuits).items():
        cumulative = np.cumsum(np.sort(circuit.strengths)[::-1])
        total = float(cumulative[-1]) if len(cumulative) else 0.0
        for number in top:
            share = float(cumulative[min(number, len(circuit)) - 1]) / total if total else None
            rows.append((name, number, len(circuit), total, share))
    table = pd.DataFrame(rows, columns=["circuit", "top", "n_edges", "total_score", "share"])
    return table.astype({"top": "int64", "total_score": "float64", "share": "Float64"})


def depth(circuit: Circuit) -> int:
    """The number of kept edges on the longest path to the logits; 0 for an empty circuit.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> depth(Circuit.from_edges(universe, ["input->a0.h1<v>", "a0.h1->m0", "m0->logits"]))
        3
    """
    universe = circuit.universe
    writers, readers = universe.endpoints(circuit.edge_ids)
    at_writer = np.zeros(universe.n_writers, dtype=np.int64)
    deepest = 0
    # Blocks come in the order in which they read, so a writer's depth is known before anything reads it.
    for index in range(len(universe.without_spans.blocks)):
        before: np.ndarray | int = 0  # keys and values of spans before, which heads read too
        for part in universe.parts:
            if index == len(part.blocks):
                continue
            block, start = part.blocks[index], part.edges.start
            first, last = np.searchsorted(circuit.edge_ids, [start + block.edges.start, start + block.edges.stop])
            at_readers = np.zeros(block.n_readers, dtype=np.int64)
            rows = readers[first:last] - part.readers.start - block.first_reader
            np.maximum.at(at_readers, rows, at_writer[writers[first:last]] + 1)
            if block.kind == "logits":
                deepest = max(deepest, int(at_readers[0]))
            at_writer[part.writers][block.written] = np.maximum(at_readers, before)[block.readers_of].max(1, initial=0)
            before = np.maximum(before, np.where(block.elsewhere, at_readers, 0))
    return deepest


# -------------------------------------------------------------------- rows of the sparsity table


def _count_rows(circuit: Circuit) -> Iterator[_Row]:
    universe = circuit.universe
    yield "raw", "edges", "all", None, None, circuit.n_raw, universe.n_edges
    yield "effective", "edges", "all", None, None, len(circuit), universe.n_edges
    yield from _edge_rows(circuit, strata(universe))
    for part in universe.parts if universe.spans else ():
        kept = ((circuit.edge_ids >= part.edges.start) & (circuit.edge_ids < part.edges.stop)).sum()
        yield "effective", "edges", "span", None, part.span, int(kept), part.edges.stop - part.edges.start
    writers, readers = (np.unique(ends) for ends in universe.endpoints(circuit.edge_ids))
    yield from _node_rows(universe, writers, readers)
    for part, kind in (("heads", "head"), ("mlps", "mlp")):
        all_layers = universe.writer_layers[universe.writer_kinds == kind]
        layers = universe.writer_layers[writers[universe.writer_kinds[writers] == kind]]
        yield "effective", part, "all", None, None, len(layers), len(all_layers)
        yield from _by_layer(part, "layer", layers, all_layers)
    layers_deep = 1 if universe.block_order == "parallel" else 2
    yield "effective", "depth", "all", None, None, depth(circuit), layers_deep * universe.n_layers + 1


def _edge_rows(circuit: Circuit, groups: Strata) -> Iterator[_Row]:
    kept, total = groups.counts(circuit.universe, circuit.edge_ids), groups.sizes
    ends = (
        ("reader", 0, groups.reader_layers, groups.reader_kinds, EDGE_KINDS),
        ("writer", 1, groups.writer_layers, groups.writer_kinds, WRITER_KINDS),
    )
    for end, other_axis, layers, kinds, order in ends:
        kept_here, total_here = kept.sum(other_axis), total.sum(other_axis)
        for layer in np.unique(layers).tolist():
            here = layers == layer
            yield "effective", "edges", f"{end}_layer", layer, None, kept_here[here].sum(), total_here[here].sum()
        for kind in order:
            here = kinds == kind
            if here.any():
                yield "effective", "edges", f"{end}_kind", None, kind, kept_here[here].sum(), total_here[here].sum()


def _node_rows(universe: Universe, writers: np.ndarray, readers: np.ndarray) -> Iterator[_Row]:
    layers, kinds = node_groups(universe, writers, readers)
    all_layers, all_kinds = node_groups(universe, np.arange(universe.n_writers), np.arange(universe.n_readers))
    yield "effective", "nodes", "all", None, None, len(layers), len(all_layers)
    yield from _by_layer("nodes", "layer", layers, all_layers)
    for kind in _NODE_KINDS:
        total = int((all_kinds == kind).sum())
        if total:
            yield "effective", "nodes", "kind", None, kind, int((kinds == kind).sum()), total


def _by_layer(part: str, by: str, layers: np.ndarray, all_layers: np.ndarray) -> Iterator[_Row]:
    for layer in np.unique(all_layers).tolist():
        yield "effective", part, by, layer, None, int((layers == layer).sum()), int((all_layers == layer).sum())
