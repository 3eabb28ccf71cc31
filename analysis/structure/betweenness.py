"""Betweenness on weighted edges: on what share of the shortest paths does a module lie?

Brandes' algorithm (2001), for all sources at once and without a queue, because a circuit has no cycles.

1. Forward, in the order of the computation: the distance of every node from each source, and the number of
   shortest paths to it.
2. Backward: each node hands what depends on it to its predecessors on shortest paths, in the proportion of
   their numbers of paths.

Structural edges have length 0. networkx's own function takes a source at a time, and counts paths over edges
of length 0 wrongly; where all lengths are positive, the tests hold it against this one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.structure.modules import modules_of
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.build import STRUCTURAL
from circuitgraph.graph.universe import SOURCES

LENGTHS = ("inverse", "hops")
PAIRS = ("modules", "ends")
# Sources taken at once: enough to make numpy fast, few enough for the memory of a laptop.
_AT_ONCE = 256
# Two sums of the same lengths in another order may differ in their last digits.
_EQUAL = 1e-12

# A node's predecessors `[predecessor]` and the lengths of the edges from them `[predecessor 1]`.
_Inputs = tuple[np.ndarray, np.ndarray]


def betweenness(circuit: Circuit, *, length: str = "inverse", between: str = "modules") -> pd.DataFrame:
    """Betweenness of the circuit's modules, the largest first.

    Args:
        circuit: The circuit.
        length: `inverse`: an edge is 1 / |score| long, so that strong edges are short (an edge of score 0 is
            on no shortest path); `hops`: every edge is 1 long.
        between: `modules`: shortest paths between all ordered pairs of the other modules, as a share of the
            (n - 1)(n - 2) pairs; `ends`: only those from an embedding to the logits, as a share of the
            embeddings that reach the logits.

    Returns:
        A row a module: `node`, `kind`, `layer`, `betweenness` from 0 to 1; equal ones in the order of the
        computation. Ends of a path are not between. With fewer than three modules all are 0; an empty
        circuit has no rows.

    Raises:
        UnknownNameError: No such length or pairs.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> scores = {"input->m0": 4.0, "m0->logits": 4.0, "input->logits": 1.0}
        >>> table = betweenness(Circuit.from_edges(universe, scores), between="ends")
        >>> dict(zip(table["node"], table["betweenness"]))
        {'m0': 1.0, 'input': 0.0, 'logits': 0.0}
    """
    for kind, name, valid in (("length", length, LENGTHS), ("pairs", between, PAIRS)):
        if name not in valid:
            raise UnknownNameError.of(kind, name, valid)
    modules = modules_of(circuit)
    names, inputs = _inputs(circuit, length)
    place = {name: index for index, name in enumerate(names)}
    is_target = np.zeros((len(names), 1), dtype=bool)
    is_target[[place[name] for name in modules if between == "modules" or name == "logits"]] = True
    sources = [place[name] for name, (kind, _) in modules.items() if between == "modules" or kind in SOURCES]
    total, n_pairs = np.zeros(len(names)), 0
    for chosen in _chunks(sources):
        lying_between, n_connected = _dependencies(inputs, chosen, is_target)
        total += lying_between
        n_pairs += n_connected
    if between == "modules":
        n_pairs = (len(modules) - 1) * (len(modules) - 2)
    rows = [
        {"node": name, "kind": kind, "layer": layer, "betweenness": total[place[name]] / max(n_pairs, 1)}
        for name, (kind, layer) in modules.items()
    ]
    table = pd.DataFrame(rows, columns=["node", "kind", "layer", "betweenness"])
    return table.sort_values("betweenness", ascending=False, kind="stable", ignore_index=True)


def _inputs(circuit: Circuit, length: str) -> tuple[list[str], list[_Inputs]]:
    """Nodes in the order of the computation, each with its predecessors and how far they are."""
    graph = circuit.graph
    for edge, strength in zip(circuit.edges, circuit.strengths.tolist(), strict=True):
        graph.edges[edge]["strength"] = strength
    place = {name: index for index, name in enumerate(graph)}
    inputs = []
    for name in graph:
        before = [place[other] for other in graph.pred[name]]
        lengths = [_length(values, length) for values in graph.pred[name].values()]
        inputs.append((np.array(before, dtype=np.int64), np.array(lengths, dtype=np.float64)[:, None]))
    return list(graph), inputs


def _length(values: dict[str, object], length: str) -> float:
    if values["kind"] == STRUCTURAL:
        return 0.0
    if length == "hops":
        return 1.0
    with np.errstate(divide="ignore", over="ignore"):
        return float(1 / np.float64(values["strength"]))  # type: ignore[arg-type]


def _chunks(sources: list[int]) -> Iterator[np.ndarray]:
    for first in range(0, len(sources), _AT_ONCE):
        yield np.array(sources[first : first + _AT_ONCE])


def _dependencies(inputs: list[_Inputs], sources: np.ndarray, is_target: np.ndarray) -> tuple[np.ndarray, int]:
    """How much of the shortest paths from some sources to the targets passes every node between.

    Args:
        inputs: Predecessors and distances to them, by node.
        sources: Nodes `[source]`.
        is_target: Whether paths to a node count `[node 1]`.

    Returns:
        Sums over pairs of source and target `[node]`, and the number of pairs that are joined.
    """
    distance = np.full((len(inputs), len(sources)), np.inf)
    n_paths = np.zeros_like(distance)
    own = (sources, np.arange(len(sources)))
    for node, (before, lengths) in enumerate(inputs):
        if len(before):
            distance[node] = (distance[before] + lengths).min(0)
            n_paths[node] = (n_paths[before] * _shortest(distance, node, before, lengths)).sum(0)
        here = sources == node
        distance[node, here], n_paths[node, here] = 0.0, 1.0
    joined = np.isfinite(distance)
    joined[own] = False
    depends = np.zeros_like(distance)
    for node in reversed(range(len(inputs))):
        before, lengths = inputs[node]
        share = np.zeros(len(sources))
        np.divide(is_target[node] + depends[node], n_paths[node], out=share, where=joined[node])
        if len(before):
            depends[before] += n_paths[before] * _shortest(distance, node, before, lengths) * share
    depends[own] = 0.0
    return depends.sum(1), int((joined & is_target).sum())


def _shortest(distance: np.ndarray, node: int, before: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Which predecessors of a node are on shortest paths to it `[predecessor source]`."""
    arriving = distance[before] + lengths
    return np.isfinite(arriving) & (arriving <= distance[node] * (1 + _EQUAL))
