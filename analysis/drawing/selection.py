"""Which edges of a large circuit to draw: the strongest, and what joins them to the input and the logits.

1. For every node find the best way in from an embedding and the best way out to the logits, where a way is
   as good as its weakest edge (widest paths; the graph has no cycles, so one sweep each way does).
2. Go through the edges, strongest first, and take each together with its ways in and out, as long as the
   total stays within the limit.

So no drawn edge dangles, unless the circuit's own ablation lets writers without inputs stand.
"""

from __future__ import annotations

import math

import networkx as nx

from circuitgraph.circuit import Circuit

Edge = tuple[str, str]


def strongest_edges(circuit: Circuit, max_edges: int) -> list[int]:
    """Choose the edges to draw.

    Args:
        circuit: The circuit.
        max_edges: How many at most.

    Returns:
        Places in `circuit.edge_ids`, ascending; all of them if they fit.
    """
    if len(circuit) <= max_edges:
        return list(range(len(circuit)))
    graph = circuit.graph
    way_in, way_out = _best_ways(graph), _best_ways(graph.reverse(copy=False))
    place = {edge: index for index, edge in enumerate(circuit.edges)}
    chosen: set[int] = set()
    for index in sorted(range(len(circuit)), key=lambda index: (-abs(circuit.scores[index]), index)):
        source, target = circuit.edges[index]
        before = [(u, v) for v, u in _follow(way_in, source)]
        joined = {index, *(place[edge] for edge in (*before, *_follow(way_out, target)) if edge in place)}
        if len(chosen | joined) <= max_edges:
            chosen |= joined
    return sorted(chosen)


def _best_ways(graph: nx.DiGraph) -> dict[str, str]:
    """For every node the neighbour before it on the widest path from a node without predecessors."""
    width: dict[str, float] = {}
    best: dict[str, str] = {}
    for node in nx.topological_sort(graph):
        width[node] = -1.0 if graph.pred[node] else math.inf
        for before, _, score in graph.in_edges(node, data="score"):
            # A structural edge has no score and narrows nothing.
            reach = min(width[before], math.inf if score is None else abs(score))
            if reach > width[node]:
                width[node], best[node] = reach, before
    return best


def _follow(best: dict[str, str], node: str) -> list[Edge]:
    """Steps `(node, neighbour)` from a node to the end of its best way."""
    steps = []
    while node in best:
        steps.append((node, best[node]))
        node = best[node]
    return steps
