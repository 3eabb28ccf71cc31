"""Finding edges by the names of their ends: `find(circuit, "a5.*<q> <- m*")`.

`analysis.query.language` has the grammar, `analysis.query.chains` the method. Some queries:

- `m* -> a5.*<q>` or `a5.*<q> <- m*`: edges from MLPs into queries of layer 5;
- `a5.*, m5`: edges that begin or end in layer 5 (a query without arrow);
- `input -> * -> logits`: edges of the paths with exactly one module between;
- `a3.h7 -> ** -> logits`: all edges on paths from that head to the logits;
- `** -> m9`: everything that flows into m9; `m9 -> **`: everything that m9 flows into;
- `a{0..4}.* -> a{5..9}.*<{q,k}> | m0 -> logits`: early heads into later queries and keys, or that one edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
import pandas as pd

from analysis.query.chains import edges_on_chain, edges_touching
from analysis.query.language import parse_query
from analysis.query.names import Readings, fit_steps
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.parentage import parentage
from circuitgraph.html import card, html_table

# How many edges a notebook shows.
SHOWN = 20
FOUND_COLUMNS = ("edge", "source", "target", "kind", "source_layer", "target_layer", "score")


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a query finds.

    Attributes:
        query: The query.
        parent: The circuit that was searched.
        places: Which edges were found: positions in `parent.edge_ids`, ascending `[edge]`.
    """

    query: str
    parent: Circuit
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def _repr_html_(self) -> str:
        """The query and the first edges of the table, for notebooks."""
        table = self.table.head(SHOWN)
        lines = [f"{len(self):,} of the circuit's {len(self.parent):,} edges"]
        lines += [f"the first {SHOWN}:"] if len(self) > SHOWN else []
        rows = zip(table["edge"], table["kind"], (f"{score:.4g}" for score in table["score"]), strict=True)
        return card(self.query, lines, *([html_table(["edge", "kind", "score"], rows)] if len(self) else []))

    @cached_property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Writer and reader of every edge found, in the order of the circuit."""
        return tuple(self.parent.edges[place] for place in self.places.tolist())

    @property
    def table(self) -> pd.DataFrame:
        """A row per edge: `edge`, `source`, `target`, `kind`, `source_layer`, `target_layer`, `score`.

        Layers are -1 for embeddings and the number of layers for the logits.
        """
        universe = self.parent.universe
        writers, readers = universe.endpoints(self.parent.edge_ids[self.places])
        columns = {
            "edge": ["->".join(edge) for edge in self.edges],
            "source": [source for source, _ in self.edges],
            "target": [target for _, target in self.edges],
            "kind": [self.parent.kinds[place] for place in self.places.tolist()],
            "source_layer": universe.writer_layers[writers],
            "target_layer": universe.reader_layers[readers],
            "score": self.parent.scores[self.places],
        }
        return pd.DataFrame(columns, columns=list(FOUND_COLUMNS))

    @property
    def graph(self) -> nx.DiGraph:
        """The edges found alone, with the structural edges between their ends and all attributes."""
        whole = self.parent.graph
        ends = {name for edge in self.edges for name in edge}
        graph = nx.DiGraph(**whole.graph)
        graph.add_nodes_from((name, values) for name, values in whole.nodes(data=True) if name in ends)
        wanted = set(self.edges)
        graph.add_edges_from(
            (u, v, values)
            for u, v, values in whole.edges(data=True)
            if (u, v) in wanted or ("score" not in values and u in ends and v in ends)
        )
        return graph

    @property
    def circuit(self) -> Circuit:
        """The edges found with all that flows into and out of them, as a circuit.

        Edges alone would dangle, and a circuit drops what dangles. So this keeps every edge of the parent on
        a path through an edge found, with its score.
        """
        graph = self.parent.graph
        into, out = {source for source, _ in self.edges}, {target for _, target in self.edges}
        # Plain sweeps, for the graph lists its nodes in the order of the computation.
        for node in reversed(list(graph)):
            if not into.isdisjoint(graph.succ[node]):
                into.add(node)
        for node in graph:
            if not out.isdisjoint(graph.pred[node]):
                out.add(node)
        found = set(self.edges)
        keep = [(u, v) in found or v in into or u in out for u, v in self.parent.edges]
        return Circuit.from_edges(
            self.parent.universe,
            self.parent.edge_ids[keep],
            scores=self.parent.scores[keep],
            ablation=self.parent.ablation,
            provenance={**parentage("find", [self.parent]), "method": "find", "query": self.query},
        )


def find(circuit: Circuit, query: str) -> Found:
    """Find edges by the names of their ends, and by the paths they lie on.

    Args:
        circuit: The circuit.
        query: As described above and in `analysis.query.language`.

    Returns:
        The edges, as a table (`.table`), as a graph (`.graph`), and as a circuit with what flows into and out
        of them (`.circuit`). There may be none: the names are the universe's, and the circuit need not have
        them.

    Raises:
        ConfigurationError: The query cannot be read, or a step stands where its names cannot (a port where
            something writes, the logits before an arrow); the message points at the column.
        UnknownNameError: A name or a pattern that fits nothing in the universe.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
        >>> edges = ["input->m0", "m0->a1.h0<q>", "m0->a1.h1<k>", "a1.h0->logits", "a1.h1->logits"]
        >>> circuit = Circuit.from_edges(universe, edges)
        >>> find(circuit, "a1.*<q> <- m*").table["edge"].tolist()
        ['m0->a1.h0<q>']
        >>> find(circuit, "input -> ** -> a1.h1").table["edge"].tolist()
        ['input->m0', 'm0->a1.h1<k>']
        >>> list(find(circuit, "a1.h1").circuit)
        ['input->m0', 'm0->a1.h1<k>', 'a1.h1->logits']
    """
    readings = Readings.of(circuit.universe)
    found = np.zeros(len(circuit), dtype=bool)
    for chain in parse_query(query):
        steps = fit_steps(circuit.universe, readings, query, chain)
        if len(steps) == 1:
            found |= edges_touching(circuit, readings, steps[0])
        else:
            found |= edges_on_chain(circuit, readings, steps)
    return Found(query=query, parent=circuit, places=np.flatnonzero(found))
