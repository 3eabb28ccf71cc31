"""Circuits and coarse graphs as files for other programs: GraphML, GEXF, node-link JSON and Cytoscape JSON.

Gephi opens GEXF and GraphML; Cytoscape opens GraphML and its own JSON (`.cyjs`), which Cytoscape.js shows in
a page as well; networkx and D3 read node-link JSON, and networkx reads them all. The formats are written by
networkx. What this adds is what the programs expect (labels, weights above 0), and that nothing in a name
can break a file: markup is escaped, and what XML cannot hold at all is replaced.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from analysis.drawing.escaping import xml_text
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.graph.build import STRUCTURAL

# Gephi drops edges of weight 0.
_LEAST_WEIGHT = 1e-9
_PROVENANCE = ("model", "revision", "task", "recipe", "seed", "operation", "query")


def write_graph(graph: Circuit | nx.DiGraph, path: str | Path, *, structural: bool = True) -> Path:
    """Write a circuit, or a graph such as `coarse_graph` makes, for another program.

    Nodes have `label`, `kind` and `layer`; edges `score`, `kind`, `mask` and `weight`: a circuit's `strengths`
    (|score| for any other graph), and 1e-9 where that is 0, because Gephi leaves out edges of weight 0. Structural
    edges have no weight, which programs read as 1. What a graph's nodes and edges have else is written along.

    Args:
        graph: The circuit or graph. Attributes of other types than text, numbers and booleans become JSON text;
            those that are None are left out.
        path: Where to; the suffix says what: `.graphml`, `.gexf`, `.json` (node-link, as `networkx.node_link_graph`
            reads it) or `.cyjs` (Cytoscape).
        structural: Whether to write the structural edges from a head's readers to the head. Without them no
            path runs through a head, but every edge is one of the circuit.

    Returns:
        The path.

    Raises:
        UnknownNameError: No such suffix.
        ConfigurationError: A number is not finite, the graph has parallel edges, a node's name is no text, or two
            names differ only in characters that XML cannot hold.
        OutputError: The file cannot be written.

    Examples:
        >>> import tempfile
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, {"input->m0": -2.0, "m0->logits": 1.0})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_graph(circuit, folder + "/circuit.graphml")
        ...     nx.read_graphml(path).edges["input", "m0"]["weight"]
        2.0
    """
    path = Path(path)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UnknownNameError.of("graph format", path.suffix, _WRITERS)
    if isinstance(graph, Circuit):
        graph = _with_provenance(graph)
    elif graph.is_multigraph():
        raise ConfigurationError("expected a graph with at most one edge from node to node; got a multigraph")
    return write_atomically(path, write(_prepared(graph, structural)))


def _with_provenance(circuit: Circuit) -> nx.DiGraph:
    """The circuit's graph, which also says what the circuit is of."""
    graph, provenance = circuit.graph, circuit.provenance
    for edge, strength in zip(circuit.edges, circuit.strengths.tolist(), strict=True):
        graph.edges[edge]["weight"] = max(strength, _LEAST_WEIGHT)
    told = {name: provenance[name] for name in _PROVENANCE if provenance.get(name) is not None}
    if isinstance(told.get("recipe"), Mapping):
        told["recipe"] = told["recipe"].get("name")
    graph.graph.update(told, digest=circuit.digest)
    title = [str(told[name]) for name in ("model", "task") if name in told]
    graph.graph["name"] = ", ".join(title) or circuit.universe.family
    return graph


def _prepared(graph: nx.DiGraph, structural: bool) -> nx.DiGraph:
    """A copy with labels and weights, its values plain."""
    plain = nx.DiGraph()
    plain.graph.update(_values("the graph", graph.graph))
    for name, values in graph.nodes(data=True):
        if not isinstance(name, str):
            raise ConfigurationError(f"node names must be text; got {name!r}. networkx.relabel_nodes(graph, str) helps")
        plain.add_nodes_from([(name, {"label": name, **_values(f"node {name}", values)})])
    for source, target, values in graph.edges(data=True):
        if values.get("kind") == STRUCTURAL and not structural:
            continue
        kept = _values(f"edge {source}->{target}", values)
        if isinstance(kept.get("score"), (int, float)):
            kept.setdefault("weight", max(abs(float(kept["score"])), _LEAST_WEIGHT))
        plain.add_edges_from([(source, target, kept)])
    return plain


def _values(where: str, values: Mapping[Any, Any]) -> dict[str, str | int | float | bool]:
    return {str(name): _value(f"{name} of {where}", value) for name, value in values.items() if value is not None}


def _value(where: str, value: Any) -> str | int | float | bool:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{where} is {value}; the formats hold finite numbers alone")
    if isinstance(value, (str, bool, int, float)):
        return value
    return json.dumps(value, default=str)


# -------------------------------------------------------------------- formats


def _graphml(graph: nx.DiGraph) -> bytes:
    buffer = io.BytesIO()
    nx.write_graphml_xml(_for_xml(graph), buffer, infer_numeric_types=True)
    return buffer.getvalue()


def _gexf(graph: nx.DiGraph) -> bytes:
    buffer = io.BytesIO()
    nx.write_gexf(_for_xml(graph), buffer)
    return buffer.getvalue()


def _for_xml(graph: nx.DiGraph) -> nx.DiGraph:
    """A copy whose text XML can hold."""

    def clean(value: Any) -> Any:
        return xml_text(value) if isinstance(value, str) else value

    def clean_all(values: Mapping[str, Any]) -> dict[str, Any]:
        return {xml_text(name): clean(value) for name, value in values.items()}

    names = {name: xml_text(name) for name in graph}
    seen: dict[str, str] = {}
    for name, text in names.items():
        if text in seen:
            raise ConfigurationError(f"nodes {seen[text]!r} and {name!r} have the same name in XML; rename one")
        seen[text] = name
    copy = nx.DiGraph()
    copy.graph.update(clean_all(graph.graph))
    copy.add_nodes_from((names[name], clean_all(values)) for name, values in graph.nodes(data=True))
    copy.add_edges_from((names[u], names[v], clean_all(values)) for u, v, values in graph.edges(data=True))
    return copy


def _node_link(graph: nx.DiGraph) -> str:
    return json.dumps(nx.node_link_data(graph, edges="edges"), allow_nan=False, indent=1) + "\n"


def _cytoscape(graph: nx.DiGraph) -> str:
    values = nx.cytoscape_data(graph)
    # A list of pairs there, which Cytoscape does not take for the network's table.
    values["data"] = dict(graph.graph)
    return json.dumps(values, allow_nan=False, indent=1) + "\n"


_WRITERS: dict[str, Callable[[nx.DiGraph], str | bytes]] = {
    ".graphml": _graphml,
    ".gexf": _gexf,
    ".json": _node_link,
    ".cyjs": _cytoscape,
}

FORMATS = tuple(_WRITERS)
"""Endings of files that `write_graph` writes."""
